"""A client that does not read for a while costs no memory, and loses nothing."""

from __future__ import annotations

import asyncio
import re
import time

import psutil
import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.raw_http import Connection, Target

ITEMS = 100_000
"""A hundred thousand are 19 MB on the wire."""
STILL_S = 2.0
"""A tool that makes no item for so long is held up, or has made all."""
GROWTH_BYTES = 64_000_000
READ_S = 90.0


def request(target: Target, tool: str) -> bytes:
    params = {"name": tool, "arguments": {"key": f"{tool}-{ITEMS}", "count": ITEMS}}
    return target.call("tools/call", params, meta={"progressToken": 1})


def made(hurt: HurtCluster, tool: str) -> int:
    """Thousands of items that the tool has made."""
    lines = hurt.effects_file.read_text("utf-8").splitlines()
    return sum(line.startswith(f"{tool}-{ITEMS} ") for line in lines)


async def unread(hurt: HurtCluster, tool: str) -> int:
    """Wait until the tool goes no further while nobody reads; how far it came, in thousands."""
    seen, since_s = 0, time.monotonic()
    while not seen or time.monotonic() - since_s < STILL_S:
        if (now := made(hurt, tool)) != seen:
            seen, since_s = now, time.monotonic()
        await asyncio.sleep(0.1)
    return seen


def used_bytes(hurt: HurtCluster) -> int:
    """Memory of all gateways and hosts that nobody else uses."""
    pids = hurt.pids("gateway") | hurt.pids("effects")
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)


@pytest.mark.parametrize("tool", ["count_in_thread", "count_on_loop"])
def test_a_client_that_does_not_read_costs_no_memory_and_loses_nothing(
    hurt: HurtCluster, tool: str
) -> None:
    async def scenario() -> None:
        target = hurt.front()
        await target.ask(target.tool("repeatable_effect", {"key": "warm"}))
        before = used_bytes(hurt)
        async with await Connection.open(target.port) as connection:
            await connection.send(request(target, tool))
            thousands = await unread(hurt, tool)
            grown = used_bytes(hurt) - before
            began_s = time.monotonic()
            async with asyncio.timeout(READ_S):
                stream = (await connection.answer()).body.decode()
            took_s = time.monotonic() - began_s
        print(
            f"\nunread, it made {thousands},000 of {ITEMS} items, {grown / 1e6:.1f} MB more; "
            f"{len(stream) / 1e6:.0f} MB in all, the rest of it in {took_s:.1f} s"
        )
        assert grown < GROWTH_BYTES
        items = re.findall(r'"message":"(\d+)"', stream)
        assert items == [str(number % 10) for number in range(ITEMS)]
        assert '"isError":false' in stream

    asyncio.run(scenario())
