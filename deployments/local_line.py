"""A line between a gateway and a replica on one machine: a Unix socket, messages both ways.

A call of a Serve handle costs milliseconds of CPU wherever it goes; what crosses a line is written
and read. A line carries any number of sends, each with a number under which its answers come back,
and says what a handle would: that a send was refused unread, or that the other end is gone. Whoever
may open the socket's file may speak, and that is the user whom the cluster runs as. What a message
means the two ends know; here it is bytes.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import select
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, cast

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Far above any message; more is no frame."""
HEAD = struct.Struct("!IIB")
"""Bytes that follow, number of the send, kind."""


class Kind(IntEnum):
    """What a frame is."""

    SEND = 1
    """Gateway: a message; its answers will have its number."""
    CANCEL = 2
    """Gateway: nobody waits for the answers to a send."""
    ANSWER = 3
    """Replica: one of the answers to a send."""
    END = 4
    """Replica: the last has come."""
    FAILED = 5
    """Replica: there will be no more answers, and what the message asked for may have begun."""
    REFUSED = 6
    """Replica: the message was not read."""
    GOODBYE = 7
    """Replica: it takes no more sends. Gateway: none will come."""


class Frame(NamedTuple):
    kind: int
    number: int
    data: bytes


class LineRefused(Exception):
    """A replica that leaves has not read a message."""


class LineLost(Exception):
    """The other end of a line is gone, or could not go on with a send."""


class Frames:
    """Frames from the pieces in which a socket gives their bytes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def of(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are complete with this piece.

        Raises:
            ValueError: these bytes are no frames.
        """
        data = self._data
        data += piece
        begin = 0
        while len(data) - begin >= HEAD.size:
            size, number, kind = HEAD.unpack_from(data, begin)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            end = begin + HEAD.size + size
            if end > len(data):
                break
            yield Frame(kind, number, bytes(data[begin + HEAD.size : end]))
            begin = end
        del data[:begin]


class _End(asyncio.Protocol):
    """What both ends of a line are."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's have the methods and not the class.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.of(data):
                self.hear(frame)
        except ValueError:
            logger.exception("a line is given up")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._room.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def say(self, kind: Kind, number: int = 0, data: bytes = b"") -> None:
        if self._transport is not None:
            self._transport.write(HEAD.pack(len(data), number, kind) + data)

    async def room(self) -> None:
        """Wait until the other end has read so much that more may be written."""
        if not self._room.is_set():
            await self._room.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def hear(self, frame: Frame) -> None:
        raise NotImplementedError


# --- the gateway's end ----------------------------------------------------------------------------


class Line(_End):
    """A gateway's end of a line."""

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[int, LineStream] = {}
        self._sends = 0
        self._leaves = False
        self._hang_up = select.poll()
        """Tells that the other end has closed, before what it said last is read here."""

    @classmethod
    async def to(cls, path: str) -> Line:
        """
        Raises:
            OSError: nobody listens there.
        """
        loop = asyncio.get_running_loop()
        _, line = await loop.create_unix_connection(cls, path)
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._hang_up.register(transport.get_extra_info("socket").fileno(), 0)

    @property
    def is_open(self) -> bool:
        """Whether the replica takes sends."""
        return not self._leaves and not self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether nothing that is sent now would be read.

        The kernel is asked: that the other end is gone may be known there, and wait here behind
        requests that came before it.
        """
        return self._transport is None or bool(self._hang_up.poll(0))

    def send(self, message: bytes) -> LineStream:
        """Send a message on a line that is open."""
        self._sends = (self._sends + 1) % 2**32
        stream = self._streams[self._sends] = LineStream(self, self._sends)
        self.say(Kind.SEND, self._sends, message)
        return stream

    def cancel(self, number: int) -> None:
        if self._streams.pop(number, None) is not None:
            self.say(Kind.CANCEL, number)

    def hear(self, frame: Frame) -> None:
        if frame.kind == Kind.GOODBYE:
            self._leaves = True
            self.say(Kind.GOODBYE)
            return
        stream = self._streams.get(frame.number)
        if stream is None:  # it was cancelled
            return
        if frame.kind == Kind.ANSWER:
            stream.put(frame.data)
            return
        del self._streams[frame.number]
        match frame.kind:
            case Kind.END:
                stream.put(None)
            case Kind.REFUSED:
                stream.put(LineRefused("the replica leaves"))
            case _:
                stream.put(LineLost("the replica could not go on"))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.put(LineLost("the replica is gone"))


class LineStream:
    """The answers to one send."""

    def __init__(self, line: Line, number: int) -> None:
        self._line = line
        self._number = number
        self._answers: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def put(self, answer: bytes | Exception | None) -> None:
        """None: the last has come; an error: there will be none."""
        self._answers.put_nowait(answer)

    def cancel(self) -> None:
        """Nobody waits for more."""
        self._line.cancel(self._number)
        self.put(None)

    def __aiter__(self) -> LineStream:
        return self

    async def __anext__(self) -> bytes:
        """
        Raises:
            LineRefused: the message was not read.
            LineLost: what the message asked for may have begun, and no more will be heard.
        """
        answer = await self._answers.get()
        if isinstance(answer, bytes):
            return answer
        raise answer or StopAsyncIteration


# --- the replica's end ----------------------------------------------------------------------------

Answers = Callable[[bytes], AsyncGenerator[bytes, None]]
"""The answers to a message; closed where nobody waits for more."""


class LineServer:
    """A replica's end of all its lines."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.leaves = False
        """Whether it takes no more sends."""
        self.lines: set[_ReplicaEnd] = set()
        self.changed = asyncio.Event()
        """Set when a line may have become idle."""
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen(self, path: Path) -> None:
        """
        Raises:
            OSError: there can be no socket there.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            os.chmod(path, 0o600)  # before anybody can connect
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _ReplicaEnd(self), sock=listener)
        except BaseException:
            listener.close()
            raise
        self._path = path

    async def drain(self) -> None:
        """Take no more sends, and return when there is nothing left to answer."""
        self.leaves = True
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for line in self.lines:
            line.leave()
        while not all(line.is_done for line in self.lines):
            self.changed.clear()
            await self.changed.wait()
        for line in tuple(self.lines):
            line.close()


class _ReplicaEnd(_End):
    """A replica's end of one line."""

    def __init__(self, server: LineServer) -> None:
        super().__init__()
        self._server = server
        self._sends: dict[int, asyncio.Task[None]] = {}
        self._no_more = False
        """Whether the gateway has said that nothing more comes."""

    @property
    def is_done(self) -> bool:
        return self._no_more and not self._sends

    def leave(self) -> None:
        self.say(Kind.GOODBYE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.lines.add(self)
        if self._server.leaves:
            self.leave()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._no_more = True
        for task in self._sends.values():
            task.cancel()
        self._changed()

    def hear(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.SEND if self._server.leaves:
                self.say(Kind.REFUSED, frame.number)
            case Kind.SEND:
                self._begin(frame.number, frame.data)
            case Kind.CANCEL if (task := self._sends.get(frame.number)) is not None:
                task.cancel()
            case Kind.GOODBYE:
                self._no_more = True
                self._changed()

    def _begin(self, number: int, message: bytes) -> None:
        # In a context of its own, not in that of whatever opened the socket.
        task = asyncio.get_running_loop().create_task(
            self._answer(number, message), context=contextvars.Context()
        )
        self._sends[number] = task
        task.add_done_callback(lambda _: self._over(number))

    def _over(self, number: int) -> None:
        del self._sends[number]
        self._changed()

    def _changed(self) -> None:
        if self._transport is None and self.is_done:
            self._server.lines.discard(self)
        self._server.changed.set()

    async def _answer(self, number: int, message: bytes) -> None:
        try:
            async with aclosing(self._server.answers(message)) as answers:
                async for answer in answers:
                    self.say(Kind.ANSWER, number, answer)
                    await self.room()
        except Exception:
            logger.exception("a message was not answered to its end")
            self.say(Kind.FAILED, number)
        else:
            self.say(Kind.END, number)
