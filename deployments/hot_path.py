"""`tools/call`, `tools/list` and `server/discover` of 2026-07-28, without the SDK's kernel.

Nearly every request is one of these three in its plain form, and the kernel would check its
parameters against three models and its result against two. What is plain is told here by looking
at it; everything else, and everything odd, is the kernel's, whose answer is the definition: the
same requests down both ways get the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from thornback.cluster.catalog import Catalog
from thornback.cluster.principals import Caller
from thornback.cluster.revisions import CLIENT_INFO_META, LOG_LEVEL_META
from thornback.deployments.exchange import LOG_LEVELS, Exchange
from thornback.deployments.sdk import Handler, Kernel, fits_envelope

MAX_KEPT_CLIENTS = 1024
MAX_CLIENT_BYTES = 4096
"""Of what a client says of itself, to be remembered as well-formed."""
MAX_KEPT_LISTS_BYTES = 16 * 1024 * 1024

_PLAIN_PARAMS: Mapping[str, frozenset[str]] = {
    "tools/call": frozenset({"name", "arguments", "_meta"}),
    "tools/list": frozenset({"_meta"}),
    "server/discover": frozenset({"_meta"}),
}
_TRACE_META = ("traceparent", "tracestate", "baggage")


class HotPath:
    """Serves what it takes, in place of the kernel."""

    def __init__(self, kernel: Kernel, *, call: Handler, list_tools: Handler) -> None:
        """
        Args:
            call: Answers `tools/call`.
            list_tools: Answers `tools/list`.
        """
        self._kernel = kernel
        self._call = call
        self._list_tools = list_tools
        self._clients = _Clients()
        self._discovered: msgspec.Raw | None = None
        self._lists: dict[Caller, msgspec.Raw] = {}
        self._lists_bytes = 0
        self._lists_of: Catalog | None = None

    def takes(self, exchange: Exchange) -> bool:
        """Whether a request is in plain form, so that the kernel would find nothing wrong with it
        and do nothing about it that is not done here."""
        request = exchange.request
        plain = _PLAIN_PARAMS.get(request.method)
        if plain is None or not exchange.revision.modern or not request.params.keys() <= plain:
            return False
        if request.method == "tools/call":
            params = request.params
            if type(params.get("name")) is not str or type(params.get("arguments", {})) is not dict:
                return False
        return _is_plain(exchange.meta) and self._clients.fit(exchange)

    async def serve(self, exchange: Exchange) -> Mapping[str, Any] | msgspec.Raw:
        """The result of a request that `takes`, complete for its revision.

        Raises:
            ThornbackError: as the kernel's handlers raise it.
        """
        match exchange.request.method:
            case "tools/call":
                return self._kernel.completed(await self._call(exchange))
            case "tools/list":
                return await self._listed(exchange)
            case _:
                if self._discovered is None:
                    self._discovered = _raw(await self._kernel.serve(exchange))
                return self._discovered

    async def _listed(self, exchange: Exchange) -> msgspec.Raw:
        """The first page, made once for each catalog and caller."""
        if self._lists_of is not exchange.catalog or self._lists_bytes > MAX_KEPT_LISTS_BYTES:
            self._lists.clear()
            self._lists_of, self._lists_bytes = exchange.catalog, 0
        listed = self._lists.get(exchange.caller)
        if listed is None:
            listed = _raw(self._kernel.completed(await self._list_tools(exchange)))
            self._lists[exchange.caller] = listed
            self._lists_bytes += len(bytes(listed))
        return listed


class _Clients:
    """What clients say of themselves that was found well-formed: a client says it with every
    request, and in the same bytes."""

    def __init__(self) -> None:
        self._well_formed: set[bytes] = set()

    def fit(self, exchange: Exchange) -> bool:
        """Whether capabilities and name of the client are what the kernel accepts."""
        info = exchange.meta.get(CLIENT_INFO_META)
        if info is None and not exchange.capabilities:
            return True
        try:
            said = msgspec.json.encode((exchange.capabilities, info))
        except OverflowError:  # a number of more than 64 bits
            return False
        if said in self._well_formed:
            return True
        if not fits_envelope(exchange.meta):
            return False
        if len(said) <= MAX_CLIENT_BYTES:
            if len(self._well_formed) >= MAX_KEPT_CLIENTS:
                self._well_formed.clear()
            self._well_formed.add(said)
        return True


def _is_plain(meta: Mapping[str, Any]) -> bool:
    """Whether the fields of `_meta` that are not the client's are of the types they should be."""
    level = meta.get(LOG_LEVEL_META)
    return (
        (level is None or level in LOG_LEVELS)
        and type(meta.get("progressToken", 0)) in (int, str)
        and all(type(meta.get(key, "")) is str for key in _TRACE_META)
    )


def _raw(result: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(result))
