"""What a pool makes of what its handle does; the handle is a fake."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from tests.fakes import FakeClock, FakeHandle, FakeStream
from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import (
    NoReplica,
    Overloaded,
    PoolBroken,
    PoolBusy,
    PoolInfeasible,
    ReplicaLost,
    ThornbackError,
    ToolTimeout,
    Unavailable,
)
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    Event,
    Progress,
    Refused,
)
from thornback.cluster.principals import Principal
from thornback.deployments import dispatch
from thornback.deployments.dispatch import Pools, refusal
from thornback.deployments.pool_health import ApplicationFacts, ClusterFacts, Facts, Node

ACK = Acknowledged(WIRE_VERSION, "replica-1", 1)
DONE = Complete(WIRE_VERSION, b"{}", False)
CALL = CallMessage(WIRE_VERSION, "call_1", "embed", "1.0.0", b"{}", 5.0, Principal("default", "a"))
POOL = PoolEntry(name="gpu", application="thornback.local.gpu", modules=("m",), ask={"GPU": 1.0})
LAPTOP = Facts(nodes=(Node({"CPU": 2.0}),))
BIG = Facts(nodes=(Node({"CPU": 2.0, "GPU": 1.0}),))
RUNNING = Facts(
    BIG.nodes, applications={POOL.application: ApplicationFacts("RUNNING", replicas={"RUNNING": 2})}
)
T = TypeVar("T")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE_S", 0.0)
    monkeypatch.setattr(dispatch, "CLOSING_S", 0.0)


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(5.0):
            return await work

    return asyncio.run(bounded())


def pools(handle: FakeHandle, facts: Facts = BIG) -> Pools:
    clock = FakeClock()
    return Pools(clock, ClusterFacts(clock, lambda: facts), lambda application: handle)


async def call(
    handle: FakeHandle,
    message: CallMessage = CALL,
    facts: Facts = BIG,
    entry: PoolEntry = POOL,
    events: list[Event] | None = None,
) -> object:
    emit = (events if events is not None else []).append
    return await pools(handle, facts).get(entry).call(message, emit)


def failure(handle: FakeHandle, **options: Any) -> ThornbackError:
    with pytest.raises(ThornbackError) as caught:
        run(call(handle, **options))
    return caught.value


def test_a_call_gets_its_events_and_its_outcome() -> None:
    half = Progress(WIRE_VERSION, 0.5)
    events: list[Event] = []
    handle = FakeHandle(stream := FakeStream([ACK, half, DONE]))
    assert run(call(handle, events=events)) == DONE
    assert events == [ACK, half]
    assert handle.sent == [CALL]
    assert not stream.cancelled


def test_a_host_that_dies_after_it_had_the_call_is_a_lost_replica() -> None:
    died = [ACK, ActorDiedError()]
    assert failure(FakeHandle(FakeStream(died))).args == ("gpu", "embed")
    assert isinstance(failure(FakeHandle(FakeStream(died))), ReplicaLost)


def test_a_call_that_was_sent_and_not_acknowledged_counts_as_acknowledged() -> None:
    unavailable = ActorUnavailableError("gone", b"0" * 16)
    assert isinstance(failure(FakeHandle(FakeStream([unavailable]))), ReplicaLost)


def test_a_call_that_ray_cancelled_with_its_replica_was_not_cancelled_by_its_client() -> None:
    assert isinstance(failure(FakeHandle(FakeStream([ACK, asyncio.CancelledError()]))), ReplicaLost)


def test_a_stream_that_ends_without_an_outcome_is_a_lost_replica() -> None:
    assert isinstance(failure(FakeHandle(FakeStream([ACK]))), ReplicaLost)


def test_serves_backpressure_is_our_overload() -> None:
    full = BackPressureError(10, 10, 503, 2.5)
    assert failure(FakeHandle(FakeStream([full]))).args == ("gpu", 2.5)


def test_a_call_that_serve_would_not_send_is_sent_when_it_will(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "RESEND_S", 0.0)
    unsent = DeploymentUnavailableError(DeploymentID("ToolHost", "gpu"))
    handle = FakeHandle(FakeStream([unsent]), FakeStream([unsent]), FakeStream([ACK, DONE]))
    assert run(call(handle)) == DONE


def test_a_stream_that_says_it_was_cancelled_when_it_is_closed_changes_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closing(FakeStream):
        def cancel(self) -> None:
            self._replies = [asyncio.CancelledError()]

    monkeypatch.setattr(dispatch, "RESEND_S", 0.0)
    monkeypatch.setattr(dispatch, "CLOSING_S", 1.0)
    unsent = DeploymentUnavailableError(DeploymentID("ToolHost", "gpu"))
    assert run(call(FakeHandle(Closing([unsent]), FakeStream([ACK, DONE])))) == DONE


def test_a_call_that_a_host_has_no_room_for_keeps_its_place_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "RESEND_S", 0.0)
    busy = FakeStream([Refused(WIRE_VERSION, "pool.busy", ["gpu", "1"])])
    assert run(call(FakeHandle(busy, busy, busy, FakeStream([ACK, DONE])))) == DONE


def test_a_call_that_no_host_had_room_for_met_a_busy_pool() -> None:
    busy = FakeStream([Refused(WIRE_VERSION, "pool.busy", ["gpu", "1"])])
    message = msgspec.structs.replace(CALL, queue_timeout_s=0.05)
    assert isinstance(failure(FakeHandle(busy), message=message, facts=RUNNING), PoolBusy)


def test_a_call_that_serve_will_never_send_is_told_why() -> None:
    unsent = DeploymentUnavailableError(DeploymentID("ToolHost", "gpu"))
    assert isinstance(failure(FakeHandle(FakeStream([unsent])), facts=LAPTOP), PoolInfeasible)


def test_a_call_too_many_in_the_queue_is_refused_unsent() -> None:
    async def calls() -> None:
        handle = FakeHandle(FakeStream([], hangs=True))
        entry = msgspec.structs.replace(POOL, max_queued_requests=1)
        pool = pools(handle).get(entry)
        sent = asyncio.Event()
        handle.on_send = lambda message: sent.set()
        waiting = asyncio.create_task(pool.call(CALL, lambda event: None))
        await sent.wait()
        with pytest.raises(Overloaded):
            await pool.call(CALL, lambda event: None)
        assert len(handle.sent) == 1
        waiting.cancel()

    run(calls())


def test_a_queue_may_have_no_limit() -> None:
    entry = msgspec.structs.replace(POOL, max_queued_requests=-1)
    assert run(call(FakeHandle(FakeStream([ACK, DONE])), entry=entry)) == DONE


def test_a_call_that_was_admitted_leaves_the_queue() -> None:
    async def calls() -> object:
        handle = FakeHandle(FakeStream([ACK], hangs=True), FakeStream([ACK, DONE]))
        entry = msgspec.structs.replace(POOL, max_queued_requests=1)
        pool = pools(handle).get(entry)
        admitted = asyncio.Event()
        running = asyncio.create_task(pool.call(CALL, lambda event: admitted.set()))
        await admitted.wait()
        outcome = await pool.call(CALL, lambda event: None)
        running.cancel()
        return outcome

    assert run(calls()) == DONE


def test_a_call_that_runs_at_its_deadline_times_out_and_is_cancelled() -> None:
    handle = FakeHandle(stream := FakeStream([ACK], hangs=True))
    late = failure(handle, message=msgspec.structs.replace(CALL, remaining_s=0.05))
    assert isinstance(late, ToolTimeout)
    assert stream.cancelled


def test_the_time_that_a_call_waits_is_not_taken_from_its_tool() -> None:
    handle = FakeHandle(FakeStream([ACK], hangs=True))
    message = msgspec.structs.replace(CALL, remaining_s=0.1, queue_timeout_s=0.01)
    assert isinstance(failure(handle, message=message), ToolTimeout)


def test_a_call_that_nobody_took_in_time_had_no_replica() -> None:
    handle = FakeHandle(stream := FakeStream([], hangs=True))
    late = failure(handle, message=msgspec.structs.replace(CALL, queue_timeout_s=0.2))
    assert isinstance(late, NoReplica)
    assert late.why == "it is not deployed yet"
    assert stream.cancelled


def test_a_call_that_waited_for_busy_replicas_met_a_busy_pool() -> None:
    handle = FakeHandle(FakeStream([], hangs=True))
    message = msgspec.structs.replace(CALL, queue_timeout_s=0.2)
    late = failure(handle, message=message, facts=RUNNING)
    assert isinstance(late, PoolBusy)


def test_cancelling_the_caller_cancels_the_stream() -> None:
    async def calls() -> bool:
        handle = FakeHandle(stream := FakeStream([ACK], hangs=True))
        admitted = asyncio.Event()
        task = asyncio.create_task(pools(handle).get(POOL).call(CALL, lambda event: admitted.set()))
        await admitted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stream.cancelled

    assert run(calls())


def test_a_pool_that_can_never_start_is_told_at_once() -> None:
    handle = FakeHandle(stream := FakeStream([], hangs=True))
    infeasible = failure(handle, facts=LAPTOP)
    assert isinstance(infeasible, PoolInfeasible)
    assert str(infeasible) == (
        "Pool gpu asks for 1 GPU; the cluster has at most 0 GPU on its only node"
    )
    assert stream.cancelled


def test_a_call_that_waits_says_so_once() -> None:
    message = msgspec.structs.replace(CALL, queue_timeout_s=0.1, progress=True)
    events: list[Event] = []
    failure(FakeHandle(FakeStream([], hangs=True)), message=message, events=events)
    (progress,) = events
    assert isinstance(progress, Progress)
    assert progress.message is not None
    assert progress.message.startswith("waiting for a replica of pool gpu to start")


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (
            Refused(1, "pool.no_replica", ["gpu", "importing", "1"]),
            NoReplica("gpu", "importing", 1),
        ),
        (Refused(1, "pool.broken", ["gpu", "m", "why"]), PoolBroken("gpu", "m", "why")),
        (
            Refused(1, "pool.of_the_future", ["?"]),
            NoReplica("gpu", "its host refuses calls (pool.of_the_future)", 1.0),
        ),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_a_hosts_refusal_is_the_error_that_it_names(refused: Refused, error: Unavailable) -> None:
    found = refusal("gpu", refused)
    assert type(found) is type(error)
    assert found.args == error.args


def test_a_pool_is_made_once_and_follows_its_entry() -> None:
    finder = pools(FakeHandle())
    changed = msgspec.structs.replace(POOL, max_queued_requests=7)
    assert finder.get(POOL) is finder.get(changed)
    assert finder.get(changed).entry.max_queued_requests == 7
