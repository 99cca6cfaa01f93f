"""Fakes, written once and by hand."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.messages import (
    WIRE_VERSION,
    CallMessage,
    Event,
    HostState,
    Outcome,
    Replies,
    Reply,
    Send,
    decode_send,
    encode,
)
from thornback.deployments.transport import Beat
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


class FakeSend:
    """A send that arrived at a `FakeTransport`; the test says what becomes of its stream."""

    def __init__(
        self, replica_id: str, message: Send, by_reference: bool, alone: bool = False
    ) -> None:
        self.to = replica_id
        self.message = message
        self.by_reference = by_reference
        self.alone = alone
        self.cancelled = False
        self._coming: asyncio.Queue[Replies | BaseException | None] = asyncio.Queue()

    @property
    def calls(self) -> list[str]:
        return [call.call_id for call in self.message.calls]

    def answer(
        self,
        acknowledged: Iterable[int] = (),
        replies: Iterable[tuple[int, Reply]] = (),
        *,
        by: str = "",
        free: int = 4,
        running: int = 0,
        slots: int = 4,
        age_s: float = math.inf,
    ) -> None:
        """Another message in the stream.

        Args:
            by: The replica that answers; empty: the one that it was sent to.
        """
        state = HostState(by or self.to or "r1", "node", slots, free, running, age_s)
        self._coming.put_nowait(
            Replies(WIRE_VERSION, state, list(acknowledged), [(p, r) for p, r in replies])
        )

    def fail(self, error: BaseException) -> None:
        self._coming.put_nowait(error)

    def end(self) -> None:
        self._coming.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (coming := await self._coming.get()) is not None:
            if isinstance(coming, BaseException):
                raise coming
            yield encode(coming)

    def cancel(self) -> None:
        self.cancelled = True
        self.fail(asyncio.CancelledError())


class FakeTransport:
    """The way to replicas that do what the test says."""

    def __init__(self) -> None:
        self.sends: list[FakeSend] = []
        self.beats: list[int] = []
        """What the gateway said that it holds, with each heartbeat."""
        self.was_beaten = asyncio.Event()
        self.states: list[HostState] | None = None
        """What replicas answer to a heartbeat; None: there is none."""
        self.known: set[str] = set()
        """Replicas that were met."""
        self.one_is_silent = False
        """Whether another replica leaves a heartbeat unanswered."""
        self.dead: set[str] = set()
        """Replicas that are known to have ended."""
        self.parked: dict[str, Reply] = {}
        self._unread: asyncio.Queue[FakeSend] = asyncio.Queue()

    def met(self, state: HostState) -> None:
        self.known.add(state.replica_id)

    def is_gone(self, replica_id: str) -> bool:
        return replica_id in self.dead

    def send(
        self, replica_id: str, message: bytes, *, by_reference: bool = False, alone: bool = False
    ) -> FakeSend:
        send = FakeSend(replica_id, decode_send(message), by_reference, alone)
        self.sends.append(send)
        self._unread.put_nowait(send)
        return send

    async def next_send(self) -> FakeSend:
        """The next send that the test has not seen."""
        return await self._unread.get()

    async def fetch(self, replica_id: str, value_id: str) -> bytes | None:
        reply = self.parked.pop(value_id, None)
        return None if reply is None else encode(reply)

    async def beat(self, gateway: str, held: int, timeout_s: float) -> Beat:
        self.beats.append(held)
        self.was_beaten.set()
        if self.states is None:
            raise LookupError("no replica")
        return Beat([encode(state) for state in self.states], not self.one_is_silent)


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
        outcome = await run(self._tools[message.tool], message.arguments, context)
        # An outcome arrives after what was said before it, as it does in a host's stream.
        arrived: asyncio.Future[None] = loop.create_future()
        loop.call_soon_threadsafe(arrived.set_result, None)
        await arrived
        return outcome


class FakePools:
    """Pools in this process, by name; all of them run the same tools."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._pools: dict[str, FakePool] = {}

    def get(self, entry: PoolEntry) -> FakePool:
        return self._pools.setdefault(entry.name, FakePool(entry.name, self._tools))
