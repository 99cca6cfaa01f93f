"""`RoutingEngine`: a call that was understood, to the pool that runs it.

Catalog, policy, arguments, deadline, dispatch, retry: in this order, and each decision is made
elsewhere (`catalog.py`, `policies.py`, `validation.py`). The engine never parses a result, holds no
lock across an await, and knows neither HTTP nor how a pool is reached.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from thornback.cluster.catalog import Catalog, PoolEntry, ToolSpec, content_hash_of
from thornback.cluster.errors import (
    InvalidArguments,
    NoReplica,
    Overloaded,
    PoolBroken,
    ThornbackError,
    ToolFailure,
    ToolTimeout,
    Unavailable,
    UnknownTool,
    shown,
)
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    Event,
    InputNeeded,
    LogLevel,
    Partial,
    Progress,
    Raised,
    Refused,
)
from thornback.cluster.policies import GiveUp, retry_verdict
from thornback.cluster.principals import Caller
from thornback.cluster.validation import SchemaCheck, nearest
from thornback.deployments.clock import Clock
from thornback.deployments.dispatch import Emit, Pool, refusal
from thornback.deployments.telemetry import CallFacts
from thornback.deployments.telemetry import Outcome as Kind

if TYPE_CHECKING:
    from thornback.deployments.spans import AttemptSpan, CallSpan

MAX_CHECKS = 4096
"""Compiled schemas kept; the oldest goes first."""

Observe = Callable[[CallFacts], None]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One `tools/call`, decoded and its caller known."""

    caller: Caller
    tool: str
    arguments: bytes
    """A JSON object, as it came."""
    call_id: str
    """Ours, and unique."""
    request_id: str = ""
    """What log lines name it by; its client may have chosen it, and chosen it before."""
    version: str | None = None
    """Version that the caller names; None: the newest stable one."""
    progress: bool = False
    log_level: LogLevel | None = None
    capabilities: bytes = b"{}"
    input_responses: bytes | None = None
    request_state: str | None = None
    """Opened by the edge: what the tool left, as plain text."""
    span: CallSpan | None = None
    """None: the call is not traced."""


class Routed(msgspec.Struct, frozen=True):
    """What a call came to, and how."""

    outcome: Complete | InputNeeded | Raised
    version: str
    """Version of the tool that ran."""
    attempts: int
    queue_s: float
    """Seconds from the call's arrival until a host admitted the attempt that answered."""


class PoolFinder(Protocol):
    """Where pools come from, by their entry in the catalog; `dispatch.Pools` is one."""

    def get(self, entry: PoolEntry) -> Pool: ...


class RoutingEngine:
    """Routes calls by the catalog of the moment. One for each gateway."""

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        pools: PoolFinder,
        clock: Clock,
        max_timeout_s: float = 3600.0,
        observe: Observe | None = None,
    ) -> None:
        """
        Args:
            catalog: The catalog as this gateway knows it now.
            max_timeout_s: Hard limit on the time of any call, in seconds.
            observe: Told of each call of a tool that there is, when it is over.
        """
        self._catalog = catalog
        self._pools = pools
        self._clock = clock
        self._max_timeout_s = max_timeout_s
        self._observe = observe
        self._checks = _SchemaChecks()

    async def call(self, call: Call, emit: Emit) -> Routed:
        """Run a call. Cancelling the awaiting task cancels the tool.

        Args:
            emit: Gets progress, items and log messages as they come.

        Raises:
            UnknownTool: no tool of that name and version that this caller may use.
            InvalidArguments: they do not fit the tool's input schema.
            ToolTimeout: it did not finish in time.
            Unavailable: nobody could run it.
        """
        arrived = self._clock.monotonic()
        catalog = self._catalog()
        spec = tool_for(call, catalog)
        reports = _Reports(emit, self._clock, arrived)
        came_to: Routed | BaseException | None = None
        try:
            came_to = await self._routed(call, spec, catalog, reports)
            return came_to
        except BaseException as error:
            came_to = error
            raise
        finally:
            if self._observe is not None:
                self._observe(_facts(call, spec, reports, came_to, self._clock.monotonic()))

    async def _routed(
        self, call: Call, spec: ToolSpec, catalog: Catalog, reports: _Reports
    ) -> Routed:
        pool = self._pools.get(_pool_of(spec, catalog))
        timeout_s = min(spec.call.timeout_s, self._max_timeout_s)
        queue_timeout_s = min(spec.call.queue_timeout_s, self._max_timeout_s)
        fitting = await self._fitting(spec, call.arguments)
        if fitting is not call.arguments:
            call = msgspec.structs.replace(call, arguments=fitting)
        return await self._attempt(call, spec, pool, reports, timeout_s, queue_timeout_s)

    async def _fitting(self, spec: ToolSpec, arguments: bytes) -> bytes:
        """The arguments as the tool gets them, once they fit its input schema."""
        try:
            check = await self._checks.of(spec)
        except ValueError as error:
            raise PoolBroken(
                spec.pool, spec.module, f"input schema of {spec.name}: {error}"
            ) from None
        try:
            value = msgspec.json.decode(arguments)
        except msgspec.DecodeError as error:
            raise InvalidArguments(spec.name, [f"(top): not JSON: {shown(str(error))}"]) from None
        fitting, misfits = check.arguments(value)
        if misfits:
            raise InvalidArguments(spec.name, misfits)
        return arguments if fitting is value else msgspec.json.encode(fitting)

    async def _attempt(
        self,
        call: Call,
        spec: ToolSpec,
        pool: Pool,
        reports: _Reports,
        timeout_s: float,
        queue_timeout_s: float,
    ) -> Routed:
        """Send the call until it is answered, or must not or need not be sent again."""
        attempts = 0
        failure: Unavailable | None = None
        deadline = reports.arrived_at + queue_timeout_s + timeout_s
        while True:
            attempts += 1
            left_s = deadline - self._clock.monotonic()
            message = _message(
                call, spec, attempts, min(timeout_s, left_s), min(queue_timeout_s, left_s)
            )
            try:
                outcome = await (
                    pool.call(message, reports)
                    if call.span is None
                    else _traced(call.span.attempt(pool.name, attempts), message, pool, reports)
                )
                if not isinstance(outcome, Refused):
                    return Routed(outcome, spec.version, attempts, reports.queue_s or 0.0)
                failure = refusal(pool.name, outcome)
            except ToolTimeout:
                raise ToolTimeout(spec.name, timeout_s) from None
            except Overloaded as full:
                # Only a new call is refused at the door: of one that was admitted, what became of
                # its last attempt is the answer.
                raise failure or full from None
            except Unavailable as error:
                failure = error
            verdict = retry_verdict(
                failure,
                # What the client has seen of an attempt cannot be taken back.
                repeatable=spec.repeatable and not reports.said_items,
                attempts=attempts,
                max_attempts=spec.call.max_attempts,
                remaining_s=deadline - self._clock.monotonic(),
            )
            if isinstance(verdict, GiveUp):
                raise failure
            await asyncio.sleep(verdict.pause_s)


def tool_for(call: Call, catalog: Catalog) -> ToolSpec:
    """The version of the tool that answers this call.

    Raises:
        UnknownTool: there is none that this caller may use; the hint is from what it may see.
        PoolBroken: there would be, but the pool that declares it could not be loaded.
    """
    caller = call.caller
    spec = catalog.tool(call.tool, caller, call.version)
    if spec is not None:
        return spec
    if call.version is not None and catalog.tool(call.tool, caller) is not None:
        raise UnknownTool(call.tool, f"it has no version {shown(call.version)}")
    # Whom a lost tool admits is not known, but where another version of it is still there, that
    # one does not admit this caller.
    if caller.may_use(call.tool) and call.tool not in catalog.tools:
        for entry in catalog.of("pools").values():
            if isinstance(entry, PoolEntry) and call.tool in _lost(entry):
                raise _broken(entry)
    near = nearest(call.tool, (s.name for s in catalog.listed_tools(caller)))
    raise UnknownTool(call.tool, f"did you mean {near}?" if near else "")


def _pool_of(spec: ToolSpec, catalog: Catalog) -> PoolEntry:
    entry = catalog.pool(spec.pool)
    if entry is None:
        raise NoReplica(spec.pool, "it is not in the catalog", 1.0)
    if entry.state == "broken":
        raise _broken(entry)
    return entry


def _lost(entry: PoolEntry) -> tuple[str, ...]:
    return entry.lost_tools if entry.state == "broken" else ()


def _broken(entry: PoolEntry) -> PoolBroken:
    return PoolBroken(entry.name, entry.failed_module or "its modules", entry.cause or "unknown")


def _message(
    call: Call, spec: ToolSpec, attempt: int, remaining_s: float, queue_timeout_s: float
) -> CallMessage:
    return CallMessage(
        WIRE_VERSION,
        # The attempt before may still run, on the replica that gets this one: what cancels the one
        # must not name the other.
        call.call_id if attempt == 1 else f"{call.call_id}.{attempt}",
        spec.name,
        spec.version,
        call.arguments,
        remaining_s,
        call.caller.principal,
        call.progress,
        call.log_level,
        call.capabilities,
        call.input_responses,
        call.request_state,
        None,
        spec.call.max_result_bytes,
        queue_timeout_s,
        spec.repeatable,
        spec.batch,
        None,
        call.request_id or call.call_id,
    )


async def _traced(
    span: AttemptSpan, message: CallMessage, pool: Pool, reports: _Reports
) -> Complete | InputNeeded | Raised | Refused:
    """One attempt, in a span that ends when a host admits it."""
    message = msgspec.structs.replace(
        message, traceparent=span.traceparent, tracestate=span.tracestate
    )
    reports.span = span
    with span:
        outcome = await pool.call(message, reports)
        if isinstance(outcome, Refused):
            span.refused(outcome.code)
        return outcome


class _Reports:
    """Passes on what the attempts of one call say, as if there had been one."""

    def __init__(self, emit: Emit, clock: Clock, arrived_at: float) -> None:
        self._emit = emit
        self._clock = clock
        self._progress = float("-inf")
        self.arrived_at = arrived_at
        self.queue_s: float | None = None
        """From the call's arrival until a host admitted its last attempt; None: none did."""
        self.was_cold = False
        """Whether that host began after the call had come."""
        self.said_items = False
        self.span: AttemptSpan | None = None
        """Of the attempt that goes on, where the call is traced."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Acknowledged):
            self.queue_s = max(0.0, self._clock.monotonic() - self.arrived_at)
            self.was_cold = event.replica_age_s < self.queue_s
            if self.span is not None:
                self.span.admitted(event.replica_id, cold=self.was_cold)
            return
        if isinstance(event, Progress):
            # It must increase, and both the wait for a replica and a second attempt begin at 0.
            if event.progress <= self._progress:
                return
            self._progress = event.progress
        self.said_items = self.said_items or isinstance(event, Partial)
        self._emit(event)

    async def room(self) -> None:
        """Wait until whoever reads has room for more, where it can say so."""
        if (room := getattr(self._emit, "room", None)) is not None:
            await room()


def _facts(
    call: Call,
    spec: ToolSpec,
    reports: _Reports,
    came_to: Routed | BaseException | None,
    now: float,
) -> CallFacts:
    """What is counted of a call that is over."""
    outcome, error = _kind_of(came_to)
    done = came_to.outcome if isinstance(came_to, Routed) else None
    complete = done if isinstance(done, Complete) else None
    return CallFacts(
        spec.name,
        spec.version,
        outcome,
        total_s=max(0.0, now - reports.arrived_at),
        queue_s=reports.queue_s,
        run_s=complete.run_s if complete else None,
        error=error,
        request_bytes=len(call.arguments),
        result_bytes=len(complete.result) if complete else 0,
        batch_size=complete.batch_size or None if complete else None,
        cold=reports.was_cold,
    )


def _kind_of(came_to: Routed | BaseException | None) -> tuple[Kind, str]:
    """How a call ended, and the code of its error; empty: it has none."""
    match came_to:
        case Routed(outcome=Complete() as complete):
            if complete.is_error:
                return "error", complete.error_code or ToolFailure.code
            return "ok", ""
        case Routed(outcome=InputNeeded()):
            return "input_needed", ""
        case Routed(outcome=Raised() as raised):
            return "error", f"rpc.{raised.rpc_code}"
        case asyncio.CancelledError():
            return "cancelled", ""
        case ThornbackError() as error:
            return "error", error.code
    return "error", "internal"  # a bug of ours


class _SchemaChecks:
    """Compiled input schemas by content hash, each compiled once, off the loop."""

    def __init__(self) -> None:
        self._checks: dict[str, asyncio.Task[SchemaCheck]] = {}

    async def of(self, spec: ToolSpec) -> SchemaCheck:
        key = spec.content_hash or content_hash_of(spec)
        task = self._checks.get(key)
        if task is None:
            if len(self._checks) >= MAX_CHECKS:
                del self._checks[next(iter(self._checks))]
            task = asyncio.create_task(
                asyncio.to_thread(SchemaCheck.compile, bytes(spec.input_schema)),
                context=contextvars.Context(),
            )
            self._checks[key] = task
        # One who gives up must not take the compiling away from the others.
        return task.result() if task.done() else await asyncio.shield(task)
