"""What a pool makes of what its replicas say; the way to them is a fake."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from tests.fakes import FakeClock, FakeSend, FakeTransport
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
    ALONE,
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    Event,
    HostState,
    Outcome,
    Parked,
    Partial,
    Progress,
    Refused,
)
from thornback.cluster.principals import Principal
from thornback.deployments import dispatch, flight, sending
from thornback.deployments.channel import INLINE_MAX_BYTES
from thornback.deployments.dispatch import Pools, ServePool, refusal
from thornback.deployments.local_line import LineRefused
from thornback.deployments.pool_health import ApplicationFacts, ClusterFacts, Facts, Node

DONE = Complete(WIRE_VERSION, b"{}", False)
BUSY = Refused(WIRE_VERSION, "pool.busy", ["gpu", "1"])
CALL = CallMessage(WIRE_VERSION, "call_1", "embed", "1.0.0", b"{}", 5.0, Principal("default", "a"))
POOL = PoolEntry(name="gpu", application="thornback.local.gpu", modules=("m",), ask={"GPU": 1.0})
LAPTOP = Facts(nodes=(Node({"CPU": 2.0}),))
BIG = Facts(nodes=(Node({"CPU": 2.0, "GPU": 1.0}),))
RUNNING = Facts(
    BIG.nodes, applications={POOL.application: ApplicationFacts("RUNNING", replicas={"RUNNING": 2})}
)
UNSENT = DeploymentUnavailableError(DeploymentID("ToolHost", "gpu"))
NEVER_S = 60.0
T = TypeVar("T")


@pytest.fixture(autouse=True)
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens by time alone, unless a test says so."""
    monkeypatch.setattr(dispatch, "BEAT_S", NEVER_S)
    monkeypatch.setattr(dispatch, "STALE_S", NEVER_S)
    monkeypatch.setattr(dispatch, "GREETING_S", NEVER_S)
    monkeypatch.setattr(flight, "PATIENCE_S", NEVER_S)
    monkeypatch.setattr(sending, "ACK_TIMEOUT_S", NEVER_S)
    monkeypatch.setattr(sending, "CLOSING_S", 0.0)


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        try:
            async with asyncio.timeout(5.0):
                return await work
        finally:  # giving up one call may send another
            while left := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left)

    return asyncio.run(bounded())


def call(number: int = 1, **fields: Any) -> CallMessage:
    return msgspec.structs.replace(CALL, call_id=f"call_{number}", **fields)


def state(replica_id: str, free: int = 4, running: int = 0, node: str = "node") -> HostState:
    return HostState(replica_id, node, 4, free, running)


class Caller:
    """A pool, and what was called there."""

    def __init__(self, facts: Facts = BIG, entry: PoolEntry = POOL, gather_s: float = 0.0) -> None:
        self.transport = FakeTransport()
        clock = FakeClock()
        known = ClusterFacts(clock, lambda: facts)
        pools = Pools(clock, known, lambda *_: self.transport, "node", gather_s=gather_s)
        self.pool: ServePool = pools.get(entry)
        self._pools = pools
        self.events: list[Event] = []

    def begin(self, message: CallMessage = CALL, emit: Any = None) -> asyncio.Task[Outcome]:
        return asyncio.create_task(self.pool.call(message, emit or self.events.append))

    def know(self, *states: HostState) -> None:
        """Have replicas be known, as after a heartbeat."""
        for known in states:
            self.pool.met(known)

    def gauged(self) -> dict[tuple[str, str], float]:
        return {(each.metric.name, each.labels[0]): each.value for each in self._pools.gauged()}

    async def sent(self) -> FakeSend:
        return await self.transport.next_send()


async def met(
    caller: Caller, message: CallMessage = CALL
) -> tuple[asyncio.Task[Outcome], FakeSend]:
    """A call that was sent to the only replica."""
    caller.know(state("r1"))
    task = caller.begin(message)
    return task, await caller.sent()


async def failure(task: Awaitable[Any]) -> ThornbackError:
    with pytest.raises(ThornbackError) as caught:
        await task
    return caught.value


async def settled() -> None:
    """Let everything happen that needs no more from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_last_words_of_a_dead_replica_do_not_make_it_known_again() -> None:
    async def scenario() -> None:
        caller = Caller()
        _, sent = await met(caller)
        caller.know(state("r2"))
        caller.transport.dead = {"r1"}
        sent.fail(LineRefused())
        assert (await caller.sent()).to == "r2"
        caller.know(state("r1"), state("r2"))  # a heartbeat that it answered before it died
        caller.begin(call(2))
        await settled()
        assert {sent.to for sent in caller.transport.sends[1:]} == {"r2"}

    run(scenario())


# --- calls that travel together -------------------------------------------------------------------


def test_the_way_to_the_replicas_hears_which_there_are() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"), state("r2"))
        assert caller.transport.known == {"r1", "r2"}

    run(scenario())


def test_a_call_gets_its_events_and_its_outcome() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller)
        half = Progress(WIRE_VERSION, 0.5)
        sent.answer([0], [(0, half)], running=1)
        sent.answer([], [(0, DONE)])
        sent.end()
        assert await task == DONE
        assert sent.message.calls == [CALL]
        assert caller.events[1:] == [half]

    run(scenario())


def test_calls_wait_for_each_other_where_the_operator_lets_them_gather() -> None:
    async def scenario() -> None:
        caller = Caller(gather_s=0.02)
        caller.know(state("r1"))
        first = caller.begin(call(1))
        await settled()
        second = caller.begin(call(2))
        sent = await caller.sent()
        assert [one.call_id for one in sent.message.calls] == ["call_1", "call_2"]
        sent.answer([0, 1], [(0, DONE), (1, DONE)])
        sent.end()
        assert [await first, await second] == [DONE, DONE]

    run(scenario())


def test_a_replica_that_is_new_has_no_more_to_catch_up_on_than_the_others() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller)
        await asyncio.sleep(0.01)  # it works
        sent.answer([0], [(0, DONE)])
        sent.end()
        await task
        worked_s = caller.pool.met(state("r1")).replica.busy_s
        assert worked_s >= 0.01
        assert caller.pool.met(state("r2")).replica.busy_s == worked_s

    run(scenario())


def test_calls_of_one_moment_travel_together() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        tasks = [caller.begin(call(n)) for n in (1, 2, 3)]
        sent = await caller.sent()
        assert sent.calls == ["call_1", "call_2", "call_3"]
        sent.answer([0, 1, 2], [(n, DONE) for n in range(3)])
        sent.end()
        assert await asyncio.gather(*tasks) == [DONE] * 3

    run(scenario())


def test_calls_that_come_while_a_send_is_unanswered_travel_in_the_next() -> None:
    async def scenario() -> None:
        caller = Caller()
        _, first = await met(caller)
        caller.begin(call(2))
        caller.begin(call(3))
        await settled()
        assert caller.transport.sends == [first]
        first.answer([0], running=1)
        assert (await caller.sent()).calls == ["call_2", "call_3"]

    run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_a_call_that_is_given_up_at_any_moment_holds_up_no_other(turns: int) -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        given_up = caller.begin(call(1))
        for _ in range(turns):
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        other = caller.begin(call(2))
        while "call_2" not in (sent := await caller.sent()).calls:
            sent.answer(range(len(sent.calls)))
        sent.answer([0], [(0, DONE)])
        assert await other == DONE

    run(scenario())


def test_a_slow_call_holds_back_no_fast_one_of_its_send() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        slow, fast = caller.begin(call(1)), caller.begin(call(2))
        sent = await caller.sent()
        sent.answer([0, 1], [(1, DONE)], running=1)
        assert await fast == DONE
        assert not slow.done()
        sent.answer([], [(0, DONE)])
        assert await slow == DONE

    run(scenario())


def test_a_send_is_not_larger_than_a_message_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1", free=64))
        for n in range(8):
            caller.begin(call(n, arguments=b"x" * 200_000))
        sent = await caller.sent()
        assert sent.calls == [f"call_{n}" for n in range(5)]
        sent.answer(range(5), free=59)
        assert (await caller.sent()).calls == ["call_5", "call_6", "call_7"]

    run(scenario())


def test_a_send_has_so_many_calls_at_most_however_small() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1", free=1000))
        for n in range(300):
            caller.begin(call(n))
        sent = await caller.sent()
        assert len(sent.calls) == 256
        sent.answer(range(256), free=744)
        assert (await caller.sent()).calls == [f"call_{n}" for n in range(256, 300)]

    run(scenario())


def test_a_call_with_large_arguments_travels_alone_and_by_reference() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        caller.begin(call(1, arguments=b"x" * (INLINE_MAX_BYTES + 1)))
        caller.begin(call(2))
        large, small = await caller.sent(), await caller.sent()
        assert (large.calls, large.by_reference) == (["call_1"], True)
        assert (small.calls, small.by_reference) == (["call_2"], False)

    run(scenario())


def test_a_large_result_is_fetched_and_what_follows_it_waits() -> None:
    async def scenario() -> None:
        caller = Caller()
        item = Partial(WIRE_VERSION, 0, b"1", "1")
        caller.transport.parked["val_1"] = item
        task, sent = await met(caller)
        sent.answer([0], [(0, Parked(WIRE_VERSION, "val_1", 9)), (0, DONE)])
        sent.end()
        assert await task == DONE
        assert caller.events[-1] == item

    run(scenario())


def test_a_large_result_that_is_gone_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FETCH_PAUSE_S", 0.0)

    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        large, small = caller.begin(call(1)), caller.begin(call(2))
        sent = await caller.sent()
        sent.answer([0, 1], [(0, Parked(WIRE_VERSION, "val_1", 9)), (1, DONE)])
        assert isinstance(await failure(large), ReplicaLost)
        assert await small == DONE

    run(scenario())


# --- slots ----------------------------------------------------------------------------------------


def test_a_replica_gets_no_more_calls_than_it_has_free_slots() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1", free=2))
        for n in (1, 2, 3):
            caller.begin(call(n))
        sent = await caller.sent()
        assert sent.calls == ["call_1", "call_2"]
        sent.answer([0, 1], free=0, running=2)
        await settled()
        assert caller.pool.held == 1
        sent.answer([], [(0, DONE)], free=1, running=1)
        assert (await caller.sent()).calls == ["call_3"]

    run(scenario())


def test_a_call_that_was_refused_for_want_of_room_keeps_its_place() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1", free=1))
        first, second = caller.begin(call(1)), caller.begin(call(2))
        sent = await caller.sent()
        sent.answer([], [(0, BUSY)], free=0, running=4)
        sent.end()
        watch = await caller.sent()
        assert (watch.calls, watch.message.room_s > 0) == ([], True)
        watch.answer(free=0, running=4)
        watch.answer(free=2, running=2)
        again = await caller.sent()
        assert again.calls == ["call_1", "call_2"]
        again.answer([0, 1], [(0, DONE), (1, DONE)])
        assert await asyncio.gather(first, second) == [DONE, DONE]

    run(scenario())


def test_a_call_too_many_in_the_queue_is_refused_unsent() -> None:
    async def scenario() -> None:
        caller = Caller(entry=msgspec.structs.replace(POOL, max_queued_requests=1))
        caller.know(state("r1", free=1))
        waiting = [caller.begin(call(1)), caller.begin(call(2))]
        await settled()
        assert isinstance(await failure(caller.begin(call(3))), Overloaded)
        assert not any(task.done() for task in waiting)

    run(scenario())


def test_a_queue_may_have_no_limit() -> None:
    async def scenario() -> None:
        caller = Caller(entry=msgspec.structs.replace(POOL, max_queued_requests=-1))
        caller.know(state("r1", free=1))
        waiting = [caller.begin(call(n)) for n in range(3)]
        await settled()
        assert caller.pool.held == 2
        assert not any(task.done() for task in waiting)

    run(scenario())


def test_calls_spread_over_replicas_by_their_load() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1", free=2, running=2), state("r2"))
        for n in (1, 2, 3):
            caller.begin(call(n))
        sends = [await caller.sent(), await caller.sent()]
        assert {send.to: send.calls for send in sends} == {
            "r1": ["call_3"],
            "r2": ["call_1", "call_2"],
        }

    run(scenario())


# --- replicas that come and go --------------------------------------------------------------------


def test_calls_wait_here_until_a_first_replica_greets() -> None:
    async def scenario() -> None:
        caller = Caller()
        task = caller.begin()
        greeting = await caller.sent()
        assert (greeting.to, greeting.calls, greeting.message.held) == ("", [], 1)
        greeting.answer(by="r1")
        greeting.end()
        sent = await caller.sent()
        assert sent.to == "r1"
        sent.answer([0], [(0, DONE)])
        assert await task == DONE

    run(scenario())


def test_nobody_is_greeted_for_a_call_that_was_given_up() -> None:
    async def scenario() -> None:
        caller = Caller()
        task = caller.begin()
        greeting = await caller.sent()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled()
        assert greeting.cancelled
        assert len(caller.transport.sends) == 1

    run(scenario())


def test_a_pool_that_serve_takes_for_failed_is_greeted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "RESEND_S", 0.0)

    async def scenario() -> None:
        caller = Caller()
        task = caller.begin()
        (await caller.sent()).fail(UNSENT)
        greeting = await caller.sent()
        greeting.answer(by="r1")
        greeting.end()
        (await caller.sent()).answer([0], [(0, DONE)])
        assert await task == DONE

    run(scenario())


def test_a_heartbeat_finds_new_replicas_and_drops_those_that_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BEAT_S", 0.001)

    async def scenario() -> None:
        caller = Caller()
        caller.transport.states = [state("r2", free=1)]
        caller.know(state("r1", free=0, running=4))
        caller.begin(call(1))
        caller.begin(call(2))
        while (sent := await caller.sent()).to != "r2":
            assert sent.message.room_s
        assert sent.calls == ["call_1"]
        assert caller.transport.beats[0] == 2

    run(scenario())


def test_one_that_leaves_a_heartbeat_unanswered_hides_no_new_replica_and_is_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BEAT_S", 0.001)

    async def scenario() -> None:
        caller = Caller()
        caller.transport.states = [state("r2", free=1)]
        caller.transport.one_is_silent = True
        caller.know(state("r1", free=1))
        caller.begin(call(1))
        caller.begin(call(2))
        found = {(await caller.sent()).to for _ in range(2)}
        assert found == {"r1", "r2"}
        caller.begin(call(3))
        await caller.transport.was_beaten.wait()
        assert {replica.replica_id for replica in caller.pool._replicas()} == {"r1", "r2"}

    run(scenario())


def test_replicas_of_a_pool_that_was_idle_for_long_are_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "STALE_S", -1.0)

    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"), state("r2"))
        first, second = caller.begin(call(1)), caller.begin(call(2))
        greeting = await caller.sent()
        assert (greeting.to, greeting.message.held) == ("", 2)
        greeting.answer(by="r3")
        greeting.end()
        sent = await caller.sent()
        assert (sent.to, sent.calls) == ("r3", ["call_1", "call_2"])
        sent.answer([0, 1], [(0, DONE), (1, DONE)])
        assert await asyncio.gather(first, second) == [DONE, DONE]

    run(scenario())


def test_a_first_call_asks_at_once_who_is_there() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.transport.states = [state("r1", free=1), state("r2", free=1)]
        caller.begin(call(1))
        caller.begin(call(2))
        sends = [await caller.sent() for _ in range(3)]
        assert {send.to: send.calls for send in sends} == {
            "": [],
            "r1": ["call_1"],
            "r2": ["call_2"],
        }

    run(scenario())


def test_the_last_heartbeat_says_that_nothing_waits_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BEAT_S", 0.001)

    async def scenario() -> None:
        caller = Caller()
        caller.transport.states = [state("r1", free=0, running=4)]
        caller.know(*caller.transport.states)
        task = caller.begin()
        await caller.transport.was_beaten.wait()
        task.cancel()
        assert caller.pool._beating is not None
        await caller.pool._beating
        assert (caller.transport.beats[0], caller.transport.beats[-1]) == (1, 0)

    run(scenario())


def test_calls_are_told_by_tool_and_by_whether_they_run() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1", free=1))
        task, *_ = (caller.begin(call(n)) for n in (1, 2, 3))
        sent = await caller.sent()
        assert caller.gauged() == {("thornback_queued", "embed"): 3}
        sent.answer([0], free=0, running=1)
        await settled()
        expected = {("thornback_queued", "embed"): 2, ("thornback_running", "embed"): 1}
        assert caller.gauged() == expected
        sent.answer([], [(0, DONE)], free=0)
        await task
        assert caller.gauged() == {("thornback_queued", "embed"): 2}

    run(scenario())


def test_a_host_says_how_old_it_is_with_what_it_admits() -> None:
    async def scenario() -> None:
        caller = Caller()
        _, sent = await met(caller)
        sent.answer([0], running=1, age_s=0.5)
        await settled()
        assert caller.events == [Acknowledged(WIRE_VERSION, "r1", 1, 0.5)]

    run(scenario())


def test_a_send_that_another_replica_answers_has_found_its_own_gone() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller)
        sent.answer([0], [(0, DONE)], by="r2")
        sent.end()
        assert await task == DONE
        caller.begin(call(2))
        assert (await caller.sent()).to == "r2"

    run(scenario())


def test_a_replica_that_drains_is_given_nothing_more() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller)
        sent.answer([0], running=1)
        await settled()
        caller.pool.gone(caller.pool.met(state("r1")).replica)
        sent.answer([], [(0, DONE)])
        assert await task == DONE
        caller.begin(call(2))
        assert (await caller.sent()).to == ""

    run(scenario())


# --- replicas that die ----------------------------------------------------------------------------


def test_a_host_that_dies_after_it_admitted_the_call_is_a_lost_replica() -> None:
    async def scenario() -> None:
        task, sent = await met(Caller())
        sent.answer([0], running=1)
        sent.fail(ActorDiedError())
        assert (await failure(task)).args == ("gpu", "embed")

    run(scenario())


def test_a_call_that_was_sent_and_not_acknowledged_counts_as_acknowledged() -> None:
    async def scenario() -> None:
        task, sent = await met(Caller())
        sent.fail(ActorUnavailableError("gone", b"0" * 16))
        assert isinstance(await failure(task), ReplicaLost)

    run(scenario())


def test_a_call_that_nobody_took_is_sent_again() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller)
        sent.fail(UNSENT)
        greeting = await caller.sent()
        greeting.answer(by="r1")
        greeting.end()
        (await caller.sent()).answer([0], [(0, DONE)])
        assert await task == DONE

    run(scenario())


@pytest.mark.parametrize(
    ("error", "is_told"), [(LineRefused(), False), (UNSENT, False), (ActorDiedError(), True)]
)
def test_a_warning_tells_of_calls_that_were_lost_and_not_of_those_that_go_elsewhere(
    error: Exception, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        caller = Caller()
        _, sent = await met(caller)
        sent.fail(error)
        await settled()

    run(scenario())
    assert ("lost their replica" in caplog.text) == is_told


def test_a_call_that_was_not_sent_yet_survives_its_replica() -> None:
    async def scenario() -> None:
        caller = Caller()
        lost, sent = await met(caller)
        queued = caller.begin(call(2))
        await settled()
        caller.know(state("r2", free=0, running=4))
        sent.fail(ActorDiedError())
        assert isinstance(await failure(lost), ReplicaLost)
        caller.know(state("r2"))
        caller.pool.flow()
        sends = [await caller.sent(), await caller.sent()]
        assert [(s.to, s.calls) for s in sends if s.calls] == [("r2", ["call_2"])]
        assert not queued.done()

    run(scenario())


def test_a_call_that_ray_cancelled_with_its_replica_was_not_cancelled_by_its_client() -> None:
    async def scenario() -> None:
        task, sent = await met(Caller())
        sent.answer([0], running=1)
        sent.fail(asyncio.CancelledError())
        assert isinstance(await failure(task), ReplicaLost)

    run(scenario())


def test_a_stream_that_ends_without_an_outcome_is_a_lost_replica() -> None:
    async def scenario() -> None:
        task, sent = await met(Caller())
        sent.answer([0], running=1)
        sent.end()
        assert isinstance(await failure(task), ReplicaLost)

    run(scenario())


# --- replicas that do not answer ------------------------------------------------------------------


@pytest.fixture
def impatient_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ACK_TIMEOUT_S", 0.01)


@pytest.mark.usefixtures("impatient_channel")
def test_what_a_silent_replica_was_not_sent_goes_elsewhere() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        caller.begin(call(1))
        silent = await caller.sent()
        caller.begin(call(2))
        await settled()
        caller.know(state("r2"))
        assert (await caller.sent()).to == "r2"
        caller.begin(call(3))
        assert silent.calls == ["call_1"]
        assert all(send.to != "r1" for send in caller.transport.sends[1:])

    run(scenario())


@pytest.mark.usefixtures("impatient_channel")
def test_a_repeatable_call_does_not_wait_for_a_silent_replica_where_there_is_another() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"), state("r2", free=0, running=4))
        again, once = caller.begin(call(1, repeatable=True)), caller.begin(call(2))
        assert isinstance(await failure(again), ReplicaLost)
        assert not once.done()

    run(scenario())


@pytest.mark.usefixtures("impatient_channel")
def test_a_call_waits_for_the_only_replica_there_is() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, silent = await met(caller, call(1, repeatable=True))
        await asyncio.sleep(0.05)
        silent.answer([0], [(0, DONE)])
        assert await task == DONE

    run(scenario())


@pytest.mark.usefixtures("impatient_channel")
def test_a_call_that_a_silent_replica_may_run_has_the_time_of_one_that_runs() -> None:
    async def scenario() -> None:
        task, _ = await met(Caller(), call(1, remaining_s=0.05, queue_timeout_s=60))
        late = await failure(task)
        assert isinstance(late, ToolTimeout)
        assert late.timeout_s == 0.05

    run(scenario())


def test_a_call_that_was_sent_is_never_told_as_one_that_nobody_took() -> None:
    async def scenario() -> None:
        task, _ = await met(Caller(), call(1, queue_timeout_s=0.05))
        late = await failure(task)
        assert isinstance(late, ToolTimeout)
        assert late.timeout_s == 0.05

    run(scenario())


@pytest.mark.usefixtures("impatient_channel")
def test_a_silent_replica_that_speaks_again_is_given_calls_again() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, silent = await met(caller)
        await asyncio.sleep(0.05)
        silent.answer([0], [(0, DONE)])
        silent.end()
        await task
        caller.begin(call(2))
        assert (await caller.sent()).to == "r1"

    run(scenario())


# --- cancellation ---------------------------------------------------------------------------------


async def give_up(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_call_that_is_cancelled_before_it_is_sent_is_never_sent() -> None:
    async def scenario() -> None:
        caller = Caller()
        _, first = await met(caller)
        unsent = caller.begin(call(2))
        await settled()
        await give_up(unsent)
        first.answer([0], running=1)
        await settled()
        assert caller.transport.sends == [first]

    run(scenario())


def test_one_call_of_a_shared_send_is_cancelled_by_a_word_to_the_replica_that_has_it() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        given_up, stays = caller.begin(call(1)), caller.begin(call(2))
        sent = await caller.sent()
        sent.answer([0, 1], by="r2", running=2)
        await settled()
        await give_up(given_up)
        word = await caller.sent()
        assert (word.to, word.calls, word.message.cancels) == ("r2", [], ["call_1"])
        sent.answer([], [(1, DONE)])
        assert await stays == DONE
        assert not sent.cancelled

    run(scenario())


def test_a_call_that_is_cancelled_before_its_replica_answers_is_cancelled_when_it_does() -> None:
    async def scenario() -> None:
        caller = Caller()
        caller.know(state("r1"))
        given_up, _ = caller.begin(call(1)), caller.begin(call(2))
        sent = await caller.sent()
        await give_up(given_up)
        await settled()
        assert caller.transport.sends == [sent]
        sent.answer([0, 1], running=2)
        assert (await caller.sent()).message.cancels == ["call_1"]

    run(scenario())


def test_a_send_that_nobody_took_and_nobody_waits_for_is_withdrawn() -> None:
    async def scenario() -> None:
        task, sent = await met(Caller())
        await give_up(task)
        await settled()
        assert sent.cancelled

    run(scenario())


# --- streams of their own -------------------------------------------------------------------------


def test_a_tool_that_shares_no_stream_gets_its_own_now_and_from_then_on() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller)
        sent.answer([], [(0, Refused(WIRE_VERSION, ALONE, ["embed"]))])
        sent.end()
        alone = await caller.sent()
        assert alone.message.alone
        assert alone.alone
        alone.answer([0], [(0, DONE)])
        assert await task == DONE
        caller.begin(call(2))
        caller.begin(call(3))
        assert [(await caller.sent()).calls for _ in range(2)] == [["call_2"], ["call_3"]]

    run(scenario())


def test_a_slow_reader_holds_up_its_own_stream() -> None:
    class Reader:
        def __init__(self) -> None:
            self.events: list[Event] = []
            self.ready = asyncio.Event()

        def __call__(self, event: Event) -> None:
            self.events.append(event)

        async def room(self) -> None:
            await self.ready.wait()

    async def scenario() -> None:
        caller, reader = Caller(), Reader()
        caller.pool._alone.add("embed@1.0.0")
        caller.know(state("r1"))
        task = caller.begin(emit=reader)
        sent = await caller.sent()
        items = [Partial(WIRE_VERSION, n, b"1", "1") for n in range(2)]
        sent.answer([0], [(0, items[0])], running=1)
        sent.answer([], [(0, items[1])], running=1)
        await settled()
        assert reader.events[1:] == items[:1]
        reader.ready.set()
        sent.answer([], [(0, DONE)])
        assert await task == DONE
        assert reader.events[1:] == items

    run(scenario())


# --- time -----------------------------------------------------------------------------------------


def test_a_call_that_runs_at_its_deadline_times_out_and_is_cancelled() -> None:
    async def scenario() -> None:
        caller = Caller()
        task, sent = await met(caller, call(1, remaining_s=0.05))
        sent.answer([0], running=1)
        assert isinstance(await failure(task), ToolTimeout)
        assert (await caller.sent()).message.cancels == ["call_1"]

    run(scenario())


def test_the_time_that_a_call_waits_is_not_taken_from_its_tool() -> None:
    async def scenario() -> None:
        task, sent = await met(Caller(), call(1, remaining_s=0.1, queue_timeout_s=0.01))
        sent.answer([0], running=1)
        assert isinstance(await failure(task), ToolTimeout)

    run(scenario())


def test_a_call_that_nobody_took_in_time_had_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "PATIENCE_S", 0.0)

    async def scenario() -> None:
        late = await failure(Caller().begin(call(1, queue_timeout_s=0.2)))
        assert isinstance(late, NoReplica)
        assert late.why == "it is not deployed yet"

    run(scenario())


def test_a_call_that_waited_for_busy_replicas_met_a_busy_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight, "PATIENCE_S", 0.0)

    async def scenario() -> None:
        caller = Caller(RUNNING)
        caller.know(state("r1", free=0, running=4))
        assert isinstance(await failure(caller.begin(call(1, queue_timeout_s=0.2))), PoolBusy)

    run(scenario())


def test_a_pool_that_can_never_start_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "PATIENCE_S", 0.0)

    async def scenario() -> None:
        caller = Caller(LAPTOP)
        infeasible = await failure(caller.begin())
        assert isinstance(infeasible, PoolInfeasible)
        assert str(infeasible) == (
            "Pool gpu asks for 1 GPU; the cluster has at most 0 GPU on its only node"
        )
        await settled()
        assert caller.transport.sends[0].cancelled

    run(scenario())


@pytest.mark.usefixtures("impatient_channel")
def test_why_a_call_waits_is_asked_also_after_its_time_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight, "PATIENCE_S", 0.06)

    async def scenario() -> None:
        caller = Caller(LAPTOP)
        task, _ = await met(caller, call(1, remaining_s=NEVER_S, queue_timeout_s=0.03))
        assert isinstance(await failure(task), PoolInfeasible)

    run(scenario())


def test_a_call_is_admitted_in_the_very_moment_of_its_limit() -> None:
    """Serve's replicas run on uvloop, where what is that near is no timer."""

    async def scenario() -> Outcome:
        facts = ClusterFacts(FakeClock(), lambda: BIG)
        one = flight.Flight(call(1, queue_timeout_s=0.0001), lambda _: None, POOL, facts)
        landing = asyncio.create_task(one.land())
        await asyncio.sleep(0)
        one.acknowledged(Acknowledged(WIRE_VERSION, "r1", 1))
        await asyncio.sleep(0.01)
        one.hear(DONE)
        return await landing

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == DONE


def test_a_call_that_waits_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "PATIENCE_S", 0.01)

    async def scenario() -> None:
        caller = Caller()
        await failure(caller.begin(call(1, queue_timeout_s=0.1, progress=True)))
        (progress,) = caller.events
        assert isinstance(progress, Progress)
        assert progress.message is not None
        assert progress.message.startswith("waiting for a replica of pool gpu to start")

    run(scenario())


# --- the rest -------------------------------------------------------------------------------------


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
    clock = FakeClock()
    transport_to: Callable[[str, str], FakeTransport] = lambda *_: FakeTransport()  # noqa: E731
    finder = Pools(clock, ClusterFacts(clock, lambda: BIG), transport_to, "node")
    changed = msgspec.structs.replace(POOL, max_queued_requests=7)
    assert finder.get(POOL) is finder.get(changed)
    assert finder.get(changed).entry.max_queued_requests == 7
