"""Fakes, written once and by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable

from thornback.cluster.messages import CallMessage, Event, Outcome, decode_call, encode


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self._wall += seconds


class FakeStream:
    """Replies of one call, as a `DeploymentHandle` streams them; an exception among them is raised.

    After the last one the stream stays open where `hangs`, until it is cancelled.
    """

    def __init__(self, replies: list[Event | Outcome | Exception], hangs: bool = False) -> None:
        self._replies = replies
        self._hangs = hangs
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for reply in self._replies:
            await asyncio.sleep(0)
            if isinstance(reply, Exception):
                raise reply
            yield encode(reply)
        if self._hangs:
            await asyncio.Event().wait()

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """A pool's `DeploymentHandle` that answers each call with the next stream it was given."""

    def __init__(self, *streams: FakeStream) -> None:
        self.streams = list(streams)
        self.sent: list[CallMessage] = []
        self.on_send: Callable[[CallMessage], None] = lambda message: None

    def remote(self, message: bytes) -> FakeStream:
        call = decode_call(message)
        self.sent.append(call)
        self.on_send(call)
        return self.streams[len(self.sent) - 1]
