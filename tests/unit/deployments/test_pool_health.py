"""Why a pool has no replica, concluded from facts."""

import asyncio
import threading

import msgspec

from tests.fakes import FakeClock
from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import PoolBroken, PoolInfeasible
from thornback.deployments.placement import Node
from thornback.deployments.pool_health import (
    MAX_AGE_S,
    ApplicationFacts,
    ClusterFacts,
    Facts,
    Starting,
    cause_in,
    diagnose,
)

SMALL = Node({"CPU": 2.0})
POOL = PoolEntry(name="sql", application="thornback.local.sql", modules=("m",), ask={"CPU": 1.0})


def facts(
    status: str = "DEPLOYING", message: str = "", failed: bool = False, **replicas: int
) -> Facts:
    application = ApplicationFacts(status, message, replicas, failed)
    return Facts((SMALL,), {"CPU": 1.0}, {POOL.application: application})


def test_a_pool_that_could_not_be_loaded_is_broken_whatever_serve_says() -> None:
    entry = msgspec.structs.replace(POOL, state="broken", failed_module="m", cause="ImportError: x")
    found = diagnose(entry, facts("RUNNING", RUNNING=1))
    assert isinstance(found, PoolBroken)
    assert found.args == ("sql", "m", "ImportError: x")


def test_a_pool_that_asks_too_much_is_infeasible() -> None:
    entry = msgspec.structs.replace(POOL, ask={"GPU": 1.0})
    assert isinstance(diagnose(entry, facts()), PoolInfeasible)


def test_a_failed_deployment_is_broken_with_the_exceptions_own_line() -> None:
    message = (
        "Failed to update the deployments ['ToolHost'].\n"
        "Traceback (most recent call last):\n"
        '  File "/secret/path.py", line 1, in f\n'
        "ray.exceptions.RuntimeEnvSetupError: no pip at https://me:secret@pypi.example/simple\n"
    )
    found = diagnose(POOL, facts("DEPLOY_FAILED", message, failed=True))
    assert isinstance(found, PoolBroken)
    assert found.cause == (
        "ray.exceptions.RuntimeEnvSetupError: no pip at https://pypi.example/simple"
    )


def test_a_pool_whose_last_update_failed_but_which_runs_is_not_broken() -> None:
    assert isinstance(diagnose(POOL, facts("UNHEALTHY", failed=True, RUNNING=1)), Starting)


def test_a_pool_whose_replica_was_killed_is_starting_although_serve_calls_it_unhealthy() -> None:
    assert isinstance(
        diagnose(POOL, facts("UNHEALTHY", "A replica's health check failed.")), Starting
    )


def test_a_pool_whose_replicas_run_is_busy_and_neither_broken_nor_infeasible() -> None:
    entry = msgspec.structs.replace(POOL, ask={"GPU": 1.0})
    found = diagnose(entry, facts("RUNNING", failed=True, RUNNING=2))
    assert found == Starting("none of its 2 replicas takes calls now", busy=True)


def test_a_pool_that_waits_for_room_says_what_is_missing() -> None:
    entry = msgspec.structs.replace(POOL, ask={"CPU": 2.0})
    found = diagnose(entry, facts())
    assert found == Starting("there is no room: a replica asks for 2 CPU; 1 CPU free")


def test_a_pool_against_which_nothing_stands_is_starting() -> None:
    assert diagnose(POOL, facts()) == Starting("a replica is starting")
    assert diagnose(POOL, Facts((SMALL,))) == Starting("it is not deployed yet")


def test_a_message_without_an_exception_is_told_by_its_last_line() -> None:
    assert cause_in("first\nlast\n") == "last"
    assert cause_in("") == "Serve does not say why"


class Reader:
    """Counts how often the cluster is asked."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.reads = 0
        self.fails = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> Facts:
        self.reads += 1
        self.may_answer.wait(5.0)
        if self.fails:
            raise ConnectionError("the head is away")
        return self.facts


def test_many_who_ask_at_once_cost_one_reading() -> None:
    async def ask() -> list[Facts]:
        cluster = ClusterFacts(FakeClock(), reader)
        return await asyncio.gather(*(cluster.now() for _ in range(10)))

    reader = Reader(facts())
    assert asyncio.run(ask()) == [facts()] * 10
    assert reader.reads == 1


def test_facts_grow_old_and_are_read_again() -> None:
    async def ask() -> None:
        cluster = ClusterFacts(clock, reader)
        await cluster.now()
        clock.advance(MAX_AGE_S / 2)
        await cluster.now()
        assert reader.reads == 1
        clock.advance(MAX_AGE_S)
        await cluster.now()
        assert reader.reads == 2

    clock, reader = FakeClock(), Reader(facts())
    asyncio.run(ask())


def test_a_cluster_that_does_not_answer_leaves_the_last_facts_standing() -> None:
    async def ask() -> Facts:
        cluster = ClusterFacts(clock, reader)
        await cluster.now()
        clock.advance(MAX_AGE_S + 1)
        reader.fails = True
        return await cluster.now()

    clock, reader = FakeClock(), Reader(facts("RUNNING", RUNNING=2))
    assert asyncio.run(ask()) == facts("RUNNING", RUNNING=2)
