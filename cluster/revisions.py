"""The protocol revisions we speak, what each one changes, and which one a request is at.

Two eras share one URL. Since 2026-07-28 every request says in its `_meta` all that it needs;
before, `initialize` opened a session, and a request says its revision by header or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from thornback.cluster.errors import HeaderMismatch

VERSION_META = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_META = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO_META = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL_META = "io.modelcontextprotocol/logLevel"
SERVER_INFO_META = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_META = "io.modelcontextprotocol/subscriptionId"


class Revision(msgspec.Struct, frozen=True):
    """One protocol revision, by what it lets us say."""

    name: str
    modern: bool = False
    """Whether requests carry all their context, so that there is neither session nor handshake."""
    annotations: bool = True
    titles: bool = True
    structured: bool = True
    """Whether tools have output schemas and results have structured content."""
    any_structure: bool = False
    """Whether structured content may be anything but an object."""
    content_types: frozenset[str] = frozenset(
        {"text", "image", "audio", "resource", "resource_link"}
    )


_OLD_CONTENT = frozenset({"text", "image", "resource"})

MODERN = Revision("2026-07-28", modern=True, any_structure=True)
LATEST_LEGACY = Revision("2025-11-25")
ASSUMED = Revision(
    "2025-03-26", titles=False, structured=False, content_types=_OLD_CONTENT | {"audio"}
)
"""What a request is at that says nothing (2025-11-25, transports, "Protocol Version Header")."""

REVISIONS: Mapping[str, Revision] = {
    revision.name: revision
    for revision in (
        Revision(
            "2024-11-05",
            annotations=False,
            titles=False,
            structured=False,
            content_types=_OLD_CONTENT,
        ),
        ASSUMED,
        Revision("2025-06-18"),
        LATEST_LEGACY,
        MODERN,
    )
}
SUPPORTED_MODERN = [MODERN.name]
"""What `server/discover` and -32022 name: older revisions cannot be asked for by `_meta`."""


def revision_asked(version_header: str | None, meta: Mapping[str, Any] | None) -> Revision | None:
    """The revision that a request is at, or None where only its session can say.

    A header that names no revision we know is taken for a modern one, so that the client gets
    the structured answer of that era (-32022) and can choose again.

    Raises:
        HeaderMismatch: if the body is modern and the header is missing or older.
    """
    said = ASSUMED if version_header is None else REVISIONS.get(version_header, MODERN)
    if said.modern:
        return MODERN
    if meta is not None and VERSION_META in meta:
        header = "missing" if version_header is None else said.name
        raise HeaderMismatch(
            f"MCP-Protocol-Version header is {header}, but the body's _meta has {VERSION_META}"
        )
    return None if version_header is None else said


def tool_for(revision: Revision, tool: dict[str, Any]) -> dict[str, Any]:
    """A tool of `tools/list` with the fields that `revision` has."""
    hidden = set()
    if not revision.annotations:
        hidden.add("annotations")
    if not revision.titles:
        hidden.add("title")
    output = tool.get("outputSchema")
    object_only = not revision.any_structure and (output or {}).get("type") != "object"
    if not revision.structured or object_only:
        hidden.add("outputSchema")
    return {key: value for key, value in tool.items() if key not in hidden}


def content_for(revision: Revision, block: Mapping[str, Any]) -> dict[str, Any]:
    """A content block, as text where `revision` has no such type of block."""
    kind = block.get("type")
    if kind in revision.content_types:
        return dict(block)
    if kind == "resource_link":
        return {"type": "text", "text": f"{block.get('name', 'resource')}: {block.get('uri')}"}
    return {"type": "text", "text": f"[{kind} content, which this client's revision cannot show]"}
