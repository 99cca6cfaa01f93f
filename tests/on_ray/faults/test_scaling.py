"""Pools grow from nothing under load and go away after it; a changed pool is replaced unseen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from tests.on_ray.faults.history import complaints
from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.load import CLIENTS, calling, until
from tests.on_ray.faults.raw_http import Connection, Target

POOLS: dict[str, tuple[str, dict[str, Any], int]] = {
    "waits": ("wait", {"seconds": 0.5}, 3),
    "text": ("text_stats", {"text": "so many words " * 5000}, 2),
}
"""By autoscaling pool: a tool of it, arguments that keep it busy, and its `max_replicas`."""
TO_ZERO_S = 3.0
"""`downscale_to_zero_delay_s` of these pools."""
GONE_S = TO_ZERO_S + 5
SCALE_TIMEOUT_S = 40.0
SLOWEST_S = 2.0


def replicas(hurt: HurtCluster, pool: str) -> dict[str, int]:
    """Replicas by state, as `thornback status` shows them."""
    done = hurt.thornback("status", hurt.name, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, int] = json.loads(done.stdout)["pools"][pool]["replicas"]
    return found


async def seen(hurt: HurtCluster, pool: str, wanted: Callable[[int], bool]) -> int:
    """Wait until `status` shows a number of running replicas that is wanted."""
    async with asyncio.timeout(SCALE_TIMEOUT_S):
        while True:
            shown = await asyncio.to_thread(replicas, hurt, pool)
            running = shown.get("RUNNING", 0)
            if wanted(running):
                return running


@asynccontextmanager
async def busy(
    target: Target, tool: str, arguments: dict[str, Any], clients: int
) -> AsyncIterator[None]:
    """Clients that call a tool while the block runs. Every call must have a result."""
    stopping = False

    async def client() -> None:
        async with await Connection.open(target.port) as connection:
            while not stopping:
                answer = await connection.exchange(target.tool(tool, arguments))
                assert not answer.result.get("isError"), answer

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
        yield
        stopping = True


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_grows_from_nothing_and_goes_away_again(hurt: HurtCluster, pool: str) -> None:
    tool, arguments, most = POOLS[pool]
    target = hurt.front()

    async def scenario() -> None:
        await seen(hurt, pool, lambda running: running == 0)
        began_s = time.monotonic()
        answer = await target.ask(target.tool(tool, arguments), timeout_s=30)
        first_s = time.monotonic() - began_s
        assert not answer.result.get("isError"), answer
        assert len(hurt.pids(pool)) == 1
        async with busy(target, tool, arguments, 1):
            await seen(hurt, pool, lambda running: running == 1)
        async with busy(target, tool, arguments, CLIENTS):
            began_s = time.monotonic()
            await seen(hurt, pool, lambda running: running == most)
            grown_s = time.monotonic() - began_s
        last_call_s = time.monotonic()
        pids = hurt.pids(pool)
        await asyncio.to_thread(psutil.wait_procs, [psutil.Process(p) for p in pids], GONE_S + 10)
        gone_s = time.monotonic() - last_call_s
        print(f"\n{pool}: first answer {first_s:.1f} s, {most} replicas seen after {grown_s:.1f} s,"
              f" gone {gone_s:.1f} s after the last call")  # fmt: skip
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert gone_s <= GONE_S
        await seen(hurt, pool, lambda running: running == 0)

    asyncio.run(scenario())


def test_a_pool_that_asks_for_other_cpus_is_replaced_unseen(hurt: HurtCluster) -> None:
    before = hurt.pids("effects")

    def change(config: dict[str, Any]) -> None:
        config["pools"]["effects"]["ray_actor_options"] = {"num_cpus": 0.2}

    def is_replaced() -> bool:
        return len(hurt.pids("effects") - before) == 2 and not any(map(psutil.pid_exists, before))

    async def scenario() -> None:
        async with calling(hurt.front(), "effect") as load:
            hurt.configure(change)
            began_s = time.monotonic()
            done = await asyncio.to_thread(hurt.thornback, "up", str(hurt.config), "--detach")
            assert done.returncode == 0, done.stdout + done.stderr
            took_s = await until(is_replaced, 30) - began_s
            await load.each_answered(10)
        slowest = max(load.operations, key=lambda o: o.took_s)
        print(f"\nreplaced in {took_s:.1f} s; {len(load.operations)} calls, the slowest "
              f"{slowest.took_s:.2f} s")  # fmt: skip
        assert complaints(load.operations, hurt.effects_of(load)) == []
        assert slowest.took_s <= SLOWEST_S
        assert len(hurt.pids("effects")) == 2

    asyncio.run(scenario())
