"""From a pool's name to its replicas: the one place where calls become messages.

Each pool has one queue in this gateway, and one channel to each replica that it knows. A call goes
to the replica with the fewest calls for each slot and waits here while none has a slot free, so
that any replica can still take it. Who may call what, and whether to try again, is the engine's
business.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Protocol

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import NoReplica, Overloaded, PoolBroken, Unavailable
from thornback.cluster.ids import new_id
from thornback.cluster.messages import (
    ALONE,
    WIRE_VERSION,
    CallMessage,
    HostState,
    Outcome,
    Refused,
    Send,
    decode_replies,
    decode_state,
    encode,
)
from thornback.deployments.channel import Channel
from thornback.deployments.clock import Clock
from thornback.deployments.flight import RETRY_AFTER_S, Flight
from thornback.deployments.flight import Emit as Emit
from thornback.deployments.pool_health import ClusterFacts
from thornback.deployments.replicas import Replica, choose
from thornback.deployments.sending import Sending
from thornback.deployments.telemetry import QUEUED, RUNNING, Gauged
from thornback.deployments.transport import ServeTransport, Transport

RESEND_S = 0.25
"""Seconds between two tries to reach a pool that Serve takes for failed."""
GREETING_S = 2.0
"""Seconds for which one replica may leave a greeting unanswered before another is tried."""
BEAT_S = 1.0
"""Seconds between two heartbeats to the replicas of a pool that has calls."""
STALE_S = 3.0
"""Seconds after which an idle pool's replicas, of which nothing was heard, may all be gone."""
ROOM_S = 1.0
"""Seconds for which a replica without room is asked to say when there is."""


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
        transport_to: Callable[[str, str], Transport] | None = None,
        node_id: str | None = None,
        gather_s: float = 0.0,
    ) -> None:
        """
        Args:
            facts: None: asks Ray and Ray Serve.
            transport_to: From the name of a pool's application, and the node of this gateway, to
                the way there; None: Ray Serve's.
            node_id: The node of this gateway; None: asks Ray, when there is the first pool.
            gather_s: Seconds for which calls for one replica gather before they leave.
        """
        self._gather_s = gather_s
        self._facts = facts or ClusterFacts(clock)
        self._transport_to = transport_to or ServeTransport
        self._node_id = node_id
        self._gateway = new_id("gwy")
        self._pools: dict[str, ServePool] = {}

    def get(self, entry: PoolEntry) -> ServePool:
        """The pool of this entry; a changed entry changes the limits of the pool that is there."""
        pool = self._pools.get(entry.application)
        if pool is None:
            if self._node_id is None:
                self._node_id = _this_node()
            pool = self._pools[entry.application] = ServePool(
                entry,
                self._transport_to(entry.application, self._node_id),
                self._facts,
                self._gateway,
                self._node_id,
                self._gather_s,
            )
        pool.entry = entry
        return pool

    def gauged(self) -> Iterator[Gauged]:
        """How many calls of each tool wait in this gateway, and how many run for it."""
        for pool in self._pools.values():
            for (tool, version, waits), calls in pool.flying().items():
                yield Gauged(QUEUED if waits else RUNNING, (tool, version), calls)


class ServePool:
    """A pool: the calls that wait here, and the replicas that are known."""

    def __init__(
        self,
        entry: PoolEntry,
        transport: Transport,
        facts: ClusterFacts,
        gateway: str,
        node_id: str,
        gather_s: float,
    ) -> None:
        """
        Args:
            gateway: Names this gateway to the replicas.
            node_id: The node of this gateway.
            gather_s: Seconds for which calls for one replica gather before they leave.
        """
        self.gather_s = gather_s
        self.entry = entry
        self.transport = transport
        self.gateway = gateway
        self.streams: set[Sending] = set()
        self._facts = facts
        self._node_id = node_id
        self._queue: deque[Flight] = deque()
        """Calls that no replica has room for, oldest first."""
        self._flights: set[Flight] = set()
        """Calls that are not over."""
        self._channels: dict[str, Channel] = {}
        """By id of the replica."""
        self._alone: set[str] = set()
        """`tool@version` of tools that share no stream."""
        self._choices = 0
        self._heard_at = 0.0
        """Moment, on the loop's clock, when a replica last said anything."""
        self._greeting: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def held(self) -> int:
        """Calls that wait in this gateway."""
        return len(self._queue) + sum(channel.pending for channel in self._channels.values())

    async def call(self, message: CallMessage, emit: Emit) -> Outcome:
        if 0 <= self.entry.max_queued_requests <= len(self._queue):
            raise Overloaded(self.name, RETRY_AFTER_S)
        flight = Flight(message, emit, self.entry, self._facts)
        flight.alone = f"{message.tool}@{message.version}" in self._alone
        flight.carrier = self
        if not self._flights and _now() - self._heard_at > STALE_S:
            # Calls that were sent to replicas which a pool at zero no longer has would wait for
            # one that is yet to start, and be taken for lost meanwhile.
            self._channels.clear()
        self._flights.add(flight)
        self._queue.append(flight)
        self.flow()
        self._beat()
        try:
            return await flight.land()
        finally:
            self._flights.discard(flight)

    def flying(self) -> Counter[tuple[str, str, bool]]:
        """Calls that are not over, by tool, version, and whether no host has admitted them."""
        return Counter(
            (flight.message.tool, flight.message.version, flight.state in ("queued", "sent"))
            for flight in self._flights
        )

    def forget(self, flight: Flight) -> None:
        """Nobody waits any more for a call that is queued here."""
        with suppress(ValueError):
            self._queue.remove(flight)
        if not self._queue and self._greeting is not None:
            self._greeting.cancel()

    # --- which replica ----------------------------------------------------------------------------

    def flow(self) -> None:
        """Send what there is room for."""
        while self._queue:
            replica = choose(self._replicas(), self._node_id)
            if replica is None:
                self._seek()
                return
            self._choices += 1
            replica.chosen = self._choices
            self._channels[replica.replica_id].give(self._queue.popleft())

    def back(self, flight: Flight) -> None:
        """A call is queued again, before all others."""
        flight.state = "queued"
        flight.carrier = self
        self._queue.appendleft(flight)

    def refused(self, flight: Flight, refused: Refused) -> None:
        """A replica had no room for a call, or runs it in no stream that others share."""
        if flight.is_over:
            return
        if refused.code == ALONE:
            flight.alone = True
            self._alone.add(f"{flight.message.tool}@{flight.message.version}")
        self.back(flight)

    def _replicas(self) -> list[Replica]:
        return [channel.replica for channel in self._channels.values()]

    # --- what is known of replicas ----------------------------------------------------------------

    def met(self, state: HostState) -> Channel:
        """The way to a replica that answered; a new one where it was not known."""
        channel = self._channels.get(state.replica_id)
        if channel is None:
            # One that is new has no more to catch up on than who has worked least.
            busy_s = min((known.busy_s for known in self._replicas()), default=0.0)
            channel = Channel(Replica(state, _now, busy_s), self)
            # The last words of one that died may come after the news of its death.
            if not self.transport.is_gone(state.replica_id):
                self._channels[state.replica_id] = channel
        channel.replica.hear(state)
        self._heard_at = _now()
        self.transport.met(state)
        return channel

    def gone(self, replica: Replica) -> None:
        """A replica is not there any more; what was not sent to it can go elsewhere."""
        channel = self._channels.get(replica.replica_id)
        if channel is not None and channel.replica is replica:
            del self._channels[replica.replica_id]
            channel.give_back()

    def has_others(self, replica: Replica) -> bool:
        """Whether there is another replica that is not on probation."""
        return any(r is not replica and not r.on_probation for r in self._replicas())

    def _seek(self) -> None:
        """Look for room: there is none that is known of."""
        answering = [c for c in self._channels.values() if not c.replica.on_probation]
        for channel in answering:
            channel.watch_room(ROOM_S)
        if not answering and (self._greeting is None or self._greeting.done()):
            self._greeting = self._start(self._greet())

    async def _greet(self) -> None:
        """Find a replica; where there is none, Serve starts one for this."""
        while self._queue and not any(not r.on_probation for r in self._replicas()):
            stream = None
            try:
                async with asyncio.timeout(GREETING_S):
                    stream = self.transport.send("", encode(self._greeting_message()))
                    async for data in stream:
                        self.met(decode_replies(data).host)
                stream = None
            except Exception:  # Serve takes the pool for failed; its calls find out why
                await asyncio.sleep(RESEND_S)
            finally:
                if stream is not None:
                    stream.cancel()
        self.flow()

    def _greeting_message(self) -> Send:
        return Send(WIRE_VERSION, self.gateway, self.held)

    def _beat(self) -> None:
        if self._beating is None or self._beating.done():
            self._beating = self._start(self._keep_beating())

    async def _keep_beating(self) -> None:
        """Tell all replicas what waits here, and learn of new and of gone ones, while there are
        calls; and once more then: who was told last that calls wait here would believe it until
        this gateway has been silent for long."""
        while True:
            was_idle = not self._flights
            try:
                beat = await self.transport.beat(self.gateway, self.held, BEAT_S)
            except Exception:  # there is none
                pass
            else:
                self._hear([decode_state(state) for state in beat.states], beat.all_answered)
            if was_idle and not self._flights:
                return
            await asyncio.sleep(BEAT_S)

    def _hear(self, states: list[HostState], are_all: bool) -> None:
        """Those replicas are there, and no others if these are all."""
        for replica in self._replicas() if are_all else ():
            if all(replica.replica_id != state.replica_id for state in states):
                self.gone(replica)
        for state in states:
            self.met(state)
        self.flow()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not of the request's context: Serve would end what it is asked with that request.
        return asyncio.create_task(work, context=contextvars.Context())


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


def _now() -> float:
    return asyncio.get_running_loop().time()


def _this_node() -> str:
    import ray

    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id
