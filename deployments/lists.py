"""`tools/list` and its kin: one caller's view of the catalog, page by page.

Deterministic: entries are in order of their names, and a page begins after a name, not at a number,
so that a change between two pages neither repeats nor skips what did not change. A cursor is
sealed and means the same to every gateway.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from thornback.cluster.catalog import (
    Catalog,
    PromptSpec,
    ResourceSpec,
    Space,
    TemplateSpec,
    ToolRights,
    ToolSpec,
)
from thornback.cluster.errors import InvalidParams
from thornback.cluster.principals import Caller
from thornback.cluster.revisions import Revision
from thornback.deployments.exchange import Exchange
from thornback.deployments.sdk import tool_json
from thornback.deployments.seal import BadSeal, Seals

LIST_TTL_MS = 0
"""Clients may not keep a list: the catalog can change at any moment, and the listing is cheap."""
MAX_KEPT_VIEWS = 256

Named = TypeVar("Named", ToolSpec, PromptSpec, ResourceSpec, TemplateSpec)


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a list goes on."""

    space: Space
    last: str
    """Key of the last entry that was shown."""
    number: int
    """Of the catalog that the page was made from."""


class Lists:
    """Answers the methods that list."""

    def __init__(self, seals: Seals, page_size: int, cache_scope: str) -> None:
        self._seals = seals
        self._page_size = page_size
        self._cache_scope = cache_scope
        self._tool_bytes = _ToolBytes()
        self._views: dict[ToolRights, list[ToolSpec]] = {}
        self._views_of: Catalog | None = None

    async def tools(self, exchange: Exchange) -> dict[str, Any]:
        """For the kernel's direct way: the tools are joined from bytes made once."""
        specs = self._tools_of(exchange.catalog, exchange.caller)
        page, cursor = self._page(exchange, "tools", specs, lambda spec: spec.name)
        made = [self._tool_bytes.of(spec, exchange.revision) for spec in page]
        result: dict[str, Any] = {"tools": msgspec.Raw(b"[" + b",".join(made) + b"]")}
        if exchange.revision.modern:
            result |= {"ttlMs": LIST_TTL_MS, "cacheScope": self._cache_scope}
        return result | cursor

    async def prompts(self, exchange: Exchange) -> dict[str, Any]:
        return self._list(exchange, "prompts", "prompts", PromptSpec, _prompt)

    async def resources(self, exchange: Exchange) -> dict[str, Any]:
        return self._list(exchange, "resources", "resources", ResourceSpec, _resource)

    async def templates(self, exchange: Exchange) -> dict[str, Any]:
        return self._list(exchange, "templates", "resourceTemplates", TemplateSpec, _template)

    def _list(
        self,
        exchange: Exchange,
        space: Space,
        field: str,
        kind: type[Named],
        shape: Callable[[Named], dict[str, Any]],
    ) -> dict[str, Any]:
        visible = exchange.catalog.visible(space, exchange.caller)
        entries = [entry for entry in visible if isinstance(entry, kind)]
        page, cursor = self._page(exchange, space, entries, lambda entry: entry.key)
        return {
            "resultType": "complete",
            field: [shape(entry) for entry in page],
            "ttlMs": LIST_TTL_MS,
            "cacheScope": self._cache_scope,
            **cursor,
        }

    def _page(
        self,
        exchange: Exchange,
        space: Space,
        entries: Sequence[Named],
        key: Callable[[Named], str],
    ) -> tuple[Sequence[Named], dict[str, str]]:
        """The entries after the request's cursor, and `nextCursor` where there are more."""
        asked = exchange.request.params.get("cursor")
        start = 0 if asked is None else bisect_right(entries, self._after(asked, space), key=key)
        page = entries[start : start + self._page_size]
        if start + len(page) >= len(entries):
            return page, {}
        cursor = Cursor(space, key(page[-1]), exchange.catalog.number)
        return page, {"nextCursor": self._seals.seal("cursor", msgspec.msgpack.encode(cursor))}

    def _after(self, asked: str, space: Space) -> str:
        try:
            cursor = _cursor_decoder.decode(self._seals.open("cursor", asked))
        except (BadSeal, msgspec.MsgspecError):
            raise InvalidParams("unknown cursor", "invalid_cursor") from None
        if cursor.space != space:
            raise InvalidParams("this cursor is of another list", "invalid_cursor")
        return cursor.last

    def _tools_of(self, catalog: Catalog, caller: Caller) -> list[ToolSpec]:
        if catalog is not self._views_of:
            self._views_of = catalog
            self._views.clear()
            self._tool_bytes.keep(catalog)
        rights = catalog.tool_rights(caller)
        view = self._views.get(rights)
        if view is None:
            if len(self._views) >= MAX_KEPT_VIEWS:
                self._views.clear()
            view = self._views[rights] = list(catalog.listed_tools(caller))
        return view


class _ToolBytes:
    """The JSON of each tool, made once for each content and revision."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[ToolSpec, dict[str, bytes]]] = {}

    def of(self, spec: ToolSpec, revision: Revision) -> bytes:
        known, made = self._made.get(spec.key, (None, {}))
        if known is not spec:
            made = {}
            self._made[spec.key] = (spec, made)
        if revision.name not in made:
            made[revision.name] = tool_json(spec, revision)
        return made[revision.name]

    def keep(self, catalog: Catalog) -> None:
        """Forget the tools that are not in `catalog`."""
        tools = catalog.of("tools")
        self._made = {key: made for key, made in self._made.items() if key in tools}


_cursor_decoder = msgspec.msgpack.Decoder(Cursor)


def _prompt(spec: PromptSpec) -> dict[str, Any]:
    arguments = [
        _present(name=a.name, description=a.description or None, required=a.required)
        for a in spec.arguments
    ]
    return _present(
        name=spec.name, title=spec.title, description=spec.description, arguments=arguments
    )


def _resource(spec: ResourceSpec) -> dict[str, Any]:
    return _present(
        uri=spec.uri,
        name=spec.name,
        title=spec.title,
        description=spec.description,
        mimeType=spec.mime_type,
        size=spec.size_bytes,
    )


def _template(spec: TemplateSpec) -> dict[str, Any]:
    return _present(
        uriTemplate=spec.uri_template,
        name=spec.name,
        title=spec.title,
        description=spec.description,
        mimeType=spec.mime_type,
    )


def _present(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
