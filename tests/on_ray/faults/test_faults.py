"""Processes die by SIGKILL while sixteen clients call: what each death may cost, and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.on_ray.faults.conftest import HurtCluster, kill
from tests.on_ray.faults.history import Fault, Outcome, complaints, longest_gap_s
from tests.on_ray.faults.load import Load, calling

WHOLE_S = 10.0
"""After this the service is whole again."""
FRONT_OUTAGE_S = 8.0
"""Longest time without a front door."""
AFTERWARDS = 10
"""Right answers that each client must get once all is whole."""


async def until(whole: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition that is asked off the loop; gives the moment when it held."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(whole):  # noqa: ASYNC110 (nothing tells of processes)
            await asyncio.sleep(0.1)
    return time.monotonic()


def judge(hurt: HurtCluster, load: Load, fault: Fault) -> None:
    """Print what the fault cost, and refuse what it may not."""
    failed = [o for o in load.operations if o.outcome != "right"]
    slowest = max(load.operations, key=lambda o: o.took_s)
    print(
        f"\n{len(load.operations)} calls, {len(failed)} failed, "
        f"all answered again {longest_gap_s(load.operations, fault):.2f} s after the fault, "
        f"slowest {slowest.took_s:.2f} s (begun {slowest.began_s - fault.at_s:+.2f} s)"
    )
    for o in failed:
        print(f"  {o.key} {o.outcome} {o.detail} {o.began_s - fault.at_s:+.3f} to "
              f"{o.ended_s - fault.at_s:+.3f}")  # fmt: skip
    assert complaints(load.operations, hurt.effects_of(load), fault) == []


async def kill_of_a_replica(hurt: HurtCluster, part: str, allowed: set[Outcome]) -> None:
    """SIGKILL one of two replicas under load; the other one goes on, and a new one comes."""
    before = hurt.pids(part)
    assert len(before) == 2
    victim = min(before)

    def is_whole() -> bool:
        return len(hurt.pids(part) - {victim}) == 2

    async with calling(hurt.front(), "effect") as load:
        fault = Fault(kill(victim), frozenset(allowed))
        whole_at_s = await until(is_whole, WHOLE_S + 20)
        await load.each_answered(AFTERWARDS)
    judge(hurt, load, fault)
    print(f"whole after {whole_at_s - fault.at_s:.1f} s")
    assert whole_at_s - fault.at_s <= WHOLE_S


def test_a_killed_tool_host_costs_each_client_one_call_at_most(hurt: HurtCluster) -> None:
    asyncio.run(kill_of_a_replica(hurt, "effects", {"told"}))


def test_a_killed_gateway_costs_each_client_one_call_at_most(hurt: HurtCluster) -> None:
    asyncio.run(kill_of_a_replica(hurt, "gateway", {"front", "cut"}))


def test_a_killed_registry_costs_nothing_and_changes_go_on(hurt: HurtCluster) -> None:
    async def scenario() -> None:
        (victim,) = hurt.named("ray::RegistryActor")

        def is_whole() -> bool:
            return bool(hurt.named("ray::RegistryActor") - {victim})

        async with calling(hurt.front(), "effect") as load:
            fault = Fault(kill(victim), frozenset(), each=0)
            whole_at_s = await until(is_whole, WHOLE_S)
            await load.each_answered(AFTERWARDS)
        judge(hurt, load, fault)
        print(f"whole after {whole_at_s - fault.at_s:.1f} s")

    asyncio.run(scenario())


def test_a_killed_front_door_is_back_in_seconds_and_never_says_404(hurt: HurtCluster) -> None:
    async def scenario() -> None:
        victims = hurt.named("haproxy")
        async with calling(hurt.front(), "effect") as load:
            fault = Fault(kill(*victims), frozenset({"cut", "front"}), FRONT_OUTAGE_S, each=None)
            await load.each_answered(AFTERWARDS)
        judge(hurt, load, fault)
        assert longest_gap_s(load.operations, fault) <= FRONT_OUTAGE_S

    asyncio.run(scenario())
