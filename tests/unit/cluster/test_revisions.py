from typing import Any

import pytest

from thornback.cluster.errors import HeaderMismatch
from thornback.cluster.revisions import (
    MODERN,
    REVISIONS,
    VERSION_META,
    content_for,
    revision_asked,
    tool_for,
)

OLDER = [name for name, revision in REVISIONS.items() if not revision.modern]
TOOL: dict[str, Any] = {
    "name": "t",
    "title": "T",
    "annotations": {"readOnlyHint": True},
    "inputSchema": {"type": "object"},
    "outputSchema": {"type": "object"},
}


@pytest.mark.parametrize("name", OLDER)
def test_an_older_header_says_its_revision(name: str) -> None:
    assert revision_asked(name, None) == REVISIONS[name]
    assert revision_asked(name, {"progressToken": 1}) == REVISIONS[name]


@pytest.mark.parametrize("header", [MODERN.name, "2099-01-01", "", "draft"])
def test_any_other_header_is_answered_as_a_modern_one(header: str) -> None:
    assert revision_asked(header, None) == MODERN


def test_without_header_and_envelope_nothing_is_said() -> None:
    assert revision_asked(None, None) is None


@pytest.mark.parametrize("header", [None, *OLDER])
def test_a_modern_body_under_another_header_is_a_mismatch(header: str | None) -> None:
    with pytest.raises(HeaderMismatch):
        revision_asked(header, {VERSION_META: MODERN.name})


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("2024-11-05", {"annotations", "title", "outputSchema"}),
        ("2025-03-26", {"title", "outputSchema"}),
        ("2025-06-18", set()),
        ("2026-07-28", set()),
    ],
)
def test_a_tool_shows_what_the_revision_has(name: str, hidden: set[str]) -> None:
    assert TOOL.keys() - tool_for(REVISIONS[name], TOOL).keys() == hidden


def test_only_the_newest_revision_has_results_that_are_no_objects() -> None:
    tool = {**TOOL, "outputSchema": {"type": "array"}}
    assert "outputSchema" not in tool_for(REVISIONS["2025-11-25"], tool)
    assert "outputSchema" in tool_for(MODERN, tool)


def test_content_of_an_unknown_kind_becomes_text() -> None:
    link = {"type": "resource_link", "uri": "a:b", "name": "B"}
    assert content_for(REVISIONS["2025-06-18"], link) == link
    assert content_for(REVISIONS["2025-03-26"], link) == {"type": "text", "text": "B: a:b"}
    sound = {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}
    assert content_for(REVISIONS["2025-03-26"], sound) == sound
    assert content_for(REVISIONS["2024-11-05"], sound)["type"] == "text"
