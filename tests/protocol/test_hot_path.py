"""The hot path against the kernel: the same requests, good and bad, and the same answers."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol import tools_under_test
from tests.protocol.gateways import META, MODERN, Client, Cluster, offered
from tests.protocol.test_bodies import body_of
from thornback.deployments import access_log
from thornback.deployments.hot_path import HotPath
from thornback.tools import conformance

pytestmark = pytest.mark.requirement("hot-path:same-answer")
BODIES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "bad_inputs.yaml").read_text("utf-8")
)
CASES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "hot_path.yaml").read_text("utf-8")
)
KEYS = {"lab": ("k1", ("*",)), "guest": ("k2", ("add", "f*"))}
METHODS = ("tools/call", "tools/list", "server/discover")
VARYING = re.compile(
    rb'"(?:queueS|runS|cpuS)":[0-9.e-]+|(?:err|call)_[A-Za-z0-9_-]{22}'
    rb'|"(?:requestState|nextCursor)":"[^"]+"'
)
Headers = Mapping[str, str | None] | list[tuple[str, str]] | None


class Pair:
    """Two gateways of one cluster: one that has the hot path, and one that has not."""

    def __init__(self, **options: Any) -> None:
        cluster = Cluster([conformance, tools_under_test], offered(), **options)
        self.hot = cluster.gateway()
        self.kernel = cluster.gateway(with_hot_path=False)

    def with_key(self, key: str | None) -> "Pair":
        other = object.__new__(Pair)
        other.hot, other.kernel = self.hot.with_key(key), self.kernel.with_key(key)
        return other

    def answers(self, body: bytes, headers: Headers = None) -> list[Any]:
        """Status, headers, body and access line of both, without what varies."""
        return [self._answer(client, body, headers) for client in (self.hot, self.kernel)]

    def _answer(self, client: Client, body: bytes, headers: Headers) -> Any:
        lines: list[str] = []
        access_log._write = lines.append
        answered = asyncio.run(client.send(body, headers))
        (line,) = [json.loads(line) for line in lines]
        for varying in ("time", "gateway", "request_id", "duration_ms"):
            del line[varying]
        said = {
            k: v for k, v in answered.headers.items() if k not in ("content-length", "x-request-id")
        }
        return answered.status, said, VARYING.sub(b"~", answered.body), line


@pytest.fixture(autouse=True)
def lines_restored() -> Iterator[None]:
    write = access_log._write
    yield
    access_log._write = write


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that the hot path answered."""
    methods: list[str] = []
    serve = HotPath.serve

    async def noted(self: HotPath, exchange: Any) -> Any:
        methods.append(exchange.request.method)
        return await serve(self, exchange)

    monkeypatch.setattr(HotPath, "serve", noted)
    return methods


def plain(method: str, name: str = "add", arguments: Any = None) -> dict[str, Any]:
    """A message in plain form."""
    about = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
    params: dict[str, Any] = {"_meta": about}
    if method == "tools/call":
        params |= {"name": name, "arguments": {"a": 1, "b": 2} if arguments is None else arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def routed(method: str, name: str = "add") -> dict[str, str | None]:
    """Headers that say what `plain` does."""
    headers: dict[str, str | None] = {"mcp-protocol-version": MODERN, "mcp-method": method}
    return headers | ({"mcp-name": name} if method == "tools/call" else {})


def changed(message: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`message` with another value at a path, or without it where the value is `...`."""
    message = deepcopy(message)
    *above, last = path.split("|")
    node = message
    for key in above:
        node = node.get(key) if isinstance(node, dict) else None  # type: ignore[assignment]
    if isinstance(node, dict):
        node.pop(last, None)
        if value is not ...:
            node[last] = value
    return message


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", ["k1", "k2", "wrong", None])
def test_every_caller_gets_the_same(method: str, key: str | None) -> None:
    hot, kernel = (
        Pair(keys=KEYS).with_key(key).answers(json.dumps(plain(method)).encode(), routed(method))
    )
    assert hot == kernel


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_request_is_answered_without_the_kernel(method: str, served: list[str]) -> None:
    hot, kernel = Pair().answers(json.dumps(plain(method)).encode(), routed(method))
    assert hot == kernel
    assert served == [method]


TOOLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "add": ({"a": 1, "b": None}, {}),
    "fail": ({}, {}),
    "buggy": ({}, {}),
    "steps": ({}, {"progressToken": "t", f"{META}logLevel": "info"}),
    "rows": ({}, {"progressToken": 7}),
    "linger": ({"seconds": 0.05}, {"progressToken": "t"}),
    "nobody": ({}, {}),
    "test_image_content": ({}, {}),
    "test_embedded_resource": ({}, {}),
    "test_missing_capability": ({}, {}),
    "test_input_required_result_elicitation": (
        {},
        {f"{META}clientCapabilities": {"elicitation": {}}},
    ),
    "test_input_required_result_request_state": (
        {},
        {f"{META}clientCapabilities": {"elicitation": {"form": {}}}},
    ),
    "json_schema_2020_12_tool": ({"name": "a:b"}, {"traceparent": "00-0-0-0"}),
}


@pytest.mark.parametrize("name", TOOLS)
def test_every_outcome_of_a_call_is_the_same(name: str, served: list[str]) -> None:
    arguments, about = TOOLS[name]
    message = plain("tools/call", name, arguments)
    message["params"]["_meta"] |= about
    hot, kernel = Pair().answers(json.dumps(message).encode(), routed("tools/call", name))
    assert hot == kernel
    assert served == ["tools/call"]


@pytest.mark.parametrize("case", CASES)
def test_odd_headers_and_bodies_are_answered_the_same(case: str) -> None:
    told = CASES[case]
    method, name = told.get("method", "tools/call"), told.get("name", "add")
    message = plain(method, name, told.get("arguments"))
    for path, value in told.get("set", {}).items():
        message = changed(message, path.replace("META ", META), value)
    for path in told.get("without", []):
        message = changed(message, path.replace("META ", META), ...)
    body = json.dumps(message).encode()
    if "replace" in told:
        old, new = told["replace"]
        assert old.encode() in body
        body = body.replace(old.encode(), new.encode("latin-1"))
    hot, kernel = Pair().answers(body, {**routed(method, name), **told.get("headers", {})})
    assert hot == kernel
    assert hot[0] == told["status"]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("method", METHODS)
def test_bodies_that_are_no_message_are_answered_the_same(name: str, method: str) -> None:
    hot, kernel = PAIR.answers(body_of(BODIES[name]), routed(method))
    assert hot == kernel


PAIR = Pair()
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [2**63, -(2**64), 10**400, 0.5, 1e308, "", "add", "tools/list", "=?base64?YWRk?="]
    ),
    st.text(max_size=4),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=3)),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        max_leaves=4,
    ),
    st.fixed_dictionaries({"name": st.text(max_size=3)}, optional={"version": st.text(max_size=3)}),
    st.fixed_dictionaries(
        {"elicitation": st.sampled_from([{}, None, 1, {"form": {}}, {"form": []}])}
    ),
)
PATHS = [
    *("jsonrpc", "id", "method", "params", "result", "extra"),
    *(f"params|{key}" for key in ("name", "arguments", "_meta", "cursor", "inputResponses")),
    *(f"params|{key}" for key in ("requestState", "meta", "other", "arguments|a", "arguments|c")),
    *(f"params|_meta|{META}{key}" for key in ("protocolVersion", "clientCapabilities")),
    *(f"params|_meta|{META}{key}" for key in ("clientInfo", "logLevel", "other")),
    *(f"params|_meta|{key}" for key in ("progressToken", "traceparent", "tracestate", "baggage")),
    *(f"params|_meta|{key}" for key in ("io.thornback/version", "other", "progress_token")),
]
HEADERS = st.dictionaries(
    st.sampled_from(
        ["mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id", "mcp-param-region"]
    ),
    st.sampled_from(
        [None, "", "add", " add", "tools/call", "=?base64?YWRk?=", MODERN, "2025-11-25"]
    ),
    max_size=1,
)


@settings(max_examples=400, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    changes=st.lists(st.tuples(st.sampled_from(PATHS), ODD | st.just(...)), max_size=2),
    headers=HEADERS,
    indent=st.sampled_from([None, 1]),
)
def test_whatever_is_changed_is_answered_the_same(
    method: str, changes: list[tuple[str, Any]], headers: dict[str, str | None], indent: int | None
) -> None:
    message = plain(method)
    for path, value in changes:
        message = changed(message, path, value)
    hot, kernel = PAIR.answers(
        json.dumps(message, indent=indent).encode(), {**routed(method), **headers}
    )
    assert hot == kernel
