"""64 calls that share batches, alike, and with four among them that hurt: do the others feel it?"""

from __future__ import annotations

import asyncio
import http.client
import secrets
import socket
import statistics
import time
from collections import Counter
from typing import NamedTuple

from benchmarks.accounting import spent
from benchmarks.clients import Connection, request_of
from benchmarks.measuring import Measured, Point
from benchmarks.servers import Server
from thornback.deployments.load import WrongAnswers

ALIKE = "64 alike"
ODD = "60, and 4 that hurt"
CALLS = 64
LEAVES_S = 0.1
"""After so long one of them leaves."""
PATIENCE_S = 30.0
LARGE_BYTES = 100_000_000
"""As `configs/benchmark_shared.py` says."""
PIECE_BYTES = 1_000_000
NARROW_BYTES = 4096
"""What the one that does not read lets into its receive buffer."""


class Answered(NamedTuple):
    """A call that was answered rightly."""

    took_s: float
    batch: int
    """Calls that shared its invocation."""


def measure_shared(server: Server, point: Point, run: int) -> Measured:
    """Rounds of 64 calls at once, for as long as the load lasts.

    Raises:
        WrongAnswers: one of the plain calls was not answered rightly.
    """
    odd = point.label == ODD
    asyncio.run(one_round(server.url, odd=False))  # warm
    before, begin_s = server.usage(), time.monotonic()
    answered: list[Answered] = []
    rounds = 0
    while not rounds or time.monotonic() < begin_s + point.load.seconds:
        answered += asyncio.run(one_round(server.url, odd))
        rounds += 1
    took_s = time.monotonic() - begin_s
    return Measured(
        server=server.name,
        point=point.label,
        run=run,
        calls=len(answered),
        seconds=took_s,
        latency_us={"shared": Counter(round(one.took_s * 1e6) for one in answered)},
        cpu_s=spent(before, server.usage()),
        unique_bytes=server.unique_bytes(),
        extra={
            "answered_of_60": min(60.0, len(answered) / rounds),
            "mean_batch": statistics.mean(one.batch for one in answered),
        },
    )


async def one_round(url: str, odd: bool) -> list[Answered]:
    """64 calls at once; what the plain ones met."""
    plain = CALLS - 4 if odd else CALLS
    hurting = [_leave(url), _large(url), _unserialisable(url)] if odd else []
    unread = await _unread(url) if odd else None
    try:
        found = await asyncio.gather(*(_plain(url) for _ in range(plain)), *hurting)
    finally:
        if unread is not None:
            unread.close()
    return [one for one in found if one is not None]


async def _plain(url: str) -> Answered:
    text = secrets.token_hex(6)
    began_s = time.monotonic()
    status, body = await _asked(url, text, "plain")
    took_s = time.monotonic() - began_s
    size = body.partition(text.encode() + b" ")[2].partition(b'"')[0]
    if status != 200 or not size.isdigit():
        raise WrongAnswers(1, 0, 0, f"{status} {body[:300]!r}")
    return Answered(took_s, int(size))


async def _asked(url: str, text: str, kind: str) -> tuple[int, bytes]:
    connection = await Connection.open(url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await connection.ask(request_of(url, "shared", {"text": text, "kind": kind}))
    finally:
        connection.close()


async def _leave(url: str) -> None:
    """One that disconnects while its batch runs."""
    connection = await Connection.open(url)
    await connection.send(request_of(url, "shared", {"text": "leaves", "kind": "plain"}))
    await asyncio.sleep(LEAVES_S)
    connection.close()


async def _large(url: str) -> None:
    """One whose result is 100 MB, which it reads; in a thread, so that nobody here waits for it.

    Raises:
        WrongAnswers: it is not whole.
    """
    status, size, begins = await asyncio.to_thread(_read_large, url)
    if status != 200 or size < LARGE_BYTES:
        raise WrongAnswers(1, 0, 0, f"{status} with {size} bytes: {begins!r}")


def _read_large(url: str) -> tuple[int, int, bytes]:
    """Status, size, and how it begins."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as reader:
        reader.sendall(request_of(url, "shared", {"text": "large", "kind": "large"}))
        answer = http.client.HTTPResponse(reader)
        answer.begin()
        piece = bytearray(PIECE_BYTES)
        size, begins = 0, b""
        while read := answer.readinto(piece):
            begins = begins or bytes(piece[: min(read, 300)])
            size += read
        return answer.status, size, begins


async def _unserialisable(url: str) -> None:
    """One whose result cannot be sent: it is told so.

    Raises:
        WrongAnswers: it is not.
    """
    status, body = await _asked(url, "odd", "unserialisable")
    if status != 200 or b'"isError":true' not in body:
        raise WrongAnswers(1, 0, 0, f"{status} {body[:300]!r}")


async def _unread(url: str) -> socket.socket:
    """One whose reader asks for as much and reads nothing."""
    request = request_of(url, "shared", {"text": "unread", "kind": "large"})
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
    reader.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(reader, (host, int(port)))
    await loop.sock_sendall(reader, request)
    return reader
