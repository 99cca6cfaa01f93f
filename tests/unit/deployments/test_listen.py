"""Who is told of which change; the streams themselves are in `tests/protocol`."""

from typing import Any

import pytest

from thornback.cluster.catalog import AccessPolicy, Catalog, ResourceSpec, Space, ToolSpec
from thornback.cluster.principals import Caller, Principal
from thornback.deployments.listen import Kind, Stream, note

ANN = Caller(Principal("default", "ann"))
README = ResourceSpec(uri="a:readme", name="readme", sha256="0" * 64, size_bytes=1)


def tool(name: str, **fields: Any) -> ToolSpec:
    about = {"version": "1.0.0", "description": "d", "input_schema": b"{}", "pool": "p", **fields}
    return ToolSpec(name=name, **about)


def catalog(*entries: ToolSpec | ResourceSpec) -> Catalog:
    spaces: dict[Space, dict[str, Any]] = {"tools": {}, "resources": {}}
    for entry in entries:
        spaces["tools" if isinstance(entry, ToolSpec) else "resources"][entry.key] = entry
    return Catalog("sto", 1, 1, spaces)  # type: ignore[arg-type]


def told(
    old: Catalog, new: Catalog, *kinds: Kind, uris: tuple[str, ...] = (), caller: Caller = ANN
) -> set[str]:
    stream = Stream(caller, frozenset(kinds), frozenset(uris))
    note(stream, old, new)
    return stream.due | stream.due_uris


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [tool("t")]),
        ([tool("t")], []),
        ([tool("t")], [tool("t", description="another")]),
        ([tool("t")], [tool("t"), tool("t", version="2.0.0")]),
        ([tool("t", visibility="unlisted")], [tool("t")]),
    ],
)
def test_a_listing_that_changed_is_told(before: list[ToolSpec], after: list[ToolSpec]) -> None:
    assert told(catalog(*before), catalog(*after), "toolsListChanged") == {"toolsListChanged"}
    assert told(catalog(*before), catalog(*after), "promptsListChanged") == set()


@pytest.mark.parametrize(
    "after",
    [
        [tool("t")],
        [tool("t"), tool("t", version="0.9.0")],
        [tool("t"), tool("u", visibility="unlisted")],
        [tool("t"), tool("u", access=AccessPolicy(("bob",)))],
    ],
)
def test_a_change_that_no_listing_shows_is_not_told(after: list[ToolSpec]) -> None:
    assert told(catalog(tool("t")), catalog(*after), "toolsListChanged") == set()


def test_a_tool_outside_of_a_caller_s_patterns_is_not_told() -> None:
    caller = Caller(ANN.principal, ("sql_*",))
    old = catalog()
    assert told(old, catalog(tool("t")), "toolsListChanged", caller=caller) == set()
    assert told(old, catalog(tool("sql_query")), "toolsListChanged", caller=caller)


def test_new_bytes_are_an_update_and_no_other_list() -> None:
    new = README.__class__(uri="a:readme", name="readme", sha256="1" * 64, size_bytes=2)
    changed = catalog(README), catalog(new)
    assert told(*changed, "resourcesListChanged", uris=("a:readme",)) == {"a:readme"}
    assert told(*changed, uris=("a:other",)) == set()
    assert told(catalog(), catalog(new), "resourcesListChanged") == {"resourcesListChanged"}
