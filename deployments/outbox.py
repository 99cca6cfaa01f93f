"""Replies to the calls of one send, on their way into messages: what coincides travels together.

The size of everything is known before it is yielded, because a message that the transport refuses
would end the stream for every call in it. What is too large for a message is parked, and named in
it. Nothing is taken from a call before the stream has carried what was taken before, so that a
reader that does not read holds up the tool and not the memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence

from thornback.cluster.errors import ResultTooLarge, ToolBug
from thornback.cluster.ids import new_id
from thornback.cluster.messages import (
    WIRE_VERSION,
    Complete,
    Event,
    Outcome,
    Parked,
    encode,
    failed,
)
from thornback.deployments.event_stream import EventStream
from thornback.deployments.parked_values import ParkedValues

logger = logging.getLogger(__name__)

INLINE_MAX_BYTES = 256 * 1024
"""A larger reply goes by reference."""
MESSAGE_BYTES = 1024 * 1024
"""A message that has reached this gets no more replies. gRPC's own limit is 4 MiB."""


class Outbox:
    """The replies to one send. Everything but emitting happens on the loop."""

    def __init__(
        self, tools: list[str], parked: ParkedValues | None, request_ids: Sequence[str] = ()
    ) -> None:
        """
        Args:
            tools: Name of the tool of each call, by its place in the send.
            parked: Takes what is too large; None: nothing is, to a gateway that cannot fetch it.
            request_ids: Of the calls, for the log.
        """
        self._tools = tools
        self._request_ids = request_ids
        self._parked = parked
        self._loop = asyncio.get_running_loop()
        self._acknowledged: list[int] = []
        self._talking: dict[int, EventStream] = {}
        """Calls that said something which nobody has taken yet."""
        self._ready: deque[tuple[int, bytes]] = deque()
        self._open = len(tools)
        """Calls without an outcome."""
        self._news = asyncio.Event()

    def events_of(self, place: int) -> EventStream:
        """The `emit` of a call."""

        def wake() -> None:
            self._talking[place] = stream
            self._news.set()

        stream = EventStream(self._loop, wake)
        return stream

    def acknowledge(self, place: int) -> None:
        """A call was admitted."""
        self._acknowledged.append(place)
        self._news.set()

    def finish(self, place: int, outcome: Outcome, events: EventStream | None = None) -> None:
        """A call is over.

        Args:
            events: What it said before; None: nothing.
        """
        if events is not None:
            self._take(place, events)
            self._talking.pop(place, None)
        self._put(place, outcome)
        self._open -= 1
        self._news.set()

    async def messages(self) -> AsyncIterator[tuple[list[int], list[tuple[int, bytes]]]]:
        """What goes in each message, until every call has its outcome; the first at once.

        Yields:
            Places of the calls that were admitted, and encoded replies with their places.
        """
        while True:
            self._news.clear()
            for place, stream in self._talking.items():
                self._take(place, stream)
            self._talking.clear()
            acknowledged, self._acknowledged = self._acknowledged, []
            yield acknowledged, self._next_replies()
            if self._ready or self._acknowledged or self._talking:
                continue
            if not self._open:
                return
            await self._news.wait()

    def _next_replies(self) -> list[tuple[int, bytes]]:
        replies: list[tuple[int, bytes]] = []
        size_bytes = 0
        while self._ready and size_bytes < MESSAGE_BYTES:
            replies.append(self._ready.popleft())
            size_bytes += len(replies[-1][1])
        return replies

    def _take(self, place: int, stream: EventStream) -> None:
        for event in stream.take():
            self._put(place, event)

    def _put(self, place: int, reply: Event | Outcome) -> None:
        data = self._encoded(place, reply)
        if data is None:
            return
        if self._parked is not None and len(data) > INLINE_MAX_BYTES:
            carried = self._carried(self._parked, place, reply, data)
            if carried is None:
                return
            data = encode(carried)
        self._ready.append((place, data))

    def _encoded(self, place: int, reply: Event | Outcome) -> bytes | None:
        """A reply on the wire, or what goes in its place where it has no form there; None: nothing.

        The other calls of its message must not suffer.
        """
        try:
            return encode(reply)
        except Exception:
            return self._unsendable(place, reply)

    def _unsendable(self, place: int, reply: Event | Outcome) -> bytes | None:
        tool, error_id = self._tools[place], new_id("err")
        about = self._about(place)
        logger.exception("what %s said cannot be sent (%s)", tool, error_id, extra=about)
        if isinstance(reply, Event):
            return None
        return encode(failed(ToolBug(tool, error_id)))

    def _carried(
        self, parked: ParkedValues, place: int, reply: Event | Outcome, data: bytes
    ) -> Parked | Complete | None:
        """What goes in place of a reply that is too large for a message."""
        value_id = parked.park(data)
        if value_id is not None:
            return Parked(WIRE_VERSION, value_id, len(data))
        tool = self._tools[place]
        about = self._about(place)
        logger.warning("no room to keep %d bytes that %s said", len(data), tool, extra=about)
        if isinstance(reply, Event):
            return None
        return failed(ResultTooLarge(tool, len(data), INLINE_MAX_BYTES))

    def _about(self, place: int) -> dict[str, Sequence[str]]:
        """Whose call it is, for the log."""
        return {"request_ids": self._request_ids[place : place + 1]}
