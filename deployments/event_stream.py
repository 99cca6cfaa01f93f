"""What one running call says, on its way from the tool's thread to the gateway: in order, bounded.

A slow reader must cost the tool's host nothing: progress coalesces (the latest counts), a log
message too many is dropped and counted, and a tool that yields items waits until they are read.
The stream knows nothing of tools or of what carries the events further; it says on the loop that
there is something to take, and that is taken when there is a way for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import msgspec

from thornback.cluster.messages import WIRE_VERSION, Event, Log, Partial, Progress

MAX_PARTIALS = 32
MAX_PARTIAL_BYTES = 1024 * 1024
MAX_LOGS = 256


class EventStream:
    """The `emit` of one call, and where its events are taken. Emitting is safe on any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """
        Args:
            wake: Called on the loop when there is something to take.
        """
        self._loop = loop
        self._wake = wake
        self._loop_thread = threading.get_ident()
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._progress_at: int | None = None
        """Where in `_events` a progress report waits that a later one may replace."""
        self._partials = 0
        self._partial_bytes = 0
        self._logs = 0
        self._logs_dropped = 0
        self._closed = False
        self._waking = False
        """Whether the loop has been called and has not looked yet: one call will do."""
        self._taken: asyncio.Event | None = None
        """Set when events were taken; made by the first that waits for it."""

    def __call__(self, event: Event) -> None:
        """Emit. An item blocks the calling thread while the stream is full, but never the loop."""
        with self._changed:
            if isinstance(event, Partial) and threading.get_ident() != self._loop_thread:
                self._changed.wait_for(lambda: self._closed or not self._is_full())
            if self._closed:  # nobody reads any more
                return
            self._keep(event)
            if not self._waking:
                self._waking = True
                self._loop.call_soon_threadsafe(self._wake)

    async def room(self) -> None:
        """Wait, on the loop, until an item would not block."""
        while self._is_full() and not self._closed:
            if self._taken is None:
                self._taken = asyncio.Event()
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """Nobody reads any more: what waits for room goes on, and what is emitted is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._room_is_made()

    def _room_is_made(self) -> None:
        if self._taken is not None:
            self._taken.set()

    def _is_full(self) -> bool:
        return self._partials >= MAX_PARTIALS or self._partial_bytes >= MAX_PARTIAL_BYTES

    def _keep(self, event: Event) -> None:
        if isinstance(event, Progress):
            if self._progress_at is not None:
                self._events[self._progress_at] = event
                return
            self._progress_at = len(self._events)
        elif isinstance(event, Partial):
            self._partials += 1
            self._partial_bytes += len(event.value)
        elif isinstance(event, Log):
            if self._logs >= MAX_LOGS:
                self._logs_dropped += 1
                return
            self._logs += 1
        self._events.append(event)

    def take(self) -> list[Event]:
        """What was emitted since the last time, which makes room for more. Called on the loop."""
        if not self._events and not self._logs_dropped:
            return []
        with self._changed:
            self._waking = False
            taken, self._events = self._events, []
            if self._logs_dropped:
                taken.append(_dropped(self._logs_dropped))
            self._progress_at = None
            self._partials = self._partial_bytes = self._logs = self._logs_dropped = 0
            self._changed.notify_all()
        self._room_is_made()
        return taken


def _dropped(count: int) -> Log:
    data = msgspec.json.encode(f"{count} log messages were dropped: they came faster than read")
    return Log(WIRE_VERSION, "warning", data, "thornback")
