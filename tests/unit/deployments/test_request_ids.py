import asyncio
import json
from typing import Any

import pytest

from tests.protocol.gateways import Client, Cluster
from thornback.deployments import access_log
from thornback.deployments.request_ids import request_id_of, telling
from thornback.tools import ToolContext, tool
from thornback.tools.definition import tool_of


def id_of(*values: bytes) -> str:
    headers = [(b"host", b"h"), *((b"x-request-id", value) for value in values)]
    return request_id_of({"headers": headers})


def test_a_client_names_its_request() -> None:
    assert id_of(b"0af7651916cd43dd-b7ad:42/x") == "0af7651916cd43dd-b7ad:42/x"
    assert id_of(b"a" * 128) == "a" * 128


@pytest.mark.parametrize(
    "chosen", [b"", b"two words", b"line\nbreak", b'"', b"back\\slash", b"\xc3\xa9", b"a" * 129]
)
def test_what_does_not_fit_on_a_log_line_is_replaced(chosen: bytes) -> None:
    assert id_of(chosen).startswith("req_")


def test_without_one_each_request_gets_a_fresh_id() -> None:
    assert id_of().startswith("req_")
    assert id_of() != id_of()


async def told(message: dict[str, Any]) -> dict[str, Any]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await telling(send, "req_1")(message)
    return sent[0]


@pytest.mark.anyio
async def test_the_response_names_its_request() -> None:
    kept = [(b"content-type", b"application/json")]
    start = await told({"type": "http.response.start", "status": 200, "headers": kept})
    assert start["headers"] == [*kept, (b"x-request-id", b"req_1")]
    assert kept == [(b"content-type", b"application/json")]
    body = {"type": "http.response.body", "body": b"{}"}
    assert await told(dict(body)) == body


@tool
async def named(ctx: ToolContext) -> str:
    """Say which request this is, after some progress."""
    ctx.progress(1)
    await asyncio.sleep(0)
    return ctx.request_id


@pytest.fixture
def client() -> Client:
    return Cluster([tool_of(named)]).gateway()


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The access lines that are written."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(access_log, "_write", lambda line: lines.append(json.loads(line)))
    return lines


@pytest.mark.anyio
@pytest.mark.parametrize("meta", [{}, {"progressToken": "p"}], ids=["json", "stream"])
async def test_response_tool_and_access_line_name_a_request_alike(
    client: Client, access: list[dict[str, Any]], meta: dict[str, Any]
) -> None:
    chosen = await client.tool("named", meta=meta, headers={"x-request-id": "mine-1"})
    ours = await client.tool("named", meta=meta)
    for answered, line in zip((chosen, ours), access, strict=True):
        named_there = (answered.headers["x-request-id"], line["request_id"])
        assert named_there == (answered.text, answered.text)
    assert chosen.text == "mine-1"
    assert ours.text.startswith("req_")


@pytest.mark.anyio
async def test_a_request_that_is_refused_is_named_too(
    client: Client, access: list[dict[str, Any]]
) -> None:
    answered = await client.send(b"{", {"x-request-id": "mine-2"})
    assert (answered.status, answered.headers["x-request-id"]) == (400, "mine-2")
    assert [line["request_id"] for line in access] == ["mine-2"]


@pytest.mark.anyio
async def test_calls_that_share_an_id_do_not_end_each_other(client: Client) -> None:
    headers = {"x-request-id": "same"}
    calls = [client.tool("named", headers=headers) for _ in range(3)]
    assert {answered.text for answered in await asyncio.gather(*calls)} == {"same"}


@pytest.mark.anyio
async def test_a_bug_of_ours_is_logged_beside_its_request(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("thornback.deployments.tool_calls.Reporter", fail)
    await client.tool("named", headers={"x-request-id": "mine-3"})
    (record,) = [record for record in caplog.records if record.name.startswith("thornback.")]
    assert vars(record)["request_ids"] == ["mine-3"]
