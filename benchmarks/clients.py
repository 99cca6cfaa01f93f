"""Clients that call without pause and keep what each call told: where a generator's sums are not
enough.

They are tasks of this process and speak HTTP/1.1 themselves, a tenth of a millisecond of CPU a
call: for hundreds of calls a second, not for thousands. What they call is `work`, in
`configs/benchmark_work.py` and in `peers/calls.py`, which answers with where and when it ran.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from thornback.deployments.load import WrongAnswers
from thornback.deployments.mcp_client import PROTOCOL_VERSION

ANSWER_TIMEOUT_S = 60.0
IDLE_S = 0.01
"""Pause of a client that is not wanted now."""


class Call(NamedTuple):
    """One call that was answered. All moments are of `time.monotonic`, one clock for a machine."""

    asked_s: float
    answered_s: float
    pid: int
    """Of the process that ran it."""
    running: int
    """Calls that ran there when it began, itself included."""
    began_s: float
    ended_s: float
    """Of the tool's own work."""

    @property
    def took_s(self) -> float:
        return self.answered_s - self.asked_s

    @property
    def worked_s(self) -> float:
        return self.ended_s - self.began_s


class Connection:
    """A kept connection to an MCP endpoint."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and read its answer: status and body.

        Raises:
            OSError, EOFError: the connection ended.
        """
        await self.send(request)
        return await self.answer()

    async def send(self, request: bytes) -> None:
        self._writer.write(request)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        if b"transfer-encoding: chunked" in head:
            return status, await self._chunks()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        return status, await self.reader.readexactly(int(length or 0))

    async def _chunks(self) -> bytes:
        body = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return b"".join(body)

    def close(self) -> None:
        self._writer.close()


def request_of(url: str, tool: str, arguments: dict[str, Any], **meta: Any) -> bytes:
    """A `tools/call` of 2026-07-28 as bytes."""
    parts = urlsplit(url)
    about = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        **meta,
    }
    params = {"name": tool, "arguments": arguments, "_meta": about}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    body = json.dumps(message).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        f"MCP-Protocol-Version: {PROTOCOL_VERSION}\r\nMcp-Method: tools/call\r\n"
        f"Mcp-Name: {tool}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Crowd:
    """Clients in a closed loop, as many as are wanted at each moment.

    `calls` grows while it runs.
    """

    def __init__(
        self,
        url: str,
        most: int,
        *,
        work_s: Sequence[float],
        wanted: Callable[[float], float] | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            most: Clients at the most.
            work_s: How long a call works: one of these, by chance.
            wanted: From seconds since the start to how many clients call then; None: all.
        """
        self.calls: list[Call] = []
        self._url = url
        self._most = most
        self._work_s = work_s
        self._wanted = wanted
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._nonce = secrets.token_hex(4)
        self.began_s = 0.0
        self._until_s = 0.0

    async def run(self, seconds: float) -> None:
        """Call for so long, and wait for the last answers.

        Raises:
            WrongAnswers: an answer is not the one to its question, or is missing.
        """
        self.began_s = time.monotonic()
        self._until_s = self.began_s + seconds
        await asyncio.gather(*(self._client(number) for number in range(self._most)))

    async def _client(self, number: int) -> None:
        connection: Connection | None = None
        try:
            while (now := time.monotonic()) < self._until_s:
                if self._wanted is not None and number >= self._wanted(now - self.began_s):
                    await asyncio.sleep(IDLE_S)
                    continue
                connection = await self._call(connection)
        finally:
            if connection is not None:
                connection.close()

    async def _call(self, connection: Connection | None) -> Connection:
        text = f"{self._nonce}-{next(self._numbers)}"
        arguments = {"text": text, "delay_s": self._random.choice(self._work_s)}
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                connection = connection or await Connection.open(self._url)
                status, body = await connection.ask(request_of(self._url, "work", arguments))
        except (OSError, EOFError, TimeoutError) as error:
            raise WrongAnswers(0, 1, 1, f"{type(error).__name__}: {error}") from error
        self.calls.append(_read(text, asked_s, status, body))
        return connection


def _read(text: str, asked_s: float, status: int, body: bytes) -> Call:
    """
    Raises:
        WrongAnswers: it is not the answer to this question.
    """
    found = body.partition(text.encode() + b" ")[2].partition(b'"')[0].split()
    if status != 200 or b'"isError":true' in body.replace(b" ", b"") or len(found) != 4:
        raise WrongAnswers(1, 0, 0, f"{status} {body[:300].decode('utf-8', 'replace')}")
    pid, running, began_s, ended_s = found
    return Call(asked_s, time.monotonic(), int(pid), int(running), float(began_s), float(ended_s))
