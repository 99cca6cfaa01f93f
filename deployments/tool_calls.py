"""`tools/call` at the edge: a request into a `Call` for the engine, its outcome into a result.

Progress, partial results and logs leave while the tool runs. The arguments are not read here, and
the content of a result only for revisions that have fewer kinds of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from thornback.cluster.errors import (
    InvalidParams,
    MissingCapability,
    ProtocolError,
    ThornbackError,
    ToolFailure,
    UnknownResource,
)
from thornback.cluster.ids import new_id
from thornback.cluster.messages import (
    Complete,
    Event,
    InputNeeded,
    Log,
    LogLevel,
    Partial,
    Progress,
    Raised,
)
from thornback.cluster.protocol import (
    ERROR_META,
    MISSING_CAPABILITY,
    error_result,
    is_result,
    raw_arguments,
)
from thornback.cluster.revisions import REVISIONS, SERVER_INFO_META, Revision, content_for
from thornback.deployments.exchange import LOG_LEVELS, Exchange
from thornback.deployments.request_states import RequestStates
from thornback.deployments.routing import Call, Routed
from thornback.tools.input_requests import missing_capability

VERSION_META = "io.thornback/version"
USAGE_META = "io.thornback/usage"
ATTEMPTS_META = "io.thornback/attempts"
PARTIAL_META = "io.thornback/partial"

_ALL_CONTENT = frozenset[str]().union(*(r.content_types for r in REVISIONS.values()))


class Engine(Protocol):
    """What runs calls: `routing.RoutingEngine`."""

    async def call(self, call: Call, emit: Callable[[Event], None]) -> Routed: ...


class InputNotPossible(ToolFailure):
    """The tool asks its user something, and this client's revision has no way to."""

    code = "tool.input_not_possible"

    def __init__(self, tool: str, revision: str) -> None:
        super().__init__(tool, revision)
        self.tool = tool
        self.revision = revision

    def __str__(self) -> str:
        return (
            f"{self.tool} needs input from the user, and that takes a client that speaks MCP "
            f"2026-07-28; this one speaks {self.revision}"
        )


class ToolCalls:
    """Answers `tools/call`."""

    def __init__(self, engine: Engine, states: RequestStates) -> None:
        self._engine = engine
        self._states = states

    async def call(self, exchange: Exchange) -> dict[str, Any]:
        """For the kernel's direct way.

        Raises:
            ThornbackError: for what is not a result: an unknown tool, a full queue, ...
        """
        call = self._call_of(exchange)
        try:
            routed = await self._engine.call(call, Reporter(exchange))
            match routed.outcome:
                case Complete() as complete:
                    return _shaped(exchange, complete, routed)
                case InputNeeded() as needed:
                    return self._input_required(exchange, needed)
                case Raised() as raised:
                    raise _raised(raised)
        except ThornbackError as error:
            if not is_result(error):
                raise
            exchange.error = error.code
            return error_result(error)

    def _call_of(self, exchange: Exchange) -> Call:
        params, meta = exchange.request.params, exchange.meta
        modern = exchange.revision.modern
        # Older revisions have no such parameter, so that nobody has checked its shape.
        responses = params.get("inputResponses") if modern else None
        return Call(
            caller=exchange.caller,
            tool=params["name"],
            arguments=raw_arguments(exchange.body),
            call_id=new_id("call"),
            request_id=exchange.request_id,
            version=requested_version(meta),
            progress=exchange.progress_token is not None,
            log_level=exchange.log_level,
            capabilities=_encoder.encode(exchange.capabilities) if exchange.capabilities else b"{}",
            input_responses=None if responses is None else _encoder.encode(responses),
            request_state=self._states.open(exchange) if modern else None,
            span=exchange.span,
        )

    def _input_required(self, exchange: Exchange, needed: InputNeeded) -> dict[str, Any]:
        if not exchange.revision.modern:
            name = exchange.request.params["name"]
            raise InputNotPossible(name, exchange.revision.name)
        return input_required(exchange, needed, self._states)


def input_required(
    exchange: Exchange, needed: InputNeeded, states: RequestStates
) -> dict[str, Any]:
    """The interim result that asks for input (2026-07-28, basic/patterns/mrtr).

    Raises:
        MissingCapability: if the client did not declare that it can answer what is asked.
    """
    asks: dict[str, Any] = msgspec.json.decode(needed.requests)
    for ask in asks.values():
        if missing := missing_capability(ask, exchange.capabilities):
            raise MissingCapability(missing)
    result: dict[str, Any] = {"resultType": "input_required"}
    if asks:
        result["inputRequests"] = asks
    if needed.request_state is not None or not asks:
        result["requestState"] = states.seal(exchange, needed.request_state or "")
    return result


def requested_version(meta: Mapping[str, Any]) -> str | None:
    """The version of the tool that a request's `_meta` names, if it names one.

    Raises:
        InvalidParams: if what it names is no text.
    """
    version = meta.get(VERSION_META)
    if version is not None and not isinstance(version, str):
        raise InvalidParams(f"_meta {VERSION_META} is not a string")
    return version


class Reporter:
    """Turns events of a call into notifications of its exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._notify = exchange.notify
        self._room = exchange.room
        self._token = exchange.progress_token
        self._log_level = exchange.log_level
        self._last = -math.inf

    def __call__(self, event: Event) -> None:
        match event:
            case Progress():
                self._progress(event.progress, event.total, event.message)
            case Partial():
                self._progress(event.seq + 1.0, None, event.text, is_item=True)
            case Log() if _is_due(event.level, self._log_level):
                self._log(event)

    async def room(self) -> None:
        """Wait until the client has read so much that another item is not too much."""
        await self._room()

    def _progress(
        self, progress: float, total: float | None, message: str | None, *, is_item: bool = False
    ) -> None:
        if self._token is None or not math.isfinite(progress):
            return
        # Partial results and progress of one call share a scale, and it may only grow
        # (2026-07-28, basic/patterns/progress).
        self._last = max(progress, math.nextafter(self._last, math.inf))
        params: dict[str, Any] = {"progressToken": self._token, "progress": self._last}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        if is_item:  # what `thornback call --stream` tells items from progress by
            params["_meta"] = {PARTIAL_META: True}
        self._notify("notifications/progress", params)

    def _log(self, event: Log) -> None:
        params: dict[str, Any] = {"level": event.level, "data": msgspec.Raw(event.data)}
        if event.logger is not None:
            params["logger"] = event.logger
        self._notify("notifications/message", params)


def _is_due(level: LogLevel, least: LogLevel | None) -> bool:
    return least is not None and LOG_LEVELS.index(level) >= LOG_LEVELS.index(least)


class _Parts(msgspec.Struct, rename="camel"):
    """A `CallToolResult`, taken apart no further than needed."""

    content: msgspec.Raw = msgspec.Raw(b"[]")
    structured_content: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False
    meta: dict[str, msgspec.Raw] = msgspec.field(name="_meta", default_factory=dict)


_encoder = msgspec.json.Encoder()
_parts_decoder = msgspec.json.Decoder(_Parts)


def _shaped(exchange: Exchange, outcome: Complete, routed: Routed) -> dict[str, Any]:
    """The `CallToolResult` of a finished call as the exchange's revision has it."""
    parts, revision = _parts_decoder.decode(outcome.result), exchange.revision
    meta: dict[str, Any] = parts.meta
    meta.pop(SERVER_INFO_META, None)  # a tool must not sign for the server
    meta[USAGE_META] = {
        "queueS": round(routed.queue_s, 6),
        "runS": round(outcome.run_s, 6),
        "cpuS": round(outcome.cpu_s, 6),
    }
    meta[VERSION_META] = routed.version
    if routed.attempts > 1:
        meta[ATTEMPTS_META] = routed.attempts
    if outcome.is_error:
        exchange.error = outcome.error_code or ToolFailure.code
        meta.setdefault(ERROR_META, {"code": exchange.error})
    result: dict[str, Any] = {
        "content": _content(revision, parts.content),
        "isError": outcome.is_error,
        "_meta": meta,
    }
    if _has_structure(revision, parts.structured_content):
        result["structuredContent"] = parts.structured_content
    return result


def _raised(raised: Raised) -> ProtocolError:
    """A JSON-RPC error that the tool chose, held to the numbers that a tool may choose."""
    data = msgspec.json.decode(raised.data) if raised.data else {}
    match data:
        case {"requiredCapabilities": dict() as required} if raised.rpc_code == MISSING_CAPABILITY:
            return MissingCapability(required)
        case {"uri": str() as uri}:
            return UnknownResource(uri)
    return InvalidParams(raised.message.removeprefix("Invalid params: "))


def _content(revision: Revision, content: msgspec.Raw) -> Any:
    if revision.content_types >= _ALL_CONTENT:
        return content
    return [content_for(revision, block) for block in msgspec.json.decode(content)]


def _has_structure(revision: Revision, structure: msgspec.Raw) -> bool:
    if not bytes(structure) or not revision.structured:
        return False
    return revision.any_structure or bytes(structure).startswith(b"{")
