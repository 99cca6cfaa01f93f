"""What HTTP itself refuses, and the headers of MCP."""

import json
import re
from typing import Any

import msgspec
import pytest

from tests.conftest import ROOT
from tests.protocol import tools_under_test
from tests.protocol.gateways import HOST, META, MODERN, Answered, Client, Cluster
from thornback.cluster.catalog import Catalog
from thornback.tools import conformance

pytestmark = pytest.mark.anyio
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
USUAL = [
    ("host", HOST),
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
]


@pytest.mark.requirement("http:post-only")
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS", "HEAD", "PATCH"])
@pytest.mark.parametrize("version", [None, "2025-11-25", MODERN])
async def test_only_post_is_allowed(client: Client, method: str, version: str | None) -> None:
    answered = await client.send(b"", {"mcp-protocol-version": version}, method=method)
    assert (answered.status, answered.headers["allow"]) == (405, "POST")
    assert answered.error["code"] == -32600


@pytest.mark.requirement("http:json-bodies")
@pytest.mark.parametrize("path", ["/", "/mcp/", "/MCP", "/sse", "/mcp/../healthz"])
async def test_elsewhere_is_404_in_json(client: Client, path: str) -> None:
    answered = await client.send(b"", path=path)
    assert (answered.status, answered.headers["content-type"]) == (404, "application/json")
    json.loads(answered.body)


@pytest.mark.requirement("http:health")
async def test_health_is_told_whatever_the_host(cluster: Cluster) -> None:
    client = cluster.gateway()
    for path in ("/healthz", "/readyz"):
        answered = await client.send(b"", {"host": "10.0.0.7:30001"}, method="GET", path=path)
        assert answered.status == 200


@pytest.mark.requirement("http:health")
async def test_what_operators_are_told_that_clients_find_is_there(client: Client) -> None:
    page = (ROOT / "docs/operator.md").read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| `gateway.port` |")]
    paths = re.findall(r"`(/[^`]+)`", row)
    statuses = {path: (await client.send(b"", path=path)).status for path in paths}
    assert statuses == {"/mcp": 400, "/resources/sha256/...": 405, "/healthz": 200, "/readyz": 200}


@pytest.mark.requirement("http:health")
async def test_a_gateway_without_a_catalog_is_not_ready(cluster: Cluster) -> None:
    client = cluster.gateway()
    cluster.catalogs.catalog = Catalog.empty()
    assert (await client.send(b"", method="GET", path="/healthz")).status == 200
    for answered in (
        await client.send(b"", method="GET", path="/readyz"),
        await client.call("tools/list"),
    ):
        assert (answered.status, answered.headers["retry-after"]) == (503, "1")


@pytest.mark.requirement("http:content-type")
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": None},
        {"content-type": "text/plain"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "multipart/form-data"},
        {"content-encoding": "gzip"},
        {"content-encoding": "identity, gzip"},
    ],
)
async def test_a_body_that_is_not_plain_json_is_415(
    client: Client, headers: dict[str, str | None]
) -> None:
    assert (await client.send(PING, headers)).status == 415


@pytest.mark.requirement("http:content-type")
@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
async def test_spellings_of_json_are_accepted(client: Client, kind: str) -> None:
    assert (await client.send(PING, {"content-type": kind})).status == 200


@pytest.mark.requirement("http:accept")
@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json, text/event-stream", 200),
        ("text/event-stream;q=0.5, application/json;q=0.9", 200),
        ("*/*", 200),
        (None, 200),
        ("application/*, text/*", 200),
        ("application/json", 406),
        ("text/event-stream", 406),
        ("text/html", 406),
        ("application/json, text/event-stream;q=0", 406),
    ],
)
async def test_a_client_must_read_both_forms_of_answer(
    client: Client, accept: str | None, status: int
) -> None:
    assert (await client.send(PING, {"accept": accept})).status == status


GOOD_HOSTS = ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "mcp.example"]
WRONG_HOSTS = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1",
    "localhost",
    "127.0.0.1:8001",
    "127.0.0.1:80000",
    "127.0.0.1:8000.evil.example",
    "127.0.0.1:evil.example",
    "127.0.0.1:8000@evil.example",
    "evil.example@127.0.0.1:8000",
    "localhost.evil.example:8000",
    "evil-localhost:8000",
    "LOCALHOST:8000",
    "localhost.:8000",
    "127.1:8000",
    "2130706433:8000",
    "0x7f000001:8000",
    "0.0.0.0:8000",
    "[::]:8000",
    "[::ffff:127.0.0.1]:8000",
    "::1:8000",
    " ",
    "mcp.example:443",
    "notmcp.example",
]
WRONG_ORIGINS = [
    "null",
    "",
    "http://evil.example",
    "https://127.0.0.1:8000",
    "http://127.0.0.1",
    "http://127.0.0.1:8001",
    "http://localhost",
    "http://localhost.evil.example:8000",
    "http://localhost:8000.evil.example",
    "http://127.0.0.1:80@evil.example",
    "http://127.0.0.1:8000@evil.example",
    "http://127.0.0.1:8000/",
    "http://127.0.0.1:8000, http://evil.example",
    "http://127.0.0.1:8000 http://evil.example",
    "HTTP://127.0.0.1:8000",
    "http://LOCALHOST:8000",
    "http://[::]:8000",
    "http://[::1]",
    "http://0.0.0.0:8000",
    "127.0.0.1:8000",
    "file://",
    "https://app.example.evil",
    "https://app.example:443",
    "http://app.example",
]


def configured() -> Client:
    config = {"allowed_hosts": ["mcp.example"], "allowed_origins": ["https://app.example"]}
    return Cluster([tools_under_test], config=config).gateway()


@pytest.mark.requirement("http:host")
@pytest.mark.parametrize("host", GOOD_HOSTS)
async def test_a_host_on_the_list_is_served(host: str) -> None:
    assert (await configured().send(PING, {"host": host})).status == 200


@pytest.mark.requirement("http:host")
@pytest.mark.parametrize("host", WRONG_HOSTS)
async def test_any_other_host_is_421(host: str) -> None:
    answered = await configured().send(PING, {"host": host})
    assert (answered.status, answered.error["code"]) == (421, -32600)


@pytest.mark.requirement("http:host")
async def test_no_host_is_421(client: Client) -> None:
    assert (await client.send(PING, {"host": None})).status == 421


@pytest.mark.requirement("http:origin")
@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8000", "http://localhost:8000", "https://app.example", None]
)
async def test_an_origin_on_the_list_or_none_is_served(origin: str | None) -> None:
    assert (await configured().send(PING, {"origin": origin})).status == 200


@pytest.mark.requirement("http:origin")
@pytest.mark.parametrize("origin", WRONG_ORIGINS)
async def test_any_other_origin_is_403(origin: str) -> None:
    answered = await configured().send(PING, {"origin": origin})
    assert (answered.status, answered.error["code"]) == (403, -32600)


@pytest.mark.requirement("http:serve-switches")
@pytest.mark.parametrize("name", ["x-request-timeout-seconds", "x-request-disconnect-disabled"])
async def test_switches_of_ray_serve_are_refused(client: Client, name: str) -> None:
    assert (await client.send(PING, {name: "?1"})).status == 400


@pytest.mark.requirement("http:serve-switches")
async def test_two_lengths_of_one_body_are_refused(client: Client) -> None:
    assert (await client.send(PING, {"transfer-encoding": "chunked"})).status == 400


@pytest.mark.requirement("http:doubled-headers")
@pytest.mark.parametrize("name", ["host", "origin", "content-type", "mcp-session-id"])
async def test_a_doubled_header_is_refused(client: Client, name: str) -> None:
    doubled = [*USUAL, (name, dict(USUAL).get(name, "a")), (name.upper(), "b")]
    assert (await client.send(PING, doubled)).status == 400


@pytest.mark.requirement("http:doubled-headers")
@pytest.mark.parametrize("name", ["mcp-method", "mcp-name", "mcp-protocol-version"])
async def test_a_doubled_routing_header_is_a_mismatch(client: Client, name: str) -> None:
    answered = await client.send(PING, [*USUAL, (name, "a"), (name, "a")])
    assert (answered.status, answered.error["code"]) == (400, -32020)


@pytest.mark.requirement("http:doubled-headers")
async def test_headers_without_end_are_431(client: Client) -> None:
    assert (await client.send(PING, {"x-padding": "x" * 40_000})).status == 431


@pytest.mark.requirement("headers:match-body")
@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-method": None},
        {"mcp-method": "tools/list"},
        {"mcp-method": "Tools/Call"},
        {"mcp-name": None},
        {"mcp-name": "sub"},
        {"mcp-name": "ADD"},
        {"mcp-name": "=?base64?c3Vi?="},
        {"mcp-name": "=?base64?YWRk"},
        {"mcp-name": "=?base64?not base64?="},
    ],
)
async def test_a_routing_header_must_match_the_body(
    client: Client, headers: dict[str, str | None]
) -> None:
    answered = await client.tool("add", {"a": 1, "b": 2}, headers=headers, rpc_id="seven")
    assert (answered.status, answered.error["code"]) == (400, -32020)
    assert answered.json["id"] == "seven"


@pytest.mark.requirement("headers:match-body")
async def test_a_name_may_be_sent_in_base64(client: Client) -> None:
    answered = await client.tool("add", {"a": 1, "b": 2}, headers={"mcp-name": "=?base64?YWRk?="})
    assert answered.text == "3"


@pytest.mark.requirement("headers:version-match")
@pytest.mark.parametrize("version", [None, "2025-11-25", "2024-11-05", "2099-01-01"])
async def test_the_version_of_header_and_body_must_agree(
    client: Client, version: str | None
) -> None:
    answered = await client.tool("add", {"a": 1, "b": 2}, headers={"mcp-protocol-version": version})
    assert (answered.status, answered.error["code"]) == (400, -32020)


@pytest.mark.requirement("version:unknown")
@pytest.mark.parametrize("in_body", [True, False])
async def test_an_unknown_revision_is_told_what_there_is(client: Client, in_body: bool) -> None:
    version = "2099-01-01"
    about = {f"{META}protocolVersion": version, f"{META}clientCapabilities": {}}
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    if in_body:
        message["params"] = {"_meta": about}
    headers = {"mcp-protocol-version": version, "mcp-method": "tools/list"}
    answered = await client.send(json.dumps(message).encode(), headers)
    assert (answered.status, answered.error["code"]) == (400, -32022)
    assert answered.error["data"]["supported"] == [MODERN]
    assert answered.error["data"]["requested"] == version


@pytest.mark.requirement("envelope:required")
@pytest.mark.parametrize("key", ["protocolVersion", "clientCapabilities"])
async def test_a_request_must_say_what_it_is(client: Client, key: str) -> None:
    about: dict[str, Any] = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
    del about[f"{META}{key}"]
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": about}}
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "tools/list"}
    answered = await client.send(json.dumps(message).encode(), headers)
    assert (answered.status, answered.error["code"]) == (400, -32602)
    assert key in answered.error["message"]


@pytest.mark.requirement("headers:params")
@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("us-west1", 200),
        ("=?base64?dXMtd2VzdDE=?=", 200),
        ("us-east1", 400),
        (None, 400),
        ("=?base64?dXMtd2VzdDE?=", 400),
        ("=?base64?!?=", 400),
    ],
)
async def test_a_mirrored_parameter_must_be_the_same(header: str | None, status: int) -> None:
    client = Cluster([conformance]).gateway()
    answered = await client.tool(
        "test_x_mcp_header", {"region": "us-west1"}, headers={"mcp-param-region": header}
    )
    assert answered.status == status
    assert status == 200 or answered.error["code"] == -32020


@pytest.mark.requirement("headers:params")
async def test_mirrored_parameters_are_those_of_the_version_asked_for() -> None:
    cluster = Cluster([conformance])
    mirrored = cluster.catalogs.catalog.tools["test_x_mcp_header"][0]
    plain = msgspec.Raw(b'{"type":"object","properties":{"region":{"type":"integer"}}}')
    cluster.put(
        msgspec.structs.replace(mirrored, version="2.0.0", input_schema=plain, content_hash="")
    )

    async def answered(version: str) -> Answered:
        return await cluster.gateway().tool(
            "test_x_mcp_header", {"region": "west"}, meta={"io.thornback/version": version}
        )

    assert (await answered(mirrored.version)).error["code"] == -32020
    # The second version mirrors nothing: no header is missed, and its schema judges the call.
    assert (await answered("2.0.0")).result["isError"]


@pytest.mark.requirement("headers:params")
async def test_a_doubled_parameter_header_is_a_mismatch(client: Client) -> None:
    doubled = [*USUAL, ("mcp-param-region", "a"), ("Mcp-Param-Region", "b")]
    answered = await client.send(PING, doubled)
    assert (answered.status, answered.error["code"]) == (400, -32020)


@pytest.mark.requirement("notifications:accepted")
@pytest.mark.parametrize("version", [None, "2025-06-18", MODERN])
async def test_a_notification_is_accepted_without_a_body(
    client: Client, version: str | None
) -> None:
    body = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    answered = await client.send(body, {"mcp-protocol-version": version})
    assert (answered.status, answered.body) == (202, b"")


@pytest.mark.requirement("notifications:accepted")
async def test_a_notification_of_an_unknown_revision_is_refused(client: Client) -> None:
    body = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    answered = await client.send(body, {"mcp-protocol-version": "2099-01-01"})
    assert (answered.status, answered.error["code"]) == (400, -32022)


@pytest.mark.requirement("methods:unknown")
@pytest.mark.parametrize(
    "method", ["nope", "initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/get"]
)
async def test_a_method_that_is_not_there_is_404(client: Client, method: str) -> None:
    answered = await client.call(method, rpc_id=7)
    assert (answered.status, answered.error["code"], answered.json["id"]) == (404, -32601, 7)


@pytest.mark.requirement("methods:unknown")
async def test_before_it_is_an_answer_like_any_other(client: Client) -> None:
    session = await client.session("2025-11-25")
    answered = await session.call("nope")
    assert (answered.status, answered.error["code"]) == (200, -32601)


@pytest.mark.requirement("discover")
async def test_discovery_names_what_there_is(client: Client) -> None:
    result = (await client.call("server/discover")).result
    assert result["supportedVersions"] == [MODERN]
    assert result["capabilities"].keys() == {
        "completions",
        "logging",
        "prompts",
        "resources",
        "tools",
    }
    assert result["_meta"][f"{META}serverInfo"]["version"]
