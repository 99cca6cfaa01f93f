"""Clients that call without pause, each on a connection that it keeps, and note what they see."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.on_ray.faults.history import Operation, Outcome, outcome_of
from tests.on_ray.faults.raw_http import Answer, Connection, ProtocolViolation, Target

CLIENTS = 16
ANSWER_TIMEOUT_S = 30.0
RECONNECT_S = 0.05
"""Pause of a client that nobody listens to."""
_loads = itertools.count(1)


class Load:
    """The clients of one test. Every key that they use is theirs alone."""

    def __init__(self, target: Target, tool: str, seconds: float) -> None:
        """
        Args:
            tool: Of `effect_tools`, taking `key` and `seconds`.
            seconds: How long each call works.
        """
        self.operations: list[Operation] = []
        self._target = target
        self._tool = tool
        self._seconds = seconds
        self._stopping = False
        self.name = f"load{next(_loads)}"

    async def client(self, number: int) -> None:
        connection: Connection | None = None
        try:
            for count in itertools.count():
                if self._stopping:
                    return
                connection = await self._one(number, f"{self.name}-{number}-{count}", connection)
        finally:
            if connection is not None:
                connection.close()

    async def _one(self, number: int, key: str, connection: Connection | None) -> Connection | None:
        """One call; gives the connection for the next one, if this one can be kept."""
        began_s = time.monotonic()
        keep = False
        try:
            connection = connection or await Connection.open(self._target.port)
            answer = await self._exchange(connection, key)
            outcome, detail = outcome_of(key, key, answer)
            keep = answer.headers.get("connection", "").lower() != "close"
        except (OSError, EOFError, ProtocolViolation, TimeoutError) as error:
            outcome, detail = _cut(error)
        finally:
            if connection is not None and not keep:
                connection.close()
        ended_s = time.monotonic()
        self.operations.append(Operation(number, key, began_s, ended_s, outcome, detail))
        if outcome in ("front", "cut"):
            await asyncio.sleep(RECONNECT_S)
        return connection if keep else None

    async def _exchange(self, connection: Connection, key: str) -> Answer:
        arguments = {"key": key, "seconds": self._seconds}
        request = self._target.tool(self._tool, arguments, rpc_id=key)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await connection.exchange(request)

    def stop(self) -> None:
        """Let each client finish the call that it is at, and begin no other."""
        self._stopping = True

    async def each_answered(self, times: int, timeout_s: float = 30) -> None:
        """Wait until every client has had so many more right answers."""
        begin = len(self.operations)
        waited_until_s = time.monotonic() + timeout_s
        while True:
            since = self.operations[begin:]
            right = Counter(o.client for o in since if o.outcome == "right")
            if len(right) == CLIENTS and min(right.values()) >= times:
                return
            assert time.monotonic() < waited_until_s, (
                f"clients had {dict(right)} right answers in {timeout_s:g} s, "
                f"and {Counter((o.outcome, o.detail) for o in since)}"
            )
            await asyncio.sleep(0.02)


def _cut(error: Exception) -> tuple[Outcome, str]:
    if isinstance(error, ProtocolViolation):
        return "wrong", f"not HTTP: {error}"
    if isinstance(error, TimeoutError):
        return "wrong", f"no answer within {ANSWER_TIMEOUT_S:g} s"
    return "cut", type(error).__name__


@asynccontextmanager
async def calling(target: Target, tool: str, seconds: float = 0.2) -> AsyncIterator[Load]:
    """`CLIENTS` clients that call while the block runs; after it all their calls are over."""
    load = Load(target, tool, seconds)
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    try:
        await load.each_answered(3)
        yield load
        load.stop()
        await asyncio.gather(*clients)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def until(whole: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition that is asked off the loop; gives the moment when it held."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(whole):  # noqa: ASYNC110 (nothing tells of processes)
            await asyncio.sleep(0.1)
    return time.monotonic()
