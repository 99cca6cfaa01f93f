import asyncio
from typing import Any

import msgspec
import pytest

from tests.protocol import tools_under_test
from tests.protocol.gateways import META, POOL, Client, Cluster, Exchange, offered
from thornback.cluster.catalog import PromptMessage, PromptSpec
from thornback.cluster.principals import PrincipalEntry, key_hash
from thornback.tools.definition import tool_of

pytestmark = pytest.mark.anyio
EVERYTHING = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["test://readme"],
}


def listen(client: Client, notifications: dict[str, Any], rpc_id: int | str = 7) -> Exchange:
    return client.begin_call(
        "subscriptions/listen", {"notifications": notifications}, rpc_id=rpc_id
    )


def methods(stream: Exchange) -> list[str]:
    return [m["method"].removeprefix("notifications/") for m in stream.answered.notifications]


def new_tool(name: str = "another") -> Any:
    spec = tool_of(tools_under_test.add).spec(POOL.name)
    return msgspec.structs.replace(spec, name=name)


def new_prompt() -> PromptSpec:
    return PromptSpec(name="new", description="New.", messages=(PromptMessage(text="x"),))


def readme(cluster: Cluster, **changed: Any) -> Any:
    return msgspec.structs.replace(
        cluster.catalogs.catalog.of("resources")["test://readme"],  # type: ignore[type-var]
        **changed,
    )


@pytest.mark.requirement("listen:acknowledged")
@pytest.mark.parametrize("rpc_id", [7, "seven"])
async def test_it_begins_with_what_it_will_tell(client: Client, rpc_id: int | str) -> None:
    stream = listen(client, EVERYTHING, rpc_id)
    await stream.until("acknowledged")
    assert stream.answered.headers["content-type"] == "text/event-stream"
    (told,) = stream.answered.messages
    assert told["params"]["notifications"] == EVERYTHING
    assert told["params"]["_meta"] == {f"{META}subscriptionId": rpc_id}
    stream.disconnect()
    await stream.end()


@pytest.mark.requirement("listen:changes")
async def test_a_change_is_told_once_to_those_who_asked(cluster: Cluster) -> None:
    client = cluster.gateway()
    tools, prompts = (
        listen(client, {"toolsListChanged": True}),
        listen(client, {"promptsListChanged": True}),
    )
    for stream in (tools, prompts):
        await stream.until("acknowledged")
    cluster.put(new_tool())
    cluster.put(new_tool("a_third"))
    cluster.put(new_prompt())
    await prompts.until("prompts/list_changed")
    await tools.until("tools/list_changed")
    cluster.listening[0].close()
    await tools.end()
    assert methods(tools) == ["subscriptions/acknowledged", "tools/list_changed"]
    assert methods(prompts) == ["subscriptions/acknowledged", "prompts/list_changed"]
    assert tools.answered.messages[1]["params"]["_meta"] == {f"{META}subscriptionId": 7}


@pytest.mark.requirement("listen:changes")
async def test_new_bytes_are_an_update_and_a_new_name_is_another_list(cluster: Cluster) -> None:
    stream = listen(cluster.gateway(), EVERYTHING)
    await stream.until("acknowledged")
    cluster.put(readme(cluster, sha256="0" * 64))
    await stream.until("resources/updated")
    assert methods(stream)[1:] == ["resources/updated"]
    assert stream.answered.messages[-1]["params"]["uri"] == "test://readme"
    cluster.put(readme(cluster, uri="test://second"))
    await stream.until("resources/list_changed")
    stream.disconnect()
    await stream.end()


@pytest.mark.requirement("listen:changes")
async def test_what_a_caller_cannot_see_is_not_told() -> None:
    keys = {"ann": ("a", ("*",)), "bob": ("b", ("add",))}
    cluster = Cluster([tools_under_test], offered(only="ann"), keys=keys)
    gateway = cluster.gateway()
    ann = listen(gateway.with_key("a"), EVERYTHING)
    bob = listen(gateway.with_key("b"), EVERYTHING)
    for stream in (ann, bob):
        await stream.until("acknowledged")
    cluster.put(new_tool(), readme(cluster, sha256="0" * 64))
    await ann.until("tools/list_changed")
    await ann.until("resources/updated")
    cluster.listening[0].close()
    await bob.end()
    assert methods(bob) == ["subscriptions/acknowledged"]


@pytest.mark.requirement("listen:changes")
async def test_a_stream_ends_with_the_key_that_opened_it() -> None:
    cluster = Cluster([tools_under_test], keys={"ann": ("a", ("*",)), "bob": ("b", ("*",))})
    gateway = cluster.gateway()
    ann, bob = (listen(gateway.with_key(key), {"toolsListChanged": True}) for key in "ab")
    for stream in (ann, bob):
        await stream.until("acknowledged")
    cluster.put(PrincipalEntry("ann", key_hash("another")))
    assert (await ann.end()).result["resultType"] == "complete"
    assert not bob.task.done()
    bob.disconnect()
    await bob.end()


@pytest.mark.requirement("listen:shutdown")
async def test_a_gateway_that_stops_ends_its_streams(cluster: Cluster) -> None:
    client = cluster.gateway()
    stream = listen(client, EVERYTHING)
    await stream.until("acknowledged")
    cluster.listening[0].close()
    result = (await stream.end()).result
    assert result["resultType"] == "complete"
    assert result["_meta"][f"{META}subscriptionId"] == 7
    assert (await listen(client, EVERYTHING).end()).status == 503


@pytest.mark.requirement("listen:shutdown")
async def test_a_gateway_that_is_taken_away_ends_its_streams_one_by_one(cluster: Cluster) -> None:
    client = cluster.gateway()
    streams = [listen(client, EVERYTHING, rpc_id) for rpc_id in (1, 2)]
    for stream in streams:
        await stream.until("acknowledged")
    ended: list[int] = []

    async def sleep(_: float) -> None:
        left = [stream.task for stream in streams if not stream.task.done()]
        await asyncio.wait(left, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        ended.append(sum(stream.task.done() for stream in streams))

    await cluster.listening[0].drain(sleep)
    assert ended == [1, 2]
    for stream in streams:
        assert (await stream.end()).result["resultType"] == "complete"
    assert (await listen(client, EVERYTHING).end()).status == 503


@pytest.mark.requirement("listen:limit")
async def test_one_principal_cannot_hold_all_streams(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thornback.deployments.listen.MAX_STREAMS_PER_PRINCIPAL", 1)
    client = cluster.gateway()
    first = listen(client, EVERYTHING)
    await first.until("acknowledged")
    refused = await listen(client, EVERYTHING).end()
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    first.disconnect()
    await first.end()
    await client.idle()
    second = listen(client, EVERYTHING)
    await second.until("acknowledged")
    second.disconnect()
    await second.end()
