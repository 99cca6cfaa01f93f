"""Older revisions: a session that no gateway keeps."""

import asyncio
import json

import pytest

from tests.protocol import tools_under_test
from tests.protocol.gateways import LEGACY, Client, Cluster, LegacyClient
from thornback.tools import conformance

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("sessions:every-revision")
@pytest.mark.parametrize("revision", LEGACY)
async def test_a_session_is_served_by_any_gateway(cluster: Cluster, revision: str) -> None:
    first, second = cluster.gateway(), cluster.gateway()
    session = await first.session(revision)
    assert session.initialized["protocolVersion"] == revision
    assert session.initialized["serverInfo"]["name"] == "thornback"
    there = session.on(second)
    assert (await there.call("notifications/initialized", rpc_id=None)).status == 202
    assert len((await there.call("tools/list")).result["tools"]) == 7
    assert (await there.tool("add", {"a": 1, "b": 2})).text == "3"
    assert (await there.call("ping")).result == {}
    for method in ("logging/setLevel", "resources/subscribe"):
        params = {"level": "info", "uri": "test://readme"}
        assert (await there.call(method, params)).result == {}
    prompt = await there.call("prompts/get", {"name": "greet", "arguments": {"tone": "warm"}})
    assert prompt.result["messages"][0]["content"]["text"] == "Be warm."
    assert (await there.call("resources/read", {"uri": "test://readme"})).status == 200


@pytest.mark.requirement("sessions:every-revision")
async def test_an_unknown_revision_is_offered_our_latest(client: Client) -> None:
    session = await client.session("1999-01-01")
    assert session.initialized["protocolVersion"] == "2025-11-25"


@pytest.mark.requirement("sessions:every-revision")
async def test_progress_streams_in_a_session(client: Client) -> None:
    session = await client.session("2025-03-26")
    answered = await session.tool("steps", meta={"progressToken": "p"})
    kinds = [note["method"] for note in answered.notifications]
    assert kinds == ["notifications/progress"] * 3 + ["notifications/message"]
    assert answered.text == "done"


@pytest.mark.requirement("sessions:shape")
@pytest.mark.parametrize(
    ("revision", "fields"),
    [
        ("2024-11-05", {"name", "description", "inputSchema", "_meta"}),
        ("2025-03-26", {"name", "description", "inputSchema", "annotations", "_meta"}),
        (
            "2025-06-18",
            {
                "name",
                "title",
                "description",
                "inputSchema",
                "outputSchema",
                "annotations",
                "_meta",
            },
        ),
    ],
)
async def test_a_tool_has_the_fields_of_the_revision(
    client: Client, revision: str, fields: set[str]
) -> None:
    session = await client.session(revision)
    result = (await session.call("tools/list")).result
    assert result.keys() == {"tools"}
    assert result["tools"][0].keys() == fields


@pytest.mark.requirement("sessions:shape")
async def test_structured_content_is_for_those_who_know_it(client: Client) -> None:
    for revision, has in (("2025-03-26", False), ("2025-06-18", True)):
        session = await client.session(revision)
        result = (await session.tool("add", {"a": 1, "b": 2})).result
        assert ("structuredContent" in result) is has
        assert "resultType" not in result


@pytest.mark.requirement("sessions:shape")
async def test_content_that_a_revision_does_not_have_becomes_text() -> None:
    client = Cluster([conformance]).gateway()
    for revision, kind in (("2024-11-05", "text"), ("2025-03-26", "audio")):
        session = await client.session(revision)
        (block,) = (await session.tool("test_audio_content")).result["content"]
        assert block["type"] == kind


@pytest.mark.requirement("sessions:foreign")
@pytest.mark.parametrize("spoil", ["", "v1.", "v1.AAAA", "x", "v2."])
async def test_an_id_that_is_not_ours_is_404(client: Client, spoil: str) -> None:
    session = LegacyClient(client, "2025-11-25", spoil, {})
    for rpc_id in (1, None):
        answered = await session.call("ping", rpc_id=rpc_id)
        assert (answered.status, answered.error["code"]) == (404, -32600)


@pytest.mark.requirement("sessions:foreign")
async def test_an_id_with_any_byte_changed_is_404(client: Client) -> None:
    session = await client.session("2025-11-25")
    whole = session.session_id
    for at in range(0, len(whole), 7):
        session.session_id = whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :]
        assert (await session.call("ping")).status == 404


@pytest.mark.requirement("sessions:foreign")
async def test_an_id_of_another_principal_is_404() -> None:
    keys = {"ann": ("key-a", ("*",)), "bob": ("key-b", ("*",))}
    gateway = Cluster([tools_under_test], keys=keys).gateway()
    session = await gateway.with_key("key-a").session("2025-11-25")
    assert (await session.call("ping")).status == 200
    assert (await session.on(gateway.with_key("key-b")).call("ping")).status == 404


@pytest.mark.requirement("sessions:foreign")
async def test_a_revision_other_than_the_session_s_is_refused(client: Client) -> None:
    session = await client.session("2025-11-25")
    session.revision = "2025-06-18"
    assert (await session.call("ping")).status == 400


@pytest.mark.requirement("sessions:none")
async def test_who_says_nothing_is_served_as_2025_03_26(client: Client) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answered = await client.send(json.dumps(message).encode())
    tool = answered.result["tools"][0]
    assert ("annotations" in tool, "title" in tool) == (True, False)


@pytest.mark.requirement("sessions:none")
async def test_a_response_that_is_posted_is_accepted(client: Client) -> None:
    body = b'{"jsonrpc":"2.0","id":9,"result":{}}'
    assert (await client.send(body)).status == 202


@pytest.mark.requirement("sessions:disconnect")
@pytest.mark.parametrize("how", ["closed", "cancelled by Serve"])
async def test_closing_the_response_cancels_nothing(client: Client, how: str) -> None:
    tools_under_test.ended.clear()
    session = await client.session("2025-11-25")
    running = session.begin_call("tools/call", {"name": "wait"}, meta={"progressToken": 1})
    await running.until("waiting")
    if how == "closed":
        running.disconnect()
        await running.end()
    else:
        running.task.cancel()
        await asyncio.wait([running.task])
    assert len(client.running) == 1
    await session.call("notifications/cancelled", {"requestId": 1}, rpc_id=None)
    await client.idle()
    assert tools_under_test.ended == ["wait"]


@pytest.mark.requirement("sessions:cancelled")
async def test_a_cancellation_reaches_the_gateway_that_runs_the_call(cluster: Cluster) -> None:
    first, second = cluster.gateway(), cluster.gateway()
    session = await first.session("2025-11-25")
    running = session.begin_call(
        "tools/call", {"name": "wait"}, meta={"progressToken": 1}, rpc_id="a"
    )
    await running.until("waiting")
    params = {"requestId": "a", "reason": "enough"}
    cancelled = await session.on(second).call("notifications/cancelled", params, rpc_id=None)
    assert cancelled.status == 202
    answered = await running.end()
    assert answered.result["_meta"]["io.thornback/error"] == {"code": "call.cancelled"}


@pytest.mark.requirement("sessions:cancelled")
async def test_what_is_no_id_cancels_nothing(client: Client) -> None:
    session = await client.session("2025-11-25")
    running = session.begin_call("tools/call", {"name": "wait"}, meta={"progressToken": 1})
    await running.until("waiting")
    for no_id in (True, 1.0, None, [1]):
        params = {"requestId": no_id}
        await session.call("notifications/cancelled", params, rpc_id=None)
    answer = await client.call("tools/list")
    assert (answer.status, running.task.done(), len(client.running)) == (200, False, 1)
    await session.call("notifications/cancelled", {"requestId": 1}, rpc_id=None)
    await running.end()


@pytest.mark.requirement("sessions:cancelled")
async def test_another_session_cannot_cancel_it(client: Client) -> None:
    session, other = await client.session("2025-11-25"), await client.session("2025-11-25")
    running = session.begin_call("tools/call", {"name": "wait"}, meta={"progressToken": 1})
    await running.until("waiting")
    await other.call("notifications/cancelled", {"requestId": 1}, rpc_id=None)
    assert not running.task.done()
    await session.call("notifications/cancelled", {"requestId": 1}, rpc_id=None)
    await running.end()
