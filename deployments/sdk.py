"""The SDK's kernel, and the one place that touches what is not its public API.

The kernel knows which methods exist at which revision, what their parameters look like, and what a
result of that revision may say. It gets a request with its connection rebuilt from what the request
itself carries, and never sees HTTP, sessions or streams.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import mcp.types as wire
import msgspec
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult
from mcp.server.runner import serve_one
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.inbound import (
    InboundLadderRejection,
    classify_inbound_request,
    validate_mcp_param_headers,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types.methods import serialize_server_result, validate_client_request
from pydantic import BaseModel, ValidationError

from thornback.cluster import protocol
from thornback.cluster.catalog import ToolSpec
from thornback.cluster.errors import (
    HeaderMismatch,
    InvalidParams,
    InvalidRequest,
    ThornbackError,
    UnknownMethod,
    UnsupportedVersion,
    shown,
)
from thornback.cluster.revisions import (
    CAPABILITIES_META,
    LATEST_LEGACY,
    MODERN,
    REVISIONS,
    SERVER_INFO_META,
    SUPPORTED_MODERN,
    VERSION_META,
    Revision,
    tool_for,
)
from thornback.deployments.exchange import Exchange

Handler = Callable[[Exchange], Awaitable[dict[str, Any]]]
"""Answers one method: a result in wire names. Those of `direct` methods may hold `msgspec.Raw`."""

DISCOVER_TTL_MS = 60_000
VERSION_KEY = "io.thornback/version"

_PARAMS: Mapping[str, type[BaseModel]] = {
    "tools/list": wire.PaginatedRequestParams,
    "tools/call": wire.CallToolRequestParams,
    "prompts/list": wire.PaginatedRequestParams,
    "prompts/get": wire.GetPromptRequestParams,
    "resources/list": wire.PaginatedRequestParams,
    "resources/templates/list": wire.PaginatedRequestParams,
    "resources/read": wire.ReadResourceRequestParams,
    "resources/subscribe": wire.SubscribeRequestParams,
    "resources/unsubscribe": wire.UnsubscribeRequestParams,
    "subscriptions/listen": wire.SubscriptionsListenRequestParams,
    "completion/complete": wire.CompleteRequestParams,
    "logging/setLevel": wire.SetLevelRequestParams,
}


class Kernel:
    """Serves single requests with our handlers, through the SDK."""

    def __init__(
        self,
        name: str,
        version: str,
        handlers: Mapping[str, Handler],
        direct: Mapping[str, Handler],
        *,
        public: bool,
    ) -> None:
        """
        Args:
            name: Of the server, as clients see it.
            version: Of this program.
            handlers: Methods whose results the SDK shapes for the revision.
            direct: Methods whose results go out as they are, for their size: their parameters are
                checked as all are.
            public: Whether everybody sees the same, so that a shared cache may keep it.
        """
        hint = CacheHint(ttl_ms=DISCOVER_TTL_MS, scope="public" if public else "private")
        self._server: Server[dict[str, Any]] = Server(
            name, version=version, cache_hints={"server/discover": hint}
        )
        for method, handler in {**handlers, **direct}.items():
            self._server.add_request_handler(method, _PARAMS[method], _adapted(handler))
        self._direct = dict(direct)
        self._stamp = msgspec.Raw(msgspec.json.encode(self._server.server_info_stamp))
        # In place of the SDK's own, which makes a span of each request and writes what a handler
        # raised into it; calls have spans of ours (`spans.py`) on both ways.
        self._server.middleware[:] = [self._go_direct]

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """The result of a request, in wire names, complete for its revision.

        Raises:
            ThornbackError: as the handler raised it, or for a method or parameters that the
                revision does not have.
        """
        connection = Connection.from_envelope(
            exchange.revision.name, exchange.client_info, exchange.capabilities
        )
        # Older clients may leave capabilities and name out once a session is not asked for.
        connection.initialized.set()
        return await self._serve(exchange, connection)

    async def initialize(self, exchange: Exchange) -> tuple[dict[str, Any], Revision]:
        """The result of `initialize`, and the revision it agreed on: the client's, or our latest
        of the revisions with a handshake."""
        connection = Connection(_NoChannel(), protocol_version=LATEST_LEGACY.name)
        result = await self._serve(exchange, connection)
        return result, REVISIONS[connection.protocol_version]

    async def _serve(self, exchange: Exchange, connection: Connection) -> dict[str, Any]:
        request = exchange.request
        try:
            return await serve_one(
                self._server,
                _Dispatch(exchange),
                request.method,
                request.params,
                connection=connection,
                lifespan_state={},
            )
        except (MCPError, ValidationError) as error:
            raise _ours(error, request.method) from error

    async def _go_direct(
        self, ctx: ServerRequestContext[dict[str, Any], Any], call_next: CallNext
    ) -> HandlerResult:
        handler = self._direct.get(ctx.method)
        if handler is None:
            return await call_next(ctx)
        validate_client_request(ctx.method, ctx.protocol_version, ctx.params)
        exchange = cast(Exchange, ctx.request)
        result = await handler(exchange)
        return self.completed(result) if exchange.revision.modern else result

    def completed(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result of a direct method with what every result of 2026-07-28 has."""
        meta = {**result.get("_meta", {}), SERVER_INFO_META: self._stamp}
        return {"resultType": "complete", **result, "_meta": meta}


def read_envelope(
    request: protocol.Request, headers: Mapping[str, str]
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The client's capabilities and name, from a request that carries all its context.

    Raises:
        InvalidParams: if `_meta` lacks what it must have.
        HeaderMismatch: if a routing header is missing or differs from the body.
        UnsupportedVersion: if the revision is none of ours.
    """
    body = {"method": request.method, "params": request.params}
    verdict = classify_inbound_request(body, headers=headers)
    if isinstance(verdict, InboundLadderRejection):
        raise _rejected(verdict, request)
    capabilities = verdict.client_capabilities
    if not isinstance(capabilities, dict):
        raise InvalidParams(f"_meta.{CAPABILITIES_META} must be an object")
    info = verdict.client_info
    return capabilities, info if isinstance(info, dict) else None


def fits_envelope(meta: Mapping[str, Any]) -> bool:
    """Whether the kernel has nothing against the `_meta` of a request of 2026-07-28."""
    try:
        validate_client_request("server/discover", MODERN.name, {"_meta": meta})
    except ValidationError:
        return False
    return True


def mirrors_arguments(spec: ToolSpec) -> bool:
    """Whether clients may have to repeat arguments of a tool in headers."""
    return b"x-mcp-header" in bytes(spec.input_schema)


def check_param_headers(
    spec: ToolSpec, arguments: Mapping[str, Any], headers: Mapping[str, str]
) -> None:
    """Hold `Mcp-Param-*` headers to the arguments that the tool's schema mirrors in them.

    Raises:
        HeaderMismatch: if one is missing, superfluous, malformed or different.
    """
    if not mirrors_arguments(spec):
        return
    rejection = validate_mcp_param_headers(json.loads(bytes(spec.input_schema)), arguments, headers)
    if rejection is not None:
        raise HeaderMismatch(rejection.message)


def tool_json(spec: ToolSpec, revision: Revision) -> bytes:
    """A tool as `tools/list` of this revision shows it; its schemas byte for byte as published.

    Raises:
        ValidationError: if the revision has no way to say it.
    """
    hints = spec.annotations
    annotations = {
        "readOnlyHint": hints.read_only,
        "destructiveHint": hints.destructive,
        "idempotentHint": hints.idempotent,
        "openWorldHint": hints.open_world,
    }
    tool: dict[str, Any] = {
        "name": spec.name,
        "title": spec.title,
        "description": spec.description,
        "inputSchema": json.loads(bytes(spec.input_schema)),
        "outputSchema": None
        if spec.output_schema is None
        else json.loads(bytes(spec.output_schema)),
        "annotations": {k: v for k, v in annotations.items() if v is not None} or None,
        "_meta": {VERSION_KEY: spec.version},
    }
    tool = tool_for(revision, {key: value for key, value in tool.items() if value is not None})
    frame = {"tools": [tool], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    shaped = serialize_server_result("tools/list", revision.name, frame)["tools"][0]
    shaped["inputSchema"] = spec.input_schema
    if spec.output_schema is not None and "outputSchema" in shaped:
        shaped["outputSchema"] = spec.output_schema
    return msgspec.json.encode(shaped)


def _adapted(handler: Handler) -> Any:
    async def handle(ctx: ServerRequestContext[dict[str, Any], Any], _: BaseModel) -> Any:
        return await handler(cast(Exchange, ctx.request))

    return handle


@dataclass
class _Dispatch:
    """What the kernel knows of the transport: an exchange, and that nothing can be asked back."""

    exchange: Exchange
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    can_send_request: bool = False

    @property
    def transport(self) -> TransportContext:
        return TransportContext(kind="streamable-http", can_send_request=False, headers={})

    @property
    def request_id(self) -> str | int:
        return self.exchange.request.id

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        return ServerMessageMetadata(request_context=self.exchange)

    async def send_raw_request(self, method: str, params: Any, opts: Any = None) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        self.exchange.notify(method, params or {})

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        raise NotImplementedError("progress is reported through the exchange")


class _NoChannel:
    """A connection that has no channel beside its requests."""

    async def send_raw_request(self, method: str, params: Any, opts: Any = None) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Any, opts: Any = None) -> None:
        return


def _rejected(rejection: InboundLadderRejection, request: protocol.Request) -> ThornbackError:
    match rejection.code:
        case protocol.HEADER_MISMATCH:
            return HeaderMismatch(rejection.message)
        case protocol.UNSUPPORTED_VERSION:
            return UnsupportedVersion((request.meta or {})[VERSION_META], SUPPORTED_MODERN)
        case protocol.INVALID_PARAMS:
            return InvalidParams(rejection.message)
        case _:
            return InvalidRequest(rejection.message)


def _ours(error: MCPError | ValidationError, method: str) -> ThornbackError | Exception:
    """The kernel's own errors in our taxonomy; what it says of our results is a bug of ours."""
    if isinstance(error, ValidationError):
        return InvalidParams(_first_misfit(error))
    match error.error.code:
        case protocol.METHOD_NOT_FOUND:
            return UnknownMethod(method)
        case protocol.INVALID_PARAMS:
            return InvalidParams(error.error.message)
        case _:
            return RuntimeError(f"kernel: {error.error.message}")


def _first_misfit(error: ValidationError) -> str:
    """Where and what, without the value, which may be another's secret in the wrong place."""
    for misfit in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in misfit["loc"])
        return shown(f"{where}: {misfit['msg']}", 300)
    return "the parameters do not fit the method"
