"""Two callers with keys, one with a wrong key, one without: who sees what, on every method."""

import logging
from typing import Any

import pytest

from tests.protocol import tools_under_test
from tests.protocol.gateways import LEGACY, POOL, Client, Cluster, offered
from thornback.cluster.principals import Principal
from thornback.tools import conformance

pytestmark = pytest.mark.anyio
KEYS = {"ann": ("tbk_key-of-ann", ("*",)), "bob": ("tbk_key-of-bob", ("add", "ste*"))}
REQUESTS: dict[str, dict[str, Any]] = {
    "server/discover": {},
    "tools/list": {},
    "tools/call": {"name": "add", "arguments": {"a": 1, "b": 2}},
    "prompts/list": {},
    "prompts/get": {"name": "greet", "arguments": {"tone": "warm"}},
    "resources/list": {},
    "resources/templates/list": {},
    "resources/read": {"uri": "test://readme"},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "greet"},
        "argument": {"name": "tone", "value": ""},
    },
    "subscriptions/listen": {"notifications": {"toolsListChanged": True}},
    "nope": {},
}


def gateways() -> list[Client]:
    cluster = Cluster([tools_under_test], offered(only="ann"), keys=KEYS)
    return [cluster.gateway(), cluster.gateway()]


def ann(client: Client) -> Client:
    return client.with_key("tbk_key-of-ann")


def bob(client: Client) -> Client:
    return client.with_key("tbk_key-of-bob")


@pytest.mark.requirement("callers:no-key")
@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize("key", [None, "", "wrong", "tbk_key-of-anna", "TBK_KEY-OF-ANN"])
async def test_without_a_right_key_nothing_is_answered(method: str, key: str | None) -> None:
    for gateway in gateways():
        answered = await gateway.with_key(key).call(method, REQUESTS[method])
        assert answered.status == 401
        assert answered.headers["www-authenticate"].startswith('Bearer realm="thornback"')
        assert answered.error["message"] == "A valid bearer key is required"


@pytest.mark.requirement("callers:no-key")
@pytest.mark.parametrize("revision", LEGACY)
async def test_nor_is_a_session_begun(revision: str) -> None:
    params = f'{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"x"}}}}'
    body = f'{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}'.encode()
    answered = await gateways()[0].send(body)
    assert answered.status == 401
    assert "mcp-session-id" not in answered.headers


@pytest.mark.requirement("callers:no-key")
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Basic dGJrX2tleS1vZi1hbm4="},
        {"authorization": "tbk_key-of-ann"},
        {"x-api-key": "tbk_key-of-ann"},
        {"x-forwarded-user": "ann"},
        {"cookie": "authorization=Bearer tbk_key-of-ann"},
    ],
)
async def test_no_other_header_names_a_caller(headers: dict[str, str]) -> None:
    assert (await gateways()[0].call("tools/list", headers=headers)).status == 401


@pytest.mark.requirement("callers:no-key")
async def test_two_keys_are_none() -> None:
    doubled = [
        ("host", "127.0.0.1:8000"),
        ("authorization", "Bearer tbk_key-of-ann"),
        ("Authorization", "Bearer tbk_key-of-ann"),
    ]
    answered = await gateways()[0].send(b"{}", doubled)
    assert (answered.status, "www-authenticate" in answered.headers) == (401, True)


async def _names(client: Client, method: str, field: str) -> list[str]:
    result = (await client.call(method)).result
    return [entry["name"] for entry in result[field]]


@pytest.mark.requirement("callers:own-view")
async def test_each_lists_what_it_may_use() -> None:
    for gateway in gateways():
        assert len(await _names(ann(gateway), "tools/list", "tools")) == 7
        assert await _names(bob(gateway), "tools/list", "tools") == ["add", "steps"]
        for method, field in (
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ):
            assert await _names(ann(gateway), method, field)
            assert await _names(bob(gateway), method, field) == []


@pytest.mark.requirement("callers:own-view")
async def test_each_lists_the_same_in_a_session() -> None:
    for gateway in gateways():
        session = await bob(gateway).session("2025-06-18")
        listed = (await session.call("tools/list")).result["tools"]
        assert [entry["name"] for entry in listed] == ["add", "steps"]


@pytest.mark.requirement("callers:own-view")
async def test_each_calls_what_it_may_use() -> None:
    for gateway in gateways():
        assert (await bob(gateway).tool("add", {"a": 1, "b": 2})).text == "3"
        assert (await ann(gateway).tool("rows")).status == 200
        assert (await bob(gateway).tool("rows")).status == 400


@pytest.mark.requirement("callers:own-view")
async def test_a_tool_is_told_who_calls() -> None:
    cluster = Cluster([tools_under_test], keys=KEYS)
    gateway = cluster.gateway()
    await bob(gateway).tool("add", {"a": 1, "b": 2})
    await ann(gateway).tool("add", {"a": 1, "b": 2}, headers={"x-forwarded-user": "bob"})
    calls = cluster.pools.get(POOL).calls
    assert [call.principal for call in calls] == [
        Principal("default", "bob"),
        Principal("default", "ann"),
    ]


@pytest.mark.requirement("callers:own-view")
async def test_what_is_listened_to_is_only_what_one_sees() -> None:
    for gateway in gateways():
        asked = {"resourceSubscriptions": ["test://readme", "test://nope"]}
        for client, honoured in ((ann(gateway), ["test://readme"]), (bob(gateway), None)):
            stream = client.begin_call("subscriptions/listen", {"notifications": asked})
            await stream.until("acknowledged")
            (told,) = stream.answered.messages
            assert told["params"]["notifications"].get("resourceSubscriptions") == honoured
            stream.disconnect()
            await stream.end()


@pytest.mark.requirement("callers:same-answer")
@pytest.mark.parametrize(
    ("method", "mine", "missing"),
    [
        ("tools/call", {"name": "rows"}, {"name": "nope"}),
        ("prompts/get", {"name": "greet"}, {"name": "nopes"}),
        ("resources/read", {"uri": "test://readme"}, {"uri": "test://nothing"}),
        ("resources/read", {"uri": "test://notes/x"}, {"uri": "test://nothing"}),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "greet"},
                "argument": {"name": "tone", "value": ""},
            },
            {
                "ref": {"type": "ref/prompt", "name": "nopes"},
                "argument": {"name": "tone", "value": ""},
            },
        ),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/resource", "uri": "test://notes/{day}"},
                "argument": {"name": "day", "value": ""},
            },
            {
                "ref": {"type": "ref/resource", "uri": "test://other/{day}"},
                "argument": {"name": "day", "value": ""},
            },
        ),
    ],
)
async def test_the_forbidden_answers_like_the_missing(
    method: str, mine: dict[str, Any], missing: dict[str, Any]
) -> None:
    client = bob(gateways()[0])
    forbidden, absent = await client.call(method, mine), await client.call(method, missing)
    assert forbidden.status == absent.status == 400
    told = forbidden.body.decode()
    for found, other in (("rows", "nope"), ("greet", "nopes")):
        told = told.replace(found, other)
    for uri in ("test://readme", "test://notes/x"):
        told = told.replace(uri, "test://nothing")
    assert told.replace("test://notes/{day}", "test://other/{day}") == absent.body.decode()


@pytest.mark.requirement("callers:same-answer")
async def test_no_header_is_missed_that_only_a_forbidden_tool_mirrors() -> None:
    client = bob(Cluster([tools_under_test, conformance], keys=KEYS).gateway())
    asked = {"arguments": {"region": "west"}}
    forbidden = await client.call("tools/call", {"name": "test_x_mcp_header", **asked})
    absent = await client.call("tools/call", {"name": "nope", **asked})
    assert forbidden.body.decode().replace("test_x_mcp_header", "nope") == absent.body.decode()


@pytest.mark.requirement("log:one-line")
async def test_no_key_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for gateway in gateways():
        await ann(gateway).tool("add", {"a": 1, "b": 2})
        await gateway.with_key("tbk_wrong-key").tool("add", {"a": 1, "b": 2})
        await ann(gateway).tool("buggy")
    assert "ann" in caplog.text
    assert "tbk_" not in caplog.text
