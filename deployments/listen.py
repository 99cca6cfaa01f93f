"""`subscriptions/listen`: changes of the catalog, told to those who asked and may see them.

Held open beside the calls: a stream is a task that sleeps. What has changed is kept as a set, so a
burst of changes is one notification of each kind, and a slow reader costs no memory. Nothing is
replayed: a client that comes back lists again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from thornback.cluster.catalog import Catalog, ResourceSpec, Space, ToolSpec
from thornback.cluster.errors import HttpRefusal
from thornback.cluster.principals import Caller, Principal
from thornback.cluster.revisions import SUBSCRIPTION_META
from thornback.deployments.exchange import Exchange

Kind = Literal["toolsListChanged", "promptsListChanged", "resourcesListChanged"]

MAX_STREAMS = 8192
MAX_STREAMS_PER_PRINCIPAL = 1024
MAX_URIS = 1000
RETRY_AFTER_S = 5
DRAIN_S = 2.0
"""How long all streams of a gateway that is taken away need to end."""

_NOTIFICATIONS: Mapping[Kind, str] = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
_UPDATED = "notifications/resources/updated"


@dataclass(eq=False)
class Stream:
    """One listener, and what it has not been told yet."""

    caller: Caller
    kinds: frozenset[Kind]
    uris: frozenset[str]
    due: set[Kind] = field(default_factory=set)
    due_uris: set[str] = field(default_factory=set)
    over: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Listening:
    """The open listen streams of one gateway."""

    def __init__(self) -> None:
        self._streams: set[Stream] = set()
        self._held: Counter[Principal] = Counter()
        self._closing = False

    async def listen(self, exchange: Exchange) -> dict[str, Any]:
        """Tell the client what changes until it leaves or this gateway stops.

        Raises:
            HttpRefusal: 503 where too many streams are open.
        """
        stream = self._stream_for(exchange)
        meta = {SUBSCRIPTION_META: exchange.request.id}
        honoured: dict[str, Any] = {kind: True for kind in sorted(stream.kinds)}
        if stream.uris:
            honoured["resourceSubscriptions"] = sorted(stream.uris)
        principal = exchange.caller.principal
        self._streams.add(stream)
        self._held[principal] += 1
        try:
            exchange.notify(
                "notifications/subscriptions/acknowledged",
                {"notifications": honoured, "_meta": meta},
            )
            while not stream.over:
                await stream.wake.wait()
                stream.wake.clear()
                _tell(stream, exchange, meta)
        finally:
            self._streams.discard(stream)
            self._held[principal] -= 1
        return {"resultType": "complete", "_meta": meta}

    def changed(self, old: Catalog, new: Catalog) -> None:
        """Take note of a change of the catalog; called on the event loop."""
        if not self._streams:  # comparing 10,000 tools takes milliseconds
            return
        gone = _changed_keys(old, new, "principals")
        changes = _changes(old, new)
        for stream in list(self._streams):
            if stream.caller.principal.name in gone:
                # What this key may see is no longer what it was, if it is still a key at all.
                self._end(stream)
                continue
            note(stream, old, new, changes)
            if stream.due or stream.due_uris:
                stream.wake.set()

    def close(self) -> None:
        """End every stream with its final result, and refuse new ones."""
        self._closing = True
        for stream in list(self._streams):
            self._end(stream)

    async def drain(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """`close`, one stream after the other: their clients all come back, to other gateways."""
        self._closing = True
        streams = list(self._streams)
        for stream in streams:
            self._end(stream)
            await sleep(DRAIN_S / len(streams))

    @staticmethod
    def _end(stream: Stream) -> None:
        stream.over = True
        stream.wake.set()

    def _stream_for(self, exchange: Exchange) -> Stream:
        caller = exchange.caller
        full = (
            len(self._streams) >= MAX_STREAMS
            or self._held[caller.principal] >= MAX_STREAMS_PER_PRINCIPAL
        )
        if full or self._closing:
            why = "this gateway is stopping" if self._closing else "too many open listen streams"
            raise HttpRefusal(503, why, {"Retry-After": str(RETRY_AFTER_S)})
        asked: Mapping[str, Any] = exchange.request.params.get("notifications") or {}
        kinds = frozenset[Kind](kind for kind in _NOTIFICATIONS if asked.get(kind) is True)
        uris = list(asked.get("resourceSubscriptions") or ())[:MAX_URIS]
        # A URI that does not exist and one that is not for this caller look the same.
        seen = (uri for uri in uris if exchange.catalog.get("resources", uri, caller) is not None)
        return Stream(caller, kinds, frozenset(seen))


_WATCHED: tuple[Space, ...] = ("tools", "prompts", "resources", "templates")


def _changed_keys(old: Catalog, new: Catalog, space: Space) -> set[str]:
    before, after = old.of(space), new.of(space)
    if before is after:
        return set()
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _changes(old: Catalog, new: Catalog) -> dict[Space, set[str]]:
    return {space: _changed_keys(old, new, space) for space in _WATCHED}


def note(
    stream: Stream,
    old: Catalog,
    new: Catalog,
    changes: Mapping[Space, set[str]] | None = None,
) -> None:
    """Mark what this stream is to be told, by what its caller saw before and sees now.

    Args:
        changes: Keys of the entries that differ, where they were found already.
    """
    changes = _changes(old, new) if changes is None else changes
    caller = stream.caller
    if "toolsListChanged" in stream.kinds:
        names = {_tool_name(old, new, key) for key in changes["tools"]}
        if any(_listed(old, n, caller) != _listed(new, n, caller) for n in names):
            stream.due.add("toolsListChanged")
    if "promptsListChanged" in stream.kinds and _differ(old, new, "prompts", changes, caller):
        stream.due.add("promptsListChanged")
    if "resourcesListChanged" in stream.kinds and (
        _differ(old, new, "resources", changes, caller)
        or _differ(old, new, "templates", changes, caller)
    ):
        stream.due.add("resourcesListChanged")
    for uri in stream.uris & changes["resources"]:
        if new.get("resources", uri, caller) or old.get("resources", uri, caller):
            stream.due_uris.add(uri)


def _differ(
    old: Catalog, new: Catalog, space: Space, changes: Mapping[Space, Iterable[str]], caller: Caller
) -> bool:
    """Whether the listing of a space changed for this caller."""
    for key in changes[space]:
        before, after = old.get(space, key, caller), new.get(space, key, caller)
        if isinstance(before, ResourceSpec) and isinstance(after, ResourceSpec):
            # New bytes under the same name are an update of it, not another listing.
            if before.name != after.name or before.mime_type != after.mime_type:
                return True
        elif before != after:
            return True
    return False


def _tool_name(old: Catalog, new: Catalog, key: str) -> str:
    spec = new.of("tools").get(key) or old.of("tools").get(key)
    return spec.name if isinstance(spec, ToolSpec) else ""


def _listed(catalog: Catalog, name: str, caller: Caller) -> ToolSpec | None:
    spec = catalog.tool(name, caller)
    return spec if spec is not None and spec.visibility == "listed" else None


def _tell(stream: Stream, exchange: Exchange, meta: Mapping[str, Any]) -> None:
    for kind in sorted(stream.due):
        exchange.notify(_NOTIFICATIONS[kind], {"_meta": meta})
    for uri in sorted(stream.due_uris):
        exchange.notify(_UPDATED, {"uri": uri, "_meta": meta})
    stream.due.clear()
    stream.due_uris.clear()
