"""How messages reach the replicas of a pool: a line to a replica on this machine, and Ray Serve's
handle to any.

A handle finds replicas, has them started, reaches other machines and carries what is large or read
slowly. Everything that is Serve's own is here, so that channels and their tests know bytes and
streams.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from thornback.cluster.messages import HostState
from thornback.deployments.local_line import Line, LineRefused
from thornback.deployments.replicas import Fault

logger = logging.getLogger(__name__)

DEPLOYMENT = "ToolHost"
"""Name of the one deployment in each pool's application."""


class Stream(Protocol):
    """Messages from a replica, as Serve's `DeploymentResponseGenerator` gives them."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None: ...


class Beat(NamedTuple):
    """What came of a heartbeat."""

    states: list[bytes]
    """The `HostState` of each replica that answered."""
    all_answered: bool
    """Whether there is none that may yet: then what is not among these has gone."""


class Transport(Protocol):
    """The way to the replicas of one pool."""

    def met(self, state: HostState) -> None:
        """A replica said something."""
        ...

    def is_gone(self, replica_id: str) -> bool:
        """Whether a replica is known to take no more; what is still heard of it is old."""
        ...

    def send(
        self, replica_id: str, message: bytes, *, by_reference: bool = False, alone: bool = False
    ) -> Stream:
        """Send to a replica; where it is known to be gone, to another, whose answer says so.

        No replica gets what another may have begun: then the stream fails.

        Args:
            replica_id: Empty: any replica, for a message that nothing begins with. Waits for one
                where there is none.
            by_reference: Through the object store, where a message has no limit.
            alone: Whether the answers may be read so slowly that the replica has to wait.
        """
        ...

    async def fetch(self, replica_id: str, value_id: str) -> bytes | None:
        """A reply that was too large for a message; None where it is gone."""
        ...

    async def beat(self, gateway: str, held: int, timeout_s: float) -> Beat:
        """Tell every replica that this gateway is there.

        Raises:
            Exception: Serve knows of no replica, or does not say in time.
        """
        ...


class ServeTransport:
    """A pool's application, through its deployment handle."""

    def __init__(self, application: str, node_id: str) -> None:
        """
        Args:
            node_id: The node of this process.
        """
        from ray.serve.handle import DeploymentHandle

        handle: DeploymentHandle[Any] = DeploymentHandle(DEPLOYMENT, application)
        handle._init(_prefer_local_routing=True)  # type: ignore[no-untyped-call]
        self._handle = handle
        self._sends: dict[tuple[str, bool], Any] = {}
        """Handles by the replica that they address, and whether by reference."""
        self._lines = Lines(node_id)

    def met(self, state: HostState) -> None:
        self._lines.met(state)

    def is_gone(self, replica_id: str) -> bool:
        line = self._lines.to(replica_id)
        return line is not None and not line.is_open

    def send(
        self, replica_id: str, message: bytes, *, by_reference: bool = False, alone: bool = False
    ) -> Stream:
        if self.is_gone(replica_id):
            return Unsent()
        if not (by_reference or alone):
            if (line := self._lines.to(replica_id)) is not None:
                return line.send(message)
            if (opening := self._lines.opening(replica_id)) is not None:
                # Not by handle meanwhile: of a replica that is new Serve may not know the name,
                # offer the message to another, and find that it cannot leave a second time.
                return SentAfter(opening, lambda: self.send(replica_id, message))
        handle = self._sends.get((replica_id, by_reference))
        if handle is None:
            handle = self._addressed("send", replica_id, stream=True, by_reference=by_reference)
            if len(self._sends) > MAX_HANDLES:  # replicas come and go, each with a new id
                self._sends.clear()
            self._sends[replica_id, by_reference] = handle
        stream: Stream = handle.remote(SentOnce(message) if replica_id else message)
        return stream

    async def fetch(self, replica_id: str, value_id: str) -> bytes | None:
        handle = self._addressed("fetch", replica_id, stream=False, by_reference=True)
        value: bytes | None = await handle.remote(value_id)
        return value

    async def beat(self, gateway: str, held: int, timeout_s: float) -> Beat:
        async with asyncio.timeout(timeout_s):
            response: Any = self._handle.broadcast("beat", gateway, held)
            # Not its `results_async`: that gives no answer at all where one replica is silent.
            awaited = await response._fetch_replica_results_async()
        return await answers_within([one.get_async() for one in awaited], timeout_s)

    def _addressed(self, method: str, replica_id: str, *, stream: bool, by_reference: bool) -> Any:
        return self._handle.options(
            method_name=method,
            multiplexed_model_id=replica_id,
            stream=stream,
            request_serialization="pickle",
            response_serialization="pickle",
            _by_reference=by_reference,
        )


async def answers_within(asked: Sequence[Coroutine[Any, Any, Any]], timeout_s: float) -> Beat:
    """The answers that come in time; an error is the answer of a replica that has gone."""
    if not asked:
        return Beat([], all_answered=True)
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        done, silent = await asyncio.wait(tasks, timeout=timeout_s)
    finally:
        for task in tasks:
            task.cancel()
    answers = [task.result() for task in tasks if task in done and not _has_failed(task)]
    return Beat([answer for answer in answers if isinstance(answer, bytes)], not silent)


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


MAX_HANDLES = 256


class SentAfter:
    """The stream of a message that is sent when its way has been made."""

    def __init__(self, way: asyncio.Task[None], send: Callable[[], Stream]) -> None:
        self._way = way
        self._send = send
        self._stream: Stream | None = None
        self._cancelled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.wait([self._way])
        if self._cancelled:
            return
        self._stream = self._send()
        async for answer in self._stream:
            yield answer

    def cancel(self) -> None:
        """Nobody waits for more."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()


class Unsent:
    """The stream of a message that was not sent, because its replica takes no more."""

    def __aiter__(self) -> Unsent:
        return self

    async def __anext__(self) -> bytes:
        """
        Raises:
            LineRefused: always.
        """
        raise LineRefused("the replica takes no more")

    def cancel(self) -> None:
        """There is nothing to cancel."""


class Lines:
    """The lines of this gateway to the replicas on its machine."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._lines: dict[str, Line | None] = {}
        """By id of the replica; None where one is being opened, or could not be."""
        self._opening: dict[str, asyncio.Task[None]] = {}

    def to(self, replica_id: str) -> Line | None:
        """The line to a replica, where there is one. Once it takes no sends it never will again."""
        return self._lines.get(replica_id)

    def opening(self, replica_id: str) -> asyncio.Task[None] | None:
        """What ends when the line to a replica is open or cannot be, until then."""
        return self._opening.get(replica_id)

    def met(self, state: HostState) -> None:
        """A replica said something: if it is the first time, open a line to it."""
        if state.node_id != self._node_id or not state.line or state.replica_id in self._lines:
            return
        if len(self._lines) >= MAX_HANDLES:
            self._lines = {
                known: line for known, line in self._lines.items() if line and line.is_open
            }
        self._lines[state.replica_id] = None
        # Of no request's context, because Serve would end it with that request.
        task = asyncio.create_task(
            self._open(state.replica_id, state.line), context=contextvars.Context()
        )
        self._opening[state.replica_id] = task
        task.add_done_callback(lambda _: self._opening.pop(state.replica_id))

    async def _open(self, replica_id: str, path: str) -> None:
        try:
            self._lines[replica_id] = await Line.to(path)
        except OSError as error:  # its machine may be ours and its files others
            logger.warning("no line to %s, Serve's handle is slower: %s", replica_id, error)


class SentOnce:
    """A message that goes to one replica: arrives as bytes, and does not leave a second time.

    Serve replays a request whose replica died before its acceptance was heard, while the calls in
    it may have run. It serialises the request anew for that, which is where it is stopped.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._left = False

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        if self._left:
            raise SentBefore
        self._left = True
        return bytes, (self._message,)


class SentBefore(Exception):
    """A message would leave a second time."""

    def __init__(self) -> None:
        super().__init__("a replica may have begun what is in this message")


def fault_of(error: BaseException) -> Fault:
    """What an error of a stream says about the calls in it.

    Whatever is not a refusal may come after their effects.
    """
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    refusals = (BackPressureError, DeploymentUnavailableError, LineRefused)
    return "refused" if isinstance(error, refusals) else "lost"
