"""What leaves this gateway for a replica, and how often."""

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from thornback.cluster.messages import HostState
from thornback.deployments.local_line import LineLost, LineRefused, LineServer
from thornback.deployments.transport import (
    Beat,
    Lines,
    SentBefore,
    SentOnce,
    Unsent,
    answers_within,
    fault_of,
)

NEVER_S = 60.0


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_message_arrives_as_bytes_and_does_not_leave_twice(
    dumps: Callable[[object], bytes],
) -> None:
    message = SentOnce(b"calls")
    assert pickle.loads(dumps([message])) == [b"calls"]
    with pytest.raises(SentBefore):
        dumps([message])


def test_only_what_serve_refused_was_not_begun() -> None:
    assert fault_of(BackPressureError(num_queued_requests=1, max_queued_requests=1)) == "refused"
    assert fault_of(DeploymentUnavailableError(None)) == "refused"
    assert fault_of(LineRefused()) == "refused"
    assert fault_of(LineLost()) == "lost"
    assert fault_of(SentBefore()) == "lost"
    assert fault_of(ActorUnavailableError("gone", b"\0" * 16)) == "lost"


def test_what_was_not_sent_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(LineRefused) as refused:
            await anext(aiter(Unsent()))
        assert fault_of(refused.value) == "refused"

    asyncio.run(main())


def test_a_silent_replica_keeps_no_answers_of_others_back() -> None:
    ended: list[bool] = []

    async def answers_at_once() -> bytes:
        return b"state"

    async def has_died() -> bytes:
        raise ActorUnavailableError("gone", b"\0" * 16)

    async def is_silent() -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        raise AssertionError

    async def main() -> None:
        assert await answers_within([], 0.01) == Beat([], True)
        both = [answers_at_once(), has_died()]
        assert await answers_within(both, NEVER_S) == Beat([b"state"], True)
        three = [answers_at_once(), has_died(), is_silent()]
        assert await answers_within(three, 0.01) == Beat([b"state"], False)
        await asyncio.sleep(0)
        assert ended == [True]

    asyncio.run(main())


def replica(name: str, line: object, node_id: str = "here") -> HostState:
    return HostState(name, node_id, 4, 4, 0, 1.0, str(line))


async def answers(message: bytes) -> AsyncGenerator[bytes, None]:
    yield message


async def opened(lines: Lines) -> None:
    """Until every line is open that can be."""
    while lines._opening:
        await asyncio.gather(*lines._opening)


def test_a_replica_on_this_machine_is_reached_by_a_line(tmp_path: Path) -> None:
    async def main() -> None:
        server, lines = LineServer(answers), Lines("here")
        await server.listen(tmp_path / "s")
        assert lines.to("a") is None
        lines.met(replica("a", tmp_path / "s"))
        assert lines.to("a") is None  # until it is open Serve's handle is the way
        await opened(lines)
        line = lines.to("a")
        assert line is not None
        assert [answer async for answer in line.send(b"one")] == [b"one"]
        lines.met(replica("a", tmp_path / "s"))
        assert lines.to("a") is line
        assert not lines.is_lost("a")
        await server.drain()
        assert lines.to("a") is None
        await asyncio.sleep(0)  # its end of the socket is closed in the next round
        assert lines.is_lost("a")

    asyncio.run(main())


def test_others_are_reached_by_serves_handle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        server, lines = LineServer(answers), Lines("here")
        await server.listen(tmp_path / "s")
        lines.met(replica("elsewhere", tmp_path / "s", node_id="there"))
        lines.met(replica("older", ""))
        lines.met(replica("other files", tmp_path / "missing"))
        lines.met(replica("other files", tmp_path / "missing"))
        await opened(lines)
        others = ("elsewhere", "older", "other files")
        assert [lines.to(name) for name in others] == [None] * 3
        assert not any(lines.is_lost(name) for name in others)
        await server.drain()

    asyncio.run(main())
    assert caplog.text.count("no line to other files") == 1
