"""`tools/call`, `tools/list` and `server/discover` of 2026-07-28, without the SDK's kernel.

Nearly every request is one of these three in its plain form, and the kernel would check its
parameters against three models and its result against two. What is plain is told here by looking
at it; everything else, and everything odd, is the kernel's, whose answer is the definition: the
same requests down both ways get the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

import msgspec

from thornback.cluster.catalog import Catalog, ToolRights, ToolSpec, content_hash_of
from thornback.cluster.revisions import (
    CAPABILITIES_META,
    CLIENT_INFO_META,
    LOG_LEVEL_META,
    MODERN,
    VERSION_META,
)
from thornback.deployments.exchange import LOG_LEVELS, Exchange, Incoming
from thornback.deployments.http_edge import Headers
from thornback.deployments.replies import Reply
from thornback.deployments.sdk import (
    VERSION_KEY,
    Handler,
    Kernel,
    fits_envelope,
    mirrors_arguments,
)

MAX_KEPT_CLIENTS = 1024
MAX_CLIENT_BYTES = 4096
"""Of what a client says of itself, to be remembered as well-formed."""
MAX_KEPT_TOOLS = 16_384
MAX_KEPT_LISTS_BYTES = 16 * 1024 * 1024

_PLAIN_PARAMS: Mapping[str, frozenset[str]] = {
    "tools/call": frozenset({"name", "arguments", "_meta"}),
    "tools/list": frozenset({"_meta"}),
    "server/discover": frozenset({"_meta"}),
}


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
        self._mirroring = _Mirroring()
        self._discovered: msgspec.Raw | None = None
        self._lists: dict[ToolRights, msgspec.Raw] = {}
        self._lists_bytes = 0
        self._lists_of: Catalog | None = None

    def exchange(self, incoming: Incoming, reply: Reply) -> Exchange | None:
        """A request in plain form with its context.

        None for what is not: where headers and body differ or spell the same in two ways, where
        arguments are mirrored in headers, and wherever the kernel might find something wrong.
        """
        request, body, headers, caller, catalog, request_id = incoming
        params, method = request.params, request.method
        plain = _PLAIN_PARAMS.get(method)
        if plain is None or not plain.issuperset(params):
            return None
        meta = params.get("_meta")
        if type(meta) is not dict or not _agree(method, meta, headers):
            return None
        if method == "tools/call" and not self._is_plain_call(incoming, meta):
            return None
        capabilities, info = meta.get(CAPABILITIES_META), meta.get(CLIENT_INFO_META)
        if type(capabilities) is not dict or not self._clients.fit(meta, capabilities, info):
            return None
        return Exchange(
            request=request,
            body=body,
            revision=MODERN,
            caller=caller,
            catalog=catalog,
            capabilities=capabilities,
            client_info=info,
            notify=reply.notify,
            room=reply.room,
            request_id=request_id,
        )

    def _is_plain_call(self, incoming: Incoming, meta: Mapping[str, Any]) -> bool:
        params = incoming.request.params
        name, version = params.get("name"), meta.get(VERSION_KEY)
        if type(name) is not str or incoming.headers.get("mcp-name") != name:
            return False
        if name.startswith("=?"):  # which may stand for another name
            return False
        if type(params.get("arguments", {})) is not dict or type(version) not in (str, NoneType):
            return False
        spec = incoming.catalog.tool(name, incoming.caller, version)
        return spec is None or not self._mirroring.has(spec)

    async def serve(self, exchange: Exchange) -> Mapping[str, Any] | msgspec.Raw:
        """The result of a request in plain form, complete for its revision.

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
        """The first page, made once for each catalog and for all who see the same of it.

        Its cursor names a place in the list and no caller: whoever goes on from there sees his own.
        """
        if self._lists_of is not exchange.catalog or self._lists_bytes > MAX_KEPT_LISTS_BYTES:
            self._lists.clear()
            self._lists_of, self._lists_bytes = exchange.catalog, 0
        rights = exchange.catalog.tool_rights(exchange.caller)
        listed = self._lists.get(rights)
        if listed is None:
            listed = _raw(self._kernel.completed(await self._list_tools(exchange)))
            self._lists[rights] = listed
            self._lists_bytes += len(bytes(listed))
        return listed


def _agree(method: str, meta: Mapping[str, Any], headers: Headers) -> bool:
    """Whether headers and body say the same, in the same letters, and `_meta` nothing odd.

    What the kernel reads of a client is looked at elsewhere.
    """
    level = meta.get(LOG_LEVEL_META)
    return (
        headers.get("mcp-protocol-version") == meta.get(VERSION_META) == MODERN.name
        and headers.get("mcp-method") == method
        and (level is None or level in LOG_LEVELS)
        and type(meta.get("progressToken", 0)) in (int, str)
        and type(meta.get("traceparent", "")) is str
        and type(meta.get("tracestate", "")) is str
        and type(meta.get("baggage", "")) is str
    )


class _Clients:
    """What clients say of themselves that was found well-formed: a client says it with every
    request, and in the same bytes."""

    def __init__(self) -> None:
        self._well_formed: set[bytes] = set()

    def fit(self, meta: Mapping[str, Any], capabilities: Mapping[str, Any], info: Any) -> bool:
        """Whether capabilities and name of the client are what the kernel accepts."""
        if info is None and not capabilities:
            return True
        try:
            said = _encoder.encode((capabilities, info))
        except OverflowError:  # a number of more than 64 bits
            return False
        if said in self._well_formed:
            return True
        if not fits_envelope(meta):
            return False
        if len(said) <= MAX_CLIENT_BYTES:
            if len(self._well_formed) >= MAX_KEPT_CLIENTS:
                self._well_formed.clear()
            self._well_formed.add(said)
        return True


class _Mirroring:
    """Which tools have arguments that clients repeat in headers."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}
        """By content hash."""

    def has(self, spec: ToolSpec) -> bool:
        key = spec.content_hash or content_hash_of(spec)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MAX_KEPT_TOOLS:
                self._known.clear()
            known = self._known[key] = mirrors_arguments(spec)
        return known


_encoder = msgspec.json.Encoder()


def _raw(result: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(result))
