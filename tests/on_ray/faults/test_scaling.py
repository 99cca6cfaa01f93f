"""Pools grow from nothing under load and go away after it; a changed pool is replaced unseen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psutil

from tests.on_ray.faults.history import complaints
from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.load import CLIENTS, calling, until
from tests.on_ray.faults.raw_http import Connection, Target

POOLS = {"waits": ("wait", 3), "sleeps": ("doze", 2)}
"""By autoscaling pool: its tool, and its `max_replicas`."""
TO_ZERO_S = 3.0
"""`downscale_to_zero_delay_s` of these pools."""
GONE_S = TO_ZERO_S + 5
SCALE_TIMEOUT_S = 60.0
HELD_UP_S = 2.0
"""Longest time that a replacement may hold up a call."""


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
            await asyncio.to_thread(up, hurt)
            took_s = await until(is_replaced, 30) - began_s
            await load.each_answered(10)
        slowest = max(load.operations, key=lambda o: o.took_s)
        print(f"\nreplaced in {took_s:.1f} s; {len(load.operations)} calls, the slowest "
              f"{slowest.took_s:.2f} s")  # fmt: skip
        assert complaints(load.operations, hurt.effects_of(load)) == []
        assert slowest.took_s <= HELD_UP_S
        assert len(hurt.pids("effects")) == 2

    asyncio.run(scenario())


async def seen(hurt: HurtCluster, wanted: dict[str, int]) -> None:
    """Wait until `thornback status` shows these numbers of running replicas."""
    async with asyncio.timeout(SCALE_TIMEOUT_S):
        while await asyncio.to_thread(running, hurt) != wanted:
            pass


def running(hurt: HurtCluster) -> dict[str, int]:
    done = hurt.thornback("status", hurt.name, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    pools = json.loads(done.stdout)["pools"]
    return {pool: pools[pool]["replicas"].get("RUNNING", 0) for pool in POOLS}


@asynccontextmanager
async def busy(target: Target, clients: int) -> AsyncIterator[None]:
    """So many clients of each pool, while the block runs. Every call must have a result."""
    stopping = False

    async def client(tool: str) -> None:
        async with await Connection.open(target.port) as connection:
            while not stopping:
                answer = await connection.exchange(target.tool(tool, {"seconds": 0.5}))
                assert answer.result["content"][0]["text"] == "0.5", answer

    calling = [
        asyncio.create_task(client(tool)) for tool, _ in POOLS.values() for _ in range(clients)
    ]
    try:
        yield
        stopping = True
        await asyncio.gather(*calling)
    finally:
        for task in calling:
            task.cancel()
        await asyncio.gather(*calling, return_exceptions=True)


def test_pools_grow_from_nothing_and_go_away_again(hurt: HurtCluster) -> None:
    nothing, one = dict.fromkeys(POOLS, 0), dict.fromkeys(POOLS, 1)
    most = {pool: replicas for pool, (_, replicas) in POOLS.items()}

    async def scenario() -> None:
        await seen(hurt, nothing)
        began_s = time.monotonic()
        async with busy(hurt.front(), 1):
            await seen(hurt, one)
        ones_s = time.monotonic() - began_s
        began_s = time.monotonic()
        async with busy(hurt.front(), CLIENTS):
            await seen(hurt, most)
        grown_s = time.monotonic() - began_s
        last_call_s = time.monotonic()
        pids = {pid for pool in POOLS for pid in hurt.pids(pool)}
        gone_s = await until(lambda: not any(map(psutil.pid_exists, pids)), 30) - last_call_s
        print(f"\none replica each after {ones_s:.1f} s, {most} after {grown_s:.1f} s, "
              f"gone {gone_s:.1f} s after the last call")  # fmt: skip
        assert len(pids) == sum(most.values())
        assert gone_s <= GONE_S
        await seen(hurt, nothing)

    asyncio.run(scenario())


def decisions(hurt: HurtCluster, pool: str) -> list[dict[str, Any]]:
    """The last changes of a pool's size, as `thornback status` has them."""
    done = hurt.thornback("status", hurt.name, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["pools"][pool]["decisions"]
    return found


def test_a_pool_is_sized_by_its_calls_however_few_messages_bring_them(hurt: HurtCluster) -> None:
    calls = 12
    target = hurt.gateways()[0]
    asks = [target.tool("wait", {"seconds": 6}, rpc_id=n) for n in range(calls)]

    async def scenario() -> None:
        await seen(hurt, dict.fromkeys(POOLS, 0))
        before = decisions(hurt, "waits")
        answers = await asyncio.gather(*(target.ask(ask, 60) for ask in asks))
        assert [answer.result["content"][0]["text"] for answer in answers] == ["6.0"] * calls
        since = [each for each in decisions(hurt, "waits") if each not in before]
        print("", *(each["text"] for each in since), sep="\n")
        up = [each["facts"] for each in since if each["facts"]["after"] > each["facts"]["before"]]
        assert [(each["before"], each["after"]) for each in up] == [(0, 1), (1, 3)]
        assert up[1]["target"] == 2
        assert abs(up[1]["load"] - calls) <= 1

    asyncio.run(scenario())


def test_a_gateway_that_is_taken_away_sends_its_listeners_elsewhere(hurt: HurtCluster) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as streams:
            first = [await streams.enter_async_context(listener(each)) for each in hurt.gateways()]
            ends = [asyncio.create_task(connection.answer()) for connection in first]
            hurt.configure(lambda config: config["gateway"].update(num_replicas=1))
            await asyncio.to_thread(up, hurt)
            async with asyncio.timeout(10):
                (ended,), (left,) = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            assert b'"resultType":"complete"' in ended.result().body
            await streams.enter_async_context(listener(hurt.front()))
            assert not left.done(), "the other gateway goes on"
            left.cancel()

    try:
        asyncio.run(scenario())
    finally:
        hurt.configure(lambda config: None)
        up(hurt)
    assert len(hurt.pids("gateway")) == 2


@asynccontextmanager
async def listener(target: Target) -> AsyncIterator[Connection]:
    """A stream of changes, as soon as it is acknowledged."""
    asked = {"notifications": {"toolsListChanged": True}}
    async with await Connection.open(target.port) as connection:
        await connection.send(target.call("subscriptions/listen", asked))
        async with asyncio.timeout(10):
            await connection.until(b"subscriptions/acknowledged")
        yield connection


def up(hurt: HurtCluster) -> None:
    done = hurt.thornback("up", str(hurt.config), "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
