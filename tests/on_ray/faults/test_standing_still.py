"""A replica that stands still (SIGSTOP) keeps only the calls that it had begun."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.load import calling

STOPPED_S = 3.0
LONGEST_WAIT_S = 1.5
"""Of a call that the replica had not acknowledged: a second until it is on probation, and the rest
for another one to run it."""
WORK_S = 0.05


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_only_calls_that_it_had_begun_wait_for_a_replica_that_stands_still(
    hurt: HurtCluster,
) -> None:
    async def scenario() -> None:
        victim = min(hurt.pids("effects"))
        async with calling(hurt.front(), "effect_on_loop", WORK_S) as load:
            with stopped(victim):
                begun = set(hurt.effects_of(load))
                stopped_s = time.monotonic()
                await asyncio.sleep(STOPPED_S)
            await load.each_answered(3)
        during = [o for o in load.operations if o.ended_s > stopped_s]
        held = [o for o in during if o.took_s >= STOPPED_S]
        others = [o for o in during if o.key not in begun]
        longest_s = max(o.took_s for o in others)
        print(
            f"\n{len(during)} calls, {len(held)} held; of the others the longest {longest_s:.2f} s"
        )
        assert {o.outcome for o in load.operations} == {"right"}
        assert {o.key for o in held} <= begun
        assert longest_s <= LONGEST_WAIT_S

    asyncio.run(scenario())
