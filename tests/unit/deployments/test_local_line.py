"""A line between two ends of one process: real sockets, no clock."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from thornback.deployments.local_line import (
    HEAD,
    MAX_FRAME_BYTES,
    Frames,
    Kind,
    Line,
    LineLost,
    LineRefused,
    LineServer,
)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario, and not for ever, on Python's loop and on that of replicas."""

    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scenario, 20))

    return run


class Echo:
    """Answers a message with its words, and waits before the word "wait" until it is let go."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.closed: list[bytes] = []

    async def answers(self, message: bytes) -> AsyncGenerator[bytes, None]:
        try:
            for word in message.split():
                if word == b"wait":
                    self.waiting.set()
                    await self.go.wait()
                if word == b"fail":
                    raise RuntimeError("a bug")
                yield word
        finally:
            self.closed.append(message)


async def connected(path: Path, echo: Echo) -> tuple[LineServer, Line]:
    server = LineServer(echo.answers)
    await server.listen(path / "s")
    line = await Line.to(str(path / "s"))
    assert await words(line, b"") == []  # now the server, too, knows the line
    echo.closed.clear()
    return server, line


async def ended(server: LineServer, line: Line) -> None:
    line.close()
    await server.drain()


async def words(line: Line, message: bytes) -> list[bytes]:
    return [word async for word in line.send(message)]


def test_answers_to_many_sends_come_back_each_to_its_own(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        echo = Echo()
        server, line = await connected(tmp_path, echo)
        slow = asyncio.ensure_future(words(line, b"one wait two"))
        await echo.waiting.wait()
        assert await words(line, b"three four") == [b"three", b"four"]
        assert await words(line, b"") == []
        echo.go.set()
        assert await slow == [b"one", b"wait", b"two"]
        await ended(server, line)

    run(scenario())


def test_a_message_may_be_large(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        server, line = await connected(tmp_path, Echo())
        large = b"x" * 3_000_000
        assert await words(line, large) == [large]
        await ended(server, line)

    run(scenario())


def test_who_waits_no_more_has_the_work_ended(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        echo = Echo()
        server, line = await connected(tmp_path, echo)
        stream = line.send(b"wait")
        await echo.waiting.wait()
        stream.cancel()
        assert [word async for word in stream] == []
        assert await words(line, b"next") == [b"next"]
        assert echo.closed == [b"wait", b"next"]
        await ended(server, line)

    run(scenario())


def test_a_line_is_lost_when_the_other_end_is_gone_and_not_when_this_end_hears_of_it(
    tmp_path: Path, run: Run
) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            line = await Line.to(str(tmp_path / "s"))
            other, _ = listener.accept()
            assert (line.is_open, line.is_lost) == (True, False)
            other.close()
            # Nothing was awaited: the loop has had no time to hear of it.
            assert (line.is_open, line.is_lost) == (False, True)
            with pytest.raises(LineLost):
                await words(line, b"one")
            assert (line.is_open, line.is_lost) == (False, True)

    run(scenario())


def test_a_send_that_fails_ends_alone(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        server, line = await connected(tmp_path, Echo())
        with pytest.raises(LineLost):
            await words(line, b"one fail")
        assert await words(line, b"two") == [b"two"]
        assert "a bug" in caplog.text
        await ended(server, line)

    run(scenario())


def test_a_gateway_that_is_gone_has_its_work_ended(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        echo = Echo()
        server, line = await connected(tmp_path, echo)
        stream = line.send(b"wait")
        await echo.waiting.wait()
        line.close()
        with pytest.raises(LineLost):
            await anext(stream)
        await server.drain()
        assert echo.closed == [b"wait"]

    run(scenario())


def test_a_replica_that_is_gone_loses_what_it_had(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        echo = Echo()
        server, line = await connected(tmp_path, echo)
        stream = line.send(b"wait")
        await echo.waiting.wait()
        for end in server.lines:
            end.close()
        with pytest.raises(LineLost):
            await anext(stream)
        assert not line.is_open
        await server.drain()

    run(scenario())


def test_a_replica_that_leaves_ends_what_it_has_and_refuses_the_rest(
    tmp_path: Path, run: Run
) -> None:
    async def scenario() -> None:
        echo = Echo()
        server, line = await connected(tmp_path, echo)
        had = line.send(b"wait more")
        await echo.waiting.wait()
        leaving = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0)
        assert line.is_open  # it has not heard of it yet
        with pytest.raises(LineRefused):
            await words(line, b"late")
        assert not line.is_open
        assert not leaving.done()
        with pytest.raises(FileNotFoundError):
            await Line.to(str(tmp_path / "s"))
        echo.go.set()
        assert [word async for word in had] == [b"wait", b"more"]
        await leaving
        assert echo.closed == [b"wait more"]

    run(scenario())


def test_nobody_else_may_open_the_socket(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        server, line = await connected(tmp_path, Echo())
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
        await ended(server, line)
        assert not (tmp_path / "s").exists()

    run(scenario())


def test_a_replica_waits_for_a_gateway_that_does_not_read(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        made = 0

        async def endless(_: bytes) -> AsyncGenerator[bytes, None]:
            nonlocal made
            while True:
                made += 1
                yield b"x" * 100_000

        server = LineServer(endless)
        await server.listen(tmp_path / "s")
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(HEAD.pack(0, 1, Kind.SEND))
        await reader.readexactly(1)
        before = -1
        while before != made:
            before = made
            for _ in range(50):
                await asyncio.sleep(0)
        assert made < 100
        writer.close()
        await server.drain()

    run(scenario())


def test_frames_are_found_however_the_bytes_come() -> None:
    data = HEAD.pack(3, 7, Kind.SEND) + b"abc" + HEAD.pack(0, 8, Kind.CANCEL)
    for size in range(1, len(data) + 1):
        frames = Frames()
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        found = [frame for piece in pieces for frame in frames.of(piece)]
        assert found == [(Kind.SEND, 7, b"abc"), (Kind.CANCEL, 8, b"")]


def test_what_is_too_long_is_no_frame() -> None:
    with pytest.raises(ValueError, match="frame of"):
        list(Frames().of(HEAD.pack(MAX_FRAME_BYTES + 1, 1, Kind.SEND)))
