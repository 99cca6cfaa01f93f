"""Bodies that are no message."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.protocol import tools_under_test
from tests.protocol.gateways import MODERN, Client, Cluster

pytestmark = pytest.mark.anyio
CASES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "bad_inputs.yaml").read_text("utf-8")
)


def body_of(case: dict[str, Any]) -> bytes:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    times, text = case.get("repeat", (0, ""))
    closing_times, closing = case.get("close", (0, ""))
    body = case.get("body", "") + case.get("before", "") + text * times + case.get("middle", "")
    return (body + closing * closing_times + case.get("after", "")).encode()


@pytest.mark.requirement("http:strict-json")
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["code"] == -32700])
async def test_what_is_not_strict_json_is_refused(client: Client, name: str) -> None:
    await _refused(client, CASES[name])


@pytest.mark.requirement("http:one-message")
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["code"] == -32600])
async def test_what_is_not_one_message_is_refused(client: Client, name: str) -> None:
    await _refused(client, CASES[name])


async def _refused(client: Client, case: dict[str, Any]) -> None:
    headers = {"mcp-protocol-version": MODERN} if case.get("modern") else {}
    answered = await client.send(body_of(case), headers)
    assert answered.headers["content-type"] == "application/json"
    assert (answered.status, answered.error["code"]) == (case["status"], case["code"])
    assert answered.json["id"] is None
    assert len(answered.body) < 400


@pytest.mark.requirement("http:strict-json")
async def test_text_that_only_looks_like_trouble_is_fine(client: Client) -> None:
    prefix = "[" * 500 + "\\ud800 \U0001f600"
    answered = await client.call(
        "completion/complete",
        {
            "ref": {"type": "ref/prompt", "name": "greet"},
            "argument": {"name": "tone", "value": prefix},
        },
    )
    assert answered.result["completion"]["values"] == []


@pytest.mark.requirement("http:body-limit")
async def test_the_config_says_how_large_a_body_may_be() -> None:
    client = Cluster([tools_under_test], config={"max_body_bytes": 500}).gateway()
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"x" * 500 + b'"}}'
    assert (await client.send(body)).status == 413


@pytest.mark.requirement("http:body-limit")
@pytest.mark.parametrize("says_length", [True, False])
async def test_a_body_over_the_limit_is_refused_after_it_was_read(
    client: Client, says_length: bool
) -> None:
    megabytes = 6
    headers = {"content-length": str(megabytes << 20) if says_length else None}
    exchange = client.begin(b"", headers, more_body=[b"x" * (1 << 20)] * megabytes)
    answered = await exchange.end()
    assert answered.status == 413
    assert exchange.unread == 0


@pytest.mark.requirement("http:body-limit")
async def test_a_body_without_end_is_read_to_a_bound(client: Client) -> None:
    megabytes = 100
    headers = {"content-length": str(megabytes << 20)}
    exchange = client.begin(b"", headers, more_body=[b"x" * (1 << 20)] * megabytes)
    answered = await exchange.end()
    assert (answered.status, answered.headers["connection"]) == (413, "close")
    assert exchange.unread > 90
