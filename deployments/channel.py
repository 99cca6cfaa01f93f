"""The way from this gateway to one replica: a send at a time, and what comes meanwhile in the next.

No timer decides how many calls travel together, unless the operator wants one (`gather_s`). A call
is sent at once when nothing is on its way; while a send awaits its answer, calls for the replica
gather, and the answer sends them: the busier the replica, the more in a message. What waits here is
still queued, and can go to another replica.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.messages import CallMessage, HostState, Refused
from thornback.deployments.flight import Flight
from thornback.deployments.replicas import Replica
from thornback.deployments.sending import Sending
from thornback.deployments.transport import Transport

INLINE_MAX_BYTES = 256 * 1024
"""A call with more than this travels by reference, alone."""
SEND_BYTES = 1024 * 1024
"""A send that has reached this gets no more calls. gRPC's own limit is 4 MiB."""
SEND_CALLS = 256


class PoolSide(Protocol):
    """What a channel asks of its pool, and tells it."""

    entry: PoolEntry
    transport: Transport
    gateway: str
    gather_s: float
    """Seconds for which calls gather before they leave; 0: none waits for others."""
    streams: set[Sending]
    """Sends that are not over: nothing else need hold on to them."""

    @property
    def held(self) -> int:
        """Calls that wait in this gateway."""
        ...

    def met(self, state: HostState) -> Channel:
        """The way to a replica that answered."""
        ...

    def gone(self, replica: Replica) -> None:
        """A replica is not there any more."""
        ...

    def has_others(self, replica: Replica) -> bool:
        """Whether there is another replica that is not on probation."""
        ...

    def back(self, flight: Flight) -> None:
        """A call is queued again, before all others."""
        ...

    def refused(self, flight: Flight, refused: Refused) -> None:
        """A replica had no room for a call, or runs it in no stream that others share."""
        ...

    def flow(self) -> None:
        """Something changed: more of the queue may be sent."""
        ...


class Channel:
    """The way to one replica."""

    def __init__(self, replica: Replica, pool: PoolSide) -> None:
        self.replica = replica
        self.pool = pool
        self._pending: list[Flight] = []
        """Calls for the next send, oldest first."""
        self._cancels: list[str] = []
        self._departing = False
        """Whether a send leaves in this round of the loop, or when calls have gathered."""
        self._sending: Sending | None = None
        """The send that awaits its answer."""
        self._watching: Sending | None = None

    @property
    def pending(self) -> int:
        """Calls that wait for the next send."""
        return len(self._pending)

    def give(self, flight: Flight) -> None:
        """Send a call; the replica has room for it."""
        self.replica.took(1)
        large = size_bytes(flight.message) > INLINE_MAX_BYTES
        if large or flight.alone:
            Sending(self, [flight], alone=flight.alone, by_reference=large)
            return
        flight.carrier = self
        self._pending.append(flight)
        self._send()

    def cancel(self, call_id: str) -> None:
        """Nobody waits any more for a call that the replica has."""
        self._cancels.append(call_id)
        self._send()

    def forget(self, flight: Flight) -> None:
        """Nobody waits any more for a call that is not sent yet."""
        self._pending.remove(flight)
        self.replica.took(-1)

    def give_back(self) -> None:
        """Let another replica have what is not sent yet."""
        pending, self._pending = self._pending, []
        self.replica.took(-len(pending))
        for flight in reversed(pending):
            self.pool.back(flight)

    def answered(self, sending: Sending) -> None:
        """A send was answered, or has failed: the next one may go."""
        if sending is self._sending:
            self._sending = None
            self._send()

    def ended(self, sending: Sending) -> None:
        """The stream of a send has ended."""
        if sending is self._watching:
            self._watching = None

    def watch_room(self, room_s: float) -> None:
        """Have the replica say when there is room, where no call there brings news of it."""
        if self._watching is None and not self.replica.calls:
            self._watching = Sending(self, [], room_s=room_s)

    def _send(self) -> None:
        if self._sending is None and not self._departing and (self._pending or self._cancels):
            self._departing = True
            loop = asyncio.get_running_loop()
            if self.pool.gather_s:
                loop.call_later(self.pool.gather_s, self._depart)
            else:  # after what else comes in this round of the loop
                loop.call_soon(self._depart)

    def _depart(self) -> None:
        self._departing = False
        if self._pending or self._cancels:
            cancels, self._cancels = self._cancels, []
            self._sending = Sending(self, self._taken(), cancels=cancels)

    def _taken(self) -> list[Flight]:
        count = total_bytes = 0
        for flight in self._pending[:SEND_CALLS]:
            total_bytes += size_bytes(flight.message)
            if count and total_bytes > SEND_BYTES:
                break
            count += 1
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken


def size_bytes(message: CallMessage) -> int:
    """What a call adds to a send, but for its few small fields."""
    state = message.request_state or ""
    return len(message.arguments) + len(message.input_responses or b"") + len(state)
