"""Fakes, written once and by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.messages import CallMessage, Event, Outcome, decode_call, encode
from thornback.tools.context import ToolContext
from thornback.tools.definition import Tool
from thornback.tools.runner import run


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

    def __init__(self, replies: list[Event | Outcome | BaseException], hangs: bool = False) -> None:
        self._replies = replies
        self._hangs = hangs
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for reply in self._replies:
            await asyncio.sleep(0)
            if isinstance(reply, BaseException):
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


class FakePool:
    """A pool that runs its tools in this process, as a tool host would."""

    def __init__(self, name: str, tools: dict[str, Tool]) -> None:
        self.name = name
        self._tools = tools
        self.calls: list[CallMessage] = []

    async def call(self, message: CallMessage, emit: Callable[[Event], None]) -> Outcome:
        self.calls.append(message)
        loop = asyncio.get_running_loop()

        # Plain functions report from their thread; a host's messages arrive on the loop.
        def arrive(event: Event) -> None:
            loop.call_soon_threadsafe(emit, event)

        context = ToolContext.of(message, arrive)
        return await run(self._tools[message.tool], message.arguments, context)


class FakePools:
    """Pools in this process, by name; all of them run the same tools."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._pools: dict[str, FakePool] = {}

    def get(self, entry: PoolEntry) -> FakePool:
        return self._pools.setdefault(entry.name, FakePool(entry.name, self._tools))
