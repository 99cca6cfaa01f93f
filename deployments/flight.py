"""One call on its way from a gateway: its state, and what is known about why it waits.

A call is `queued` until it is in a send, `sent` until a host admits it, then `acknowledged`, then
`done`; that state decides what a failure means (`replicas`). A flight knows no replica: channels
carry it and tell it what they hear.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Protocol

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import (
    NoReplica,
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
)
from thornback.deployments.pool_health import ClusterFacts, Starting, diagnose
from thornback.deployments.replicas import State

PATIENCE_S = 1.0
"""Seconds a call waits for a host to admit it before anybody asks why."""
RETRY_AFTER_S = 1.0

Emit = Callable[[Event], None]


class Carrier(Protocol):
    """Whatever has the flight now, and is told that nobody waits for it any more."""

    def forget(self, flight: Flight) -> None: ...


class Flight:
    """One call, until it has an outcome."""

    def __init__(
        self, message: CallMessage, emit: Emit, entry: PoolEntry, facts: ClusterFacts
    ) -> None:
        self.message = message
        self.emit = emit
        self.state: State = "queued"
        self.carrier: Carrier | None = None
        self.alone = False
        """Whether it needs a stream of its own."""
        self._entry = entry
        self._facts = facts
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._timer: asyncio.Handle
        """Goes off at the limit or before: a limit that moves back leaves it as it is."""
        self._rings_at = 0.0
        """When it goes off. Not all handles know: uvloop's of under half a millisecond do not."""
        self._limit_s = message.queue_timeout_s
        """Seconds until the limit, from when it was set."""
        self._limit_at = 0.0
        """Moment of the limit, on the loop's clock."""
        self._patient_until = 0.0
        """Moment when it is asked why the call waits."""
        self._waits = Starting("no host took the call")
        self._said_waiting = False
        self._asking: asyncio.Task[None] | None = None

    async def land(self) -> Outcome:
        """Wait for the outcome, as long as the call may wait and then as long as it may run.

        Raises:
            Unavailable: nobody took the call, or its host died.
            ToolTimeout: it was still running at its deadline.
        """
        began = self._loop.time()
        self._limit_at = began + self._limit_s
        self._patient_until = began + PATIENCE_S
        self._ring_at(min(self._limit_at, self._patient_until))
        try:
            return await self._outcome
        except TimeoutError:
            raise self._too_late() from None
        finally:
            self._timer.cancel()
            if self._asking is not None:
                self._asking.cancel()
            carrier, over, self.state = self.carrier, self.state == "done", "done"
            if carrier is not None and not over:
                carrier.forget(self)

    # --- what channels hear -----------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.state == "done"

    def acknowledged(self, event: Acknowledged) -> None:
        """A host admitted it: its time begins."""
        if self.state != "done":
            self.state = "acknowledged"
            self._begins()
            self.emit(event)

    def unanswered(self) -> None:
        """Its host has not said in time whether it admits it: it may run, and its time begins."""
        if self.state == "sent":
            self._begins()

    def _begins(self) -> None:
        if not self._outcome.done():
            self._limit_s = self.message.remaining_s
            self._limit_at = self._loop.time() + self._limit_s
            if self._limit_at < self._rings_at:
                self._timer.cancel()
                self._ring_at(self._limit_at)

    def hear(self, reply: Event | Outcome) -> None:
        """Its host said something."""
        if self.state == "done":
            return
        if isinstance(reply, (Complete, InputNeeded, Raised, Refused)):
            self.state = "done"
            if not self._outcome.done():
                self._outcome.set_result(reply)
        else:
            self.emit(reply)

    def lost(self) -> None:
        """The replica that had it is gone."""
        self.fail(ReplicaLost(self._entry.name, self.message.tool))

    def fail(self, error: Unavailable) -> None:
        if self.state != "done":
            self.state = "done"
            if not self._outcome.done():
                self._outcome.set_exception(error)

    # --- a call that waits ------------------------------------------------------------------------

    def waits(self, why: Starting) -> None:
        """What it waits for is known; its client is told once, if it asked for progress."""
        self._waits = why
        if self.message.progress and not self._said_waiting:
            self._said_waiting = True
            until = "have room" if why.busy else "start"
            text = f"waiting for a replica of pool {self._entry.name} to {until}: {why.why}"
            self.emit(Progress(WIRE_VERSION, 0.0, None, text))

    def _ask_why(self) -> None:
        if self.state in ("queued", "sent"):
            # Not of the request's context: Serve would end what it is asked with the request.
            asking = self._keep_asking()
            self._asking = self._loop.create_task(asking, context=contextvars.Context())

    async def _keep_asking(self) -> None:
        while self.state in ("queued", "sent"):
            diagnosis = diagnose(self._entry, await self._facts.now())
            if self.state not in ("queued", "sent"):
                return
            if not isinstance(diagnosis, Starting):
                carrier = self.carrier
                self.fail(diagnosis)
                if carrier is not None:
                    carrier.forget(self)
                return
            self.waits(diagnosis)
            await asyncio.sleep(PATIENCE_S)

    def _ring_at(self, moment: float) -> None:
        self._rings_at = moment
        self._timer = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        """It is time to ask why the call waits, or to give it up; or that time has moved."""
        now = self._loop.time()
        if now >= self._limit_at:
            if not self._outcome.done():
                self._outcome.set_exception(TimeoutError())
        elif now < self._patient_until:
            self._ring_at(min(self._limit_at, self._patient_until))
        else:
            if self._asking is None:
                self._ask_why()
            self._ring_at(self._limit_at)

    def _too_late(self) -> Unavailable | ToolTimeout:
        """What the deadline means, from how far the call came."""
        if self.state != "queued":  # also one that was sent and not admitted may have run
            return ToolTimeout(self.message.tool, self._limit_s)
        if self._waits.busy:
            return PoolBusy(self._entry.name, RETRY_AFTER_S)
        return NoReplica(self._entry.name, self._waits.why, RETRY_AFTER_S)
