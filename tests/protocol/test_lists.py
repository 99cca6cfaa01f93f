from collections.abc import Iterator
from typing import Any

import pytest

from tests.protocol import tools_under_test
from tests.protocol.gateways import POOL, Client, Cluster, offered
from thornback.cluster.catalog import Catalog, ToolSpec
from thornback.cluster.principals import Caller
from thornback.cluster.revisions import Revision
from thornback.deployments import lists
from thornback.tools.definition import tool_of

pytestmark = pytest.mark.anyio
FIELDS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


async def pages(clients: list[Client], method: str) -> list[list[dict[str, Any]]]:
    """Every page of a list, each from the next of the gateways."""
    found, params = [], {}
    while True:
        result = (await clients[len(found) % len(clients)].call(method, params)).result
        found.append(result[FIELDS[method]])
        if "nextCursor" not in result:
            return found
        params = {"cursor": result["nextCursor"]}


@pytest.mark.requirement("lists:pages")
async def test_any_gateway_continues_a_list() -> None:
    cluster = Cluster([tools_under_test], offered(), config={"page_size": 3})
    found = await pages([cluster.gateway(), cluster.gateway()], "tools/list")
    assert [len(page) for page in found] == [3, 3, 1]
    names = [listed["name"] for page in found for listed in page]
    assert names == sorted(set(names))


@pytest.mark.requirement("lists:pages")
@pytest.mark.parametrize("method", FIELDS)
async def test_every_list_is_paged(method: str) -> None:
    cluster = Cluster([tools_under_test], offered(), config={"page_size": 1})
    assert all(len(page) == 1 for page in await pages([cluster.gateway()], method))


@pytest.mark.requirement("lists:pages")
async def test_a_change_between_two_pages_repeats_and_skips_nothing_else() -> None:
    cluster = Cluster([tools_under_test], config={"page_size": 3})
    client = cluster.gateway()
    first = (await client.call("tools/list")).result
    cluster.put(tool_of(tools_under_test.add).spec(POOL.name).__replace__(name="aaa"))
    second = (await client.call("tools/list", {"cursor": first["nextCursor"]})).result
    shown = [listed["name"] for listed in first["tools"] + second["tools"]]
    assert shown == ["add", "buggy", "fail", "linger", "rows", "steps"]


@pytest.mark.requirement("lists:pages")
@pytest.mark.parametrize("cursor", ["", "x", "v1.", "v1.AAAA", "v1." + "A" * 60, "\N{SNOWMAN}"])
async def test_a_cursor_that_is_not_ours_is_invalid(client: Client, cursor: str) -> None:
    answered = await client.call("tools/list", {"cursor": cursor})
    assert (answered.status, answered.error["code"]) == (400, -32602)
    assert answered.error["data"]["reason"] == "invalid_cursor"


@pytest.mark.requirement("lists:pages")
async def test_a_cursor_of_another_list_is_invalid() -> None:
    client = Cluster([tools_under_test], offered(), config={"page_size": 1}).gateway()
    cursor = (await client.call("tools/list")).result["nextCursor"]
    assert (await client.call("prompts/list", {"cursor": cursor})).error["code"] == -32602


@pytest.mark.requirement("lists:pages")
async def test_a_cursor_shows_each_caller_his_own_tools_and_no_others() -> None:
    keys = {name: (f"tbk_{name}", ("*",)) for name in ("ann", "cid")} | {
        "bob": ("tbk_bob", ("add", "ste*"))
    }
    cluster = Cluster([tools_under_test], keys=keys, config={"page_size": 1})
    gateway = cluster.gateway()
    ann, cid, bob = (gateway.with_key(f"tbk_{name}") for name in ("ann", "cid", "bob"))
    of_ann = await pages([ann, cid], "tools/list")  # one goes on where the other was
    assert of_ann == await pages([ann], "tools/list") == await pages([cid], "tools/list")
    assert len(of_ann) > 2
    cursor = (await ann.call("tools/list")).result["nextCursor"]
    page = (await bob.call("tools/list", {"cursor": cursor})).result
    assert [listed["name"] for listed in page["tools"]] == ["steps"]
    assert "nextCursor" not in page
    own = await pages([bob], "tools/list")
    assert [listed["name"] for (listed,) in own] == ["add", "steps"]


@pytest.mark.requirement("tools:list:order")
async def test_a_view_is_made_once_for_all_principals_with_equal_rights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    listed_tools = Catalog.listed_tools

    def noted(self: Catalog, caller: Caller) -> Iterator[ToolSpec]:
        seen.append(caller.principal.name)
        return listed_tools(self, caller)

    monkeypatch.setattr(Catalog, "listed_tools", noted)
    keys = {f"agent-{number}": (f"tbk_{number}", ("a*",)) for number in range(5)}
    client = Cluster([tools_under_test], keys=keys, config={"page_size": 1}).gateway()
    for number in range(5):
        # With a cursor field the request is not in plain form, and no finished list answers it.
        answered = await client.with_key(f"tbk_{number}").call("tools/list", {"cursor": None})
        assert [listed["name"] for listed in answered.result["tools"]] == ["add"]
    assert seen == ["agent-0"]


@pytest.mark.requirement("tools:list:order")
async def test_a_tool_is_written_once_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = lists.tool_json

    def noted(spec: ToolSpec, revision: Revision) -> bytes:
        written.append(spec.name)
        return write(spec, revision)

    monkeypatch.setattr(lists, "tool_json", noted)
    cluster = Cluster([tools_under_test])
    client = cluster.gateway()
    for _ in range(3):
        await client.call("tools/list")
    assert sorted(written) == sorted(set(written))
    written.clear()
    cluster.put(tool_of(tools_under_test.add).spec(POOL.name).__replace__(description="Sums."))
    await client.call("tools/list")
    assert written == ["add"]
