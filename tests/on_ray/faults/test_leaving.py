"""A client that leaves has its call stopped, whichever way its bytes came."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.load import until
from tests.on_ray.faults.raw_http import Connection, Target

STOPPED_WITHIN_S = 5.0


def cancelled(hurt: HurtCluster) -> int:
    """How many tools have left a line because they were cancelled."""
    lines = hurt.effects_file.read_text("utf-8").splitlines()
    return sum(line.startswith("cancelled ") for line in lines)


async def begin_and_leave(target: Target, tool: str, *, kept_alive: bool, apart: bool) -> None:
    """Call a tool that takes a minute, and close the connection while it runs."""
    async with await Connection.open(target.port) as connection:
        if kept_alive:
            assert "tools" in (await connection.exchange(target.call("tools/list"))).result
        head, end, body = target.tool(tool, {"seconds": 50}).partition(b"\r\n\r\n")
        if apart:  # as httpx does it
            await connection.send(head + end)
            await asyncio.sleep(0.05)
            await connection.send(body)
        else:
            await connection.send(head + end + body)
        await asyncio.sleep(0.5)
        assert json.loads(body)["params"]["name"] == tool


@pytest.mark.parametrize("tool", ["nap", "blocking_nap"])
@pytest.mark.parametrize("apart", [False, True], ids=["whole", "apart"])
@pytest.mark.parametrize("kept_alive", [False, True], ids=["fresh", "kept"])
def test_a_client_that_leaves_has_its_call_stopped(
    hurt: HurtCluster, tool: str, apart: bool, kept_alive: bool
) -> None:
    before = cancelled(hurt)
    ways = [hurt.front(), *hurt.gateways()]

    async def scenario() -> None:
        leaving = (begin_and_leave(way, tool, kept_alive=kept_alive, apart=apart) for way in ways)
        await asyncio.gather(*leaving)
        await until(lambda: cancelled(hurt) == before + len(ways), STOPPED_WITHIN_S)

    asyncio.run(scenario())
