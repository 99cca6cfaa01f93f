"""A replica as Serve makes, configures and stops it, without Serve."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeClock
from thornback.cluster.messages import decode_state
from thornback.deployments import pool_replica
from thornback.deployments.local_line import Line
from thornback.deployments.pool_replica import PoolReplica
from thornback.deployments.tool_host import ReplicaFacts, ToolHost


class Replica(PoolReplica):
    """Answers messages with what they say, once it is told to go on."""

    def __init__(self) -> None:
        ToolHost.__init__(  # without what a replica does to the output of its process
            self,
            "local",
            "pool",
            [],
            specs_of=_none,
            replica=lambda: ReplicaFacts("replica-1", "node-1"),
            clock=FakeClock(),
        )
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.closed = False

    async def _named(self, replica_id: str) -> str:  # what Serve's router is told
        return replica_id

    async def send(self, message: bytes) -> AsyncGenerator[bytes, None]:
        self.began.set()
        await self.go_on.wait()
        yield message

    def close(self) -> None:
        self.closed = True
        super().close()


async def _none(*_: Any) -> list[Any]:
    return []


async def told_line(replica: PoolReplica) -> str:
    return decode_state(await replica.beat("gwy_1", 0)).line


def test_gateways_are_told_of_the_line_and_what_runs_ends_before_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_replica, "_socket_path", lambda _: tmp_path / "s")

    async def main() -> None:
        replica = Replica()
        assert await told_line(replica) == ""
        for _ in range(2):  # at the start, and when the config changes
            await replica.reconfigure({"max_ongoing_requests": 4})
        assert await told_line(replica) == str(tmp_path / "s")
        line = await Line.to(await told_line(replica))
        stream = line.send(b"call")
        await replica.began.wait()
        stopping = replica.__del__()
        assert stopping is not None
        leaving = asyncio.ensure_future(stopping)
        await asyncio.sleep(0)
        assert not replica.closed
        replica.go_on.set()
        assert [answer async for answer in stream] == [b"call"]
        await leaving
        assert replica.closed
        assert replica.__del__() is None

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_replica_that_can_have_no_socket_is_reached_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(pool_replica, "_socket_path", lambda _: tmp_path / ("s" * 200))

    async def main() -> None:
        replica = Replica()
        await replica.reconfigure({"max_ongoing_requests": 4})
        assert await told_line(replica) == ""
        assert replica._book.slots == 4

    asyncio.run(main())
    assert "no line to this replica" in caplog.text
