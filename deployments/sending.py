"""One send on its way: its stream, and what is heard there of each call in it.

The pump runs in a task of a fresh context: Serve ties a handle call to the request in whose context
it was made, and ends it with that request, where here calls of many requests travel together. A
single call is cancelled by a word to the replica that has it; the stream is never cut while
another call is in it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from thornback.cluster.errors import PoolBusy
from thornback.cluster.messages import (
    ALONE,
    WIRE_VERSION,
    Acknowledged,
    Complete,
    Event,
    InputNeeded,
    Outcome,
    Parked,
    Raised,
    Refused,
    Replies,
    Reply,
    Send,
    decode_replies,
    decode_reply,
    encode,
)
from thornback.deployments.flight import Flight
from thornback.deployments.replicas import Fault, fate_after_fault, fate_when_late
from thornback.deployments.transport import Stream, fault_of

if TYPE_CHECKING:
    from thornback.deployments.channel import Channel

logger = logging.getLogger(__name__)

ACK_TIMEOUT_S = 1.0
"""Seconds that a replica has to answer a send, before it is on probation."""
FETCH_TRIES = 5
FETCH_PAUSE_S = 0.1
"""Seconds between two tries to fetch a large reply."""
CLOSING_S = 0.05
"""Seconds to wait for a stream that may have come up in the moment it was cancelled."""


class Sending:
    """A send, until every call in it is over."""

    def __init__(
        self,
        channel: Channel,
        flights: list[Flight],
        *,
        cancels: list[str] | None = None,
        room_s: float = 0.0,
        alone: bool = False,
        by_reference: bool = False,
    ) -> None:
        """
        Args:
            channel: The way to the replica that it is addressed to.
            cancels: `call_id` of calls at that replica that nobody waits for.
            room_s: As in `Send`.
            alone: Whether its one call has a slow reader or makes many items.
            by_reference: Whether it is too large for a message.
        """
        self._channel = channel
        self._replica = channel.replica
        self._flights: list[Flight | None] = list(flights)
        """By place in the send; None where the call is answered or taken back."""
        self._on_the_way = set(range(len(flights)))
        """Places of calls that were neither admitted nor refused."""
        self._open = len(flights)
        self._cancels = cancels or []
        self._room_s = room_s
        self._alone = alone
        self._by_reference = by_reference
        self._answered = False
        self._withdrawn = False
        self._begun = False
        """Whether the pump has taken its first step: cancelled before, it would take none."""
        self._held_back: dict[int, list[Reply]] = {}
        """By place: replies that wait for one before them, which is being fetched."""
        self._fetches: set[asyncio.Task[None]] = set()
        for flight in flights:
            flight.state = "sent"
            flight.carrier = self
        self._pump = asyncio.create_task(self._carry(), context=contextvars.Context())
        channel.pool.streams.add(self)

    def forget(self, flight: Flight) -> None:
        """Nobody waits for a call any more."""
        if not self._answered:
            # What was not answered is cancelled when it is, or with the last call in the stream.
            if all(other is None or other.is_over for other in self._flights):
                self._withdraw()
        else:
            self._channel.cancel(flight.message.call_id)
            if self._alone:
                self._withdraw()  # it may wait for this reader

    def _withdraw(self) -> None:
        self._withdrawn = True
        if self._begun:
            self._pump.cancel()

    # --- the stream -------------------------------------------------------------------------------

    async def _carry(self) -> None:
        stream: Stream | None = None
        late = asyncio.get_running_loop().call_later(ACK_TIMEOUT_S, self._late)
        self._begun = True
        try:
            if self._withdrawn:
                raise asyncio.CancelledError
            pool = self._channel.pool
            stream = pool.transport.send(
                self._replica.replica_id,
                self._encoded(),
                by_reference=self._by_reference,
                alone=self._alone,
            )
            async for data in stream:
                late.cancel()
                self._hear(decode_replies(data))
                if self._alone:
                    await self._reader()
            stream = None
            if self._open and not self._fetches:
                raise EOFError("the stream ended without an outcome")
        except asyncio.CancelledError:
            if self._withdrawn:  # the last who waited for a call has gone
                self._close("refused")
                for call_id in self._cancels:
                    self._channel.cancel(call_id)
            elif not _cancelled_here():  # Ray did it, with the replica that had the calls
                self._fail("lost")
                return
            raise
        except Exception as error:
            fault = fault_of(error)
            if self._open and fault == "lost":  # what was refused goes elsewhere
                logger.warning(
                    "%d calls of pool %s lost their replica: %s",
                    self._open,
                    self._channel.pool.entry.name,
                    type(error).__name__,
                    extra={"request_ids": [f.message.request_id for f in self._flights if f]},
                )
            self._fail(fault)
        finally:
            late.cancel()
            self._channel.ended(self)
            self._channel.pool.streams.discard(self)
            if stream is not None:
                await _cut(stream, not self._answered)

    def _encoded(self) -> bytes:
        pool = self._channel.pool
        messages = [flight.message for flight in self._flights if flight is not None]
        return encode(
            Send(
                WIRE_VERSION,
                pool.gateway,
                pool.held,
                messages,
                self._cancels,
                self._room_s,
                self._alone,
            )
        )

    async def _reader(self) -> None:
        """Read on when the reader of the only call has room for more."""
        (flight,) = self._flights
        if self._fetches:
            await asyncio.wait(set(self._fetches))
        if flight is not None and (room := getattr(flight.emit, "room", None)) is not None:
            await room()

    # --- what the replica says --------------------------------------------------------------------

    def _hear(self, replies: Replies) -> None:
        state, pool = replies.host, self._channel.pool
        first, self._answered = not self._answered, True
        if state.replica_id != self._replica.replica_id and first:
            # Serve sent it to another, because this one is gone; or is so new that Serve has not
            # heard of its name, and will be met again.
            pool.gone(self._replica)
            self._replica.took(-self._open)
            self._channel = pool.met(state)
            self._replica = self._channel.replica
            self._replica.took(self._open)
        acknowledged = Acknowledged(WIRE_VERSION, state.replica_id, state.running, state.age_s)
        for place in replies.acknowledged:
            self._arrived(place)
            self._acknowledge(place, acknowledged)
        for place, reply in replies.replies:
            self._deliver(place, reply)
        # A replica that drains goes on with what it has and takes nothing new: what it says later
        # does not make it known again.
        self._replica.hear(state)
        if first:
            self._channel.answered(self)
        pool.flow()

    def _acknowledge(self, place: int, acknowledged: Acknowledged) -> None:
        flight = self._flights[place]
        if flight is None:
            return
        if flight.is_over:
            self._channel.cancel(flight.message.call_id)
        flight.acknowledged(acknowledged)

    def _arrived(self, place: int) -> None:
        if place in self._on_the_way:
            self._on_the_way.discard(place)
            self._replica.on_the_way -= 1

    def _deliver(self, place: int, reply: Reply) -> None:
        if (waiting := self._held_back.get(place)) is not None:
            waiting.append(reply)
        elif isinstance(reply, Parked):
            self._held_back[place] = []
            task = asyncio.create_task(self._fetch(place, reply), context=contextvars.Context())
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)
        else:
            self._reply(place, reply)

    async def _fetch(self, place: int, parked: Parked) -> None:
        """Get a reply that was too large for a message, and deliver what waited behind it."""
        data = await self._fetched(parked)
        waiting = self._held_back.pop(place)
        if data is None:
            if (flight := self._flights[place]) is not None:
                self._settle(place)
                flight.lost()
            return
        self._deliver(place, decode_reply(data))
        for reply in waiting:
            self._deliver(place, reply)

    async def _fetched(self, parked: Parked) -> bytes | None:
        transport = self._channel.pool.transport
        for _ in range(FETCH_TRIES):
            try:
                data = await transport.fetch(self._replica.replica_id, parked.value_id)
            except Exception as error:
                logger.warning("a large reply was not fetched: %s", type(error).__name__)
                return None
            if data is not None:
                return data
            # Another replica was asked: Serve hears of the name of a new one a moment late.
            await asyncio.sleep(FETCH_PAUSE_S)
        return None

    def _reply(self, place: int, reply: Event | Outcome) -> None:
        flight = self._flights[place]
        if flight is None:
            return
        if isinstance(reply, (Complete, InputNeeded, Raised, Refused)):
            self._settle(place)
            if isinstance(reply, Refused) and reply.code in (ALONE, PoolBusy.code):
                self._channel.pool.refused(flight, reply)
                return
        flight.hear(reply)

    def _settle(self, place: int) -> None:
        self._arrived(place)
        self._flights[place] = None
        self._open -= 1
        self._replica.calls -= 1

    # --- what goes wrong --------------------------------------------------------------------------

    def _late(self) -> None:
        """The replica has not answered in time."""
        if self._answered:
            return
        self._replica.on_probation = True
        pool = self._channel.pool
        self._channel.give_back()
        others = pool.has_others(self._replica)
        for flight in self._flights:
            if flight is not None and not flight.is_over:
                repeatable = flight.message.repeatable
                if fate_when_late(flight.state, repeatable=repeatable, others=others) == "lost":
                    flight.lost()
                else:
                    flight.unanswered()
        pool.flow()

    def _fail(self, fault: Fault) -> None:
        """The stream failed."""
        pool = self._channel.pool
        pool.gone(self._replica)
        self._close(fault)
        pool.flow()

    def _close(self, fault: Fault) -> None:
        flights = [flight for flight in self._flights if flight is not None]
        for place in range(len(self._flights)):
            if self._flights[place] is not None:
                self._settle(place)
        for flight in reversed(flights):
            if flight.is_over:
                continue
            if fate_after_fault(flight.state, fault) == "elsewhere":
                self._channel.pool.back(flight)
            else:
                flight.lost()
        self._channel.answered(self)


async def _cut(stream: Stream, unanswered: bool) -> None:
    """Cancel what runs at the other end of a stream that nobody reads any more."""
    stream.cancel()
    if not unanswered:
        return
    # Assigned to a replica in this very moment, but not yet known to the stream: its `cancel` did
    # nothing then. Reading on finds the replica, and giving that up cancels there.
    with suppress(Exception, asyncio.CancelledError):
        async with asyncio.timeout(CLOSING_S):
            async for _ in stream:
                pass


def _cancelled_here() -> bool:
    """Whether this task is being cancelled, rather than something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
