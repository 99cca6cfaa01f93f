"""What leaves this gateway for a replica, and how often."""

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

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
    ServeTransport,
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
        await asyncio.gather(*lines._opening.values())


def test_a_replica_on_this_machine_is_reached_by_a_line(tmp_path: Path) -> None:
    async def main() -> None:
        server, lines = LineServer(answers), Lines("here")
        await server.listen(tmp_path / "s")
        assert lines.to("a") is None
        lines.met(replica("a", tmp_path / "s"))
        assert lines.to("a") is None
        assert lines.opening("a") is not None
        await opened(lines)
        assert lines.opening("a") is None
        line = lines.to("a")
        assert line is not None
        assert [answer async for answer in line.send(b"one")] == [b"one"]
        lines.met(replica("a", tmp_path / "s"))
        assert lines.to("a") is line
        assert line.is_open
        await server.drain()
        assert lines.to("a") is line
        assert not line.is_open

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
        assert [lines.opening(name) for name in others] == [None] * 3
        await server.drain()

    asyncio.run(main())
    assert caplog.text.count("no line to other files") == 1


class FakeHandle:
    """Stands for Serve's handle of a pool: notes what it is to carry, and where."""

    def __init__(self, *_: str) -> None:
        self.sent: list[tuple[dict[str, Any], Any]] = []
        self._options: dict[str, Any] = {}

    def _init(self, **_: object) -> None:
        pass

    def options(self, **options: Any) -> "FakeHandle":
        other = FakeHandle()
        other.sent, other._options = self.sent, options
        return other

    def remote(self, message: object) -> AsyncGenerator[bytes, None]:
        self.sent.append((self._options, message))
        return answers(b"by Serve")


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> ServeTransport:
    monkeypatch.setattr("ray.serve.handle.DeploymentHandle", FakeHandle)
    return ServeTransport("thornback.local.text", "here")


def handed(transport: ServeTransport) -> list[tuple[dict[str, Any], Any]]:
    """What Serve's handle was given: the options of each message, and the message."""
    handle: Any = transport._handle
    sent: list[tuple[dict[str, Any], Any]] = handle.sent
    return sent


@pytest.mark.parametrize("by_reference", [False, True])
def test_serve_cannot_replay_what_one_replica_may_have_begun(
    transport: ServeTransport, by_reference: bool
) -> None:
    for _ in range(2):  # the second goes by the handle that is kept
        transport.send("a", b"calls", by_reference=by_reference)
    for options, message in handed(transport):
        assert (options["multiplexed_model_id"], options["_by_reference"]) == ("a", by_reference)
        assert pickle.loads(pickle.dumps(message)) == b"calls"
        with pytest.raises(SentBefore):
            pickle.dumps(message)
    assert len(handed(transport)) == 2


def test_serve_may_replay_what_any_replica_may_have(transport: ServeTransport) -> None:
    transport.send("", b"greeting")
    ((_, message),) = handed(transport)
    assert [pickle.loads(pickle.dumps(message)) for _ in range(2)] == [b"greeting"] * 2


def test_a_send_takes_the_line_where_one_is_open(transport: ServeTransport, tmp_path: Path) -> None:
    async def answer_of(**options: bool) -> bytes:
        return await anext(aiter(transport.send("a", b"by line", **options)))

    async def main() -> None:
        server = LineServer(answers)
        await server.listen(tmp_path / "s")
        transport.met(replica("a", tmp_path / "s"))
        assert await answer_of() == b"by line"
        # What is large or read slowly would hold up what else is on the line.
        assert await answer_of(by_reference=True) == await answer_of(alone=True) == b"by Serve"
        assert len(handed(transport)) == 2
        await server.drain()
        assert transport.is_gone("a")
        for options in ({}, {"by_reference": True}, {"alone": True}):
            with pytest.raises(LineRefused):
                await answer_of(**options)
        assert len(handed(transport)) == 2

    asyncio.run(main())


def test_a_send_waits_for_a_line_that_is_being_opened(
    transport: ServeTransport, tmp_path: Path
) -> None:
    async def main() -> None:
        server = LineServer(answers)
        await server.listen(tmp_path / "s")
        transport.met(replica("a", tmp_path / "s"))
        cancelled, sent = transport.send("a", b"one"), transport.send("a", b"two")
        cancelled.cancel()
        assert [answer async for answer in cancelled] == []
        assert [answer async for answer in sent] == [b"two"]
        assert handed(transport) == []
        await server.drain()

    asyncio.run(main())


def test_where_no_line_can_be_opened_serves_handle_is_the_way(
    transport: ServeTransport, tmp_path: Path
) -> None:
    async def main() -> None:
        transport.met(replica("a", tmp_path / "missing"))
        assert [answer async for answer in transport.send("a", b"one")] == [b"by Serve"]
        assert not transport.is_gone("a")

    asyncio.run(main())
