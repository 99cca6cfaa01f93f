"""From a pool's name to its replicas: the one place where calls become messages.

A call is `queued` until it is handed to Serve, `sent` until a host admits it, then `acknowledged`,
then `done`; that state decides what a failure means. Serve itself replays what no replica accepted,
so a failure that reaches us from a call that was sent may follow its effects. Who may call what,
and whether to try again, is the engine's business.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Literal, Protocol

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import (
    NoReplica,
    Overloaded,
    PoolBroken,
    PoolBusy,
    ReplicaLost,
    ToolTimeout,
    Unavailable,
)
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    Event,
    InputNeeded,
    Outcome,
    Progress,
    Raised,
    Refused,
    decode_reply,
    encode,
)
from thornback.deployments.clock import Clock
from thornback.deployments.pool_health import ClusterFacts, Starting, diagnose

logger = logging.getLogger(__name__)

DEPLOYMENT = "ToolHost"
"""Name of the one deployment in each pool's application."""
PATIENCE_S = 1.0
"""Seconds a call waits for a host to admit it before anybody asks why."""
RETRY_AFTER_S = 1.0
RESEND_S = 0.25
"""Seconds between two tries to send to a deployment that Serve takes for failed, or to a host that
had no room."""
CLOSING_S = 0.05
"""Seconds to wait for a stream that may have come up in the moment it was cancelled."""

State = Literal["queued", "sent", "acknowledged", "done"]
Emit = Callable[[Event], None]


class Stream(Protocol):
    """Replies to one call, as Serve's `DeploymentResponseGenerator` gives them."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None: ...


class Handle(Protocol):
    """What can be asked of a pool's deployment, as Serve's `DeploymentHandle` does it."""

    def remote(self, message: bytes) -> Stream: ...


class Pool(Protocol):
    """The replicas that run a pool's tools."""

    @property
    def name(self) -> str: ...

    async def call(self, message: CallMessage, emit: Emit) -> Outcome:
        """Run one call: events to `emit` as they come, then its outcome.

        Cancelling the awaiting task cancels the tool.

        Raises:
            Unavailable: nobody took the call, or its host died (`ReplicaLost`).
            ToolTimeout: the call was still running `message.remaining_s` after a host admitted it.
        """
        ...


class Pools:
    """The pools of a gateway, by their entries in the catalog; each is made once and kept."""

    def __init__(
        self,
        clock: Clock,
        facts: ClusterFacts | None = None,
        handle_to: Callable[[str], Handle] | None = None,
    ) -> None:
        """
        Args:
            facts: None: asks Ray and Ray Serve.
            handle_to: From the name of a pool's application to its handle; None: Ray Serve's.
        """
        self._clock = clock
        self._facts = facts or ClusterFacts(clock)
        self._handle_to = handle_to or _serve_handle
        self._pools: dict[str, ServePool] = {}

    def get(self, entry: PoolEntry) -> ServePool:
        """The pool of this entry; a changed entry changes the limits of the pool that is there."""
        pool = self._pools.get(entry.application)
        if pool is None:
            handle = self._handle_to(entry.application)
            pool = self._pools[entry.application] = ServePool(
                entry, handle, self._clock, self._facts
            )
        pool.entry = entry
        return pool


class ServePool:
    """A pool reached through one Serve handle, one stream for each call."""

    def __init__(self, entry: PoolEntry, handle: Handle, clock: Clock, facts: ClusterFacts) -> None:
        self.entry = entry
        self._handle = handle
        self._clock = clock
        self._facts = facts
        self._waiting = 0
        """Calls that no host has admitted yet: this gateway's queue for the pool."""

    @property
    def name(self) -> str:
        return self.entry.name

    async def call(self, message: CallMessage, emit: Emit) -> Outcome:
        # As Serve does, this counts a call until its host has acknowledged it, so that of calls
        # that come in the same moment more may be refused than would have had to wait.
        if 0 <= self.entry.max_queued_requests <= self._waiting:
            raise Overloaded(self.name, RETRY_AFTER_S)
        flight = _Flight(self, message, emit)
        # Serve ties a handle call to the request in whose context it is made, and cancels it with
        # that request. When to cancel is ours to say: a fresh context knows of no request.
        task = asyncio.create_task(flight.fly(), context=contextvars.Context())
        patience = asyncio.get_running_loop().call_later(PATIENCE_S, flight.ask_why, task)
        try:
            async with asyncio.timeout(message.queue_timeout_s) as flight.limit:
                return await task
        except TimeoutError:
            raise flight.too_late() from None
        finally:
            patience.cancel()
            flight.land()


class _Flight:
    """One call on its way: its state, and what is known about why it waits."""

    def __init__(self, pool: ServePool, message: CallMessage, emit: Emit) -> None:
        self._pool = pool
        self._message = message
        self._emit = emit
        self._state: State = "queued"
        self._said_waiting = False
        self._waits = Starting("no host took the call")
        self._verdict: Unavailable | None = None
        """Why the call will never be admitted, once that is known."""
        self._asking: asyncio.Task[None] | None = None
        self.limit: asyncio.Timeout
        """Ends the call: when it has waited, and once it is admitted, when it has run too long."""
        pool._waiting += 1

    def _reach(self, state: State) -> None:
        if self._state in ("queued", "sent") and state in ("acknowledged", "done"):
            self._pool._waiting -= 1
        self._state = state

    def land(self) -> None:
        """The call is over, whichever way."""
        self._reach("done")
        if self._asking is not None:
            self._asking.cancel()

    async def fly(self) -> Outcome:
        try:
            return await self._send_until_taken()
        except asyncio.CancelledError:
            if self._verdict is not None:
                raise self._verdict from None
            if not _cancelled_here():  # Ray did it, with the replica that had the call
                raise ReplicaLost(self._pool.name, self._message.tool) from None
            raise

    async def _send_until_taken(self) -> Outcome:
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        pool = self._pool
        while True:
            try:
                outcome = await self._send()
                if not isinstance(outcome, Refused) or outcome.code != PoolBusy.code:
                    return outcome
                # A host without room did not start the call: it keeps its place in this queue.
                self._say_waiting(Starting("its threads are taken", busy=True))
                await asyncio.sleep(RESEND_S)
            except BackPressureError as full:
                raise Overloaded(pool.name, full.retry_after_s or RETRY_AFTER_S) from None
            except DeploymentUnavailableError:
                # Serve does not even try while the deployment counts as failed; nothing was sent.
                diagnosis = diagnose(pool.entry, await pool._facts.now())
                if not isinstance(diagnosis, Starting):
                    raise diagnosis from None
                self._say_waiting(diagnosis)
                await asyncio.sleep(RESEND_S)
            except Exception as error:
                # Whatever else: Serve replays what no replica accepted, so the host had the call.
                message = self._message
                logger.warning(
                    "call %s of %s lost its replica: %s",
                    message.call_id,
                    message.tool,
                    type(error).__name__,
                )
                raise ReplicaLost(pool.name, message.tool) from None

    async def _send(self) -> Outcome:
        """Send the call once; raises what the handle raises."""
        stream: Stream | None = self._pool._handle.remote(encode(self._message))
        assert stream is not None
        self._reach("sent")
        try:
            async for data in stream:
                reply = decode_reply(data)
                if isinstance(reply, (Complete, InputNeeded, Raised, Refused)):
                    stream = None
                    return reply
                self._heard(reply)
        finally:
            if stream is not None:
                await _close(stream, self._state == "sent")
        raise EOFError("the stream ended without an outcome")

    def _heard(self, event: Event) -> None:
        if isinstance(event, Acknowledged):
            self._reach("acknowledged")
            if not self.limit.expired():
                now = asyncio.get_running_loop().time()
                self.limit.reschedule(now + self._message.remaining_s)
        self._emit(event)

    # --- a call that waits ------------------------------------------------------------------------

    def ask_why(self, task: asyncio.Task[Outcome]) -> None:
        """Find out why nobody admits the call; called when patience ends."""
        if self._state == "sent":
            self._asking = asyncio.create_task(self._ask_why(task), context=contextvars.Context())

    async def _ask_why(self, task: asyncio.Task[Outcome]) -> None:
        while self._state == "sent":
            diagnosis = diagnose(self._pool.entry, await self._pool._facts.now())
            if self._state != "sent":
                return
            if not isinstance(diagnosis, Starting):
                self._verdict = diagnosis
                task.cancel()
                return
            self._say_waiting(diagnosis)
            await asyncio.sleep(PATIENCE_S)

    def _say_waiting(self, diagnosis: Starting) -> None:
        self._waits = diagnosis
        if self._message.progress and not self._said_waiting:
            self._said_waiting = True
            until = "have room" if diagnosis.busy else "start"
            text = f"waiting for a replica of pool {self._pool.name} to {until}: {diagnosis.why}"
            self._emit(Progress(WIRE_VERSION, 0.0, None, text))

    def too_late(self) -> Unavailable | ToolTimeout:
        """What the deadline means, from how far the call came."""
        if self._state not in ("queued", "sent"):
            return ToolTimeout(self._message.tool, self._message.remaining_s)
        if self._waits.busy:
            return PoolBusy(self._pool.name, RETRY_AFTER_S)
        return NoReplica(self._pool.name, self._waits.why, RETRY_AFTER_S)


async def _close(stream: Stream, unanswered: bool) -> None:
    """Cancel what runs at the other end of a stream that nobody reads any more."""
    stream.cancel()
    if not unanswered:
        return
    # Assigned to a replica in this very moment, but not yet known to the stream: its `cancel` did
    # nothing then. Reading on finds the replica, and giving that up cancels there.
    with suppress(Exception):
        try:
            async with asyncio.timeout(CLOSING_S):
                async for _ in stream:
                    pass
        except asyncio.CancelledError:
            if _cancelled_here():  # otherwise it is the stream that was cancelled, by us
                raise


def _cancelled_here() -> bool:
    """Whether this task is being cancelled, rather than something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def refusal(pool: str, refused: Refused) -> Unavailable:
    """The error that a host's refusal stands for."""
    facts = refused.facts
    match refused.code, len(facts):
        case NoReplica.code, 3:
            return NoReplica(facts[0], facts[1], float(facts[2]))
        case PoolBroken.code, 3:
            return PoolBroken(*facts)
        case _:  # of a host that speaks a later version
            return NoReplica(pool, f"its host refuses calls ({refused.code})", RETRY_AFTER_S)


def _serve_handle(application: str) -> Any:
    """A handle that is ours alone: one stream for each call, this node's replicas first."""
    from ray.serve.handle import DeploymentHandle

    handle: DeploymentHandle[Any] = DeploymentHandle(DEPLOYMENT, application)
    handle._init(_prefer_local_routing=True)  # type: ignore[no-untyped-call]
    return handle.options(
        method_name="call",
        stream=True,
        request_serialization="pickle",
        response_serialization="pickle",
    )
