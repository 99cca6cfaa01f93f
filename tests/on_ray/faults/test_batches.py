"""Calls of many clients share invocations of a batch tool, as the operator says."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.on_ray.faults.hurt_cluster import HurtCluster

CLIENTS = 16


async def sizes(hurt: HurtCluster) -> list[int]:
    """The batch that each of the clients' calls ran in, by its size."""
    target = hurt.front()
    asks = [target.tool("together", {"word": f"w{n}"}, rpc_id=n) for n in range(CLIENTS)]
    answers = await asyncio.gather(*(target.ask(ask, 30) for ask in asks))
    return [int(answer.result["content"][0]["text"]) for answer in answers]


def set_batch_size(hurt: HurtCluster, size: int) -> None:
    def change(config: dict[str, Any]) -> None:
        config["tools"] = {"together": {"batch": {"max_batch_size": size}}}

    hurt.configure(change)
    up = hurt.thornback("up", str(hurt.config), "--detach")
    assert up.returncode == 0, up.stdout + up.stderr


def test_the_operator_changes_how_many_calls_share_an_invocation_while_it_runs(
    hurt: HurtCluster,
) -> None:
    asyncio.run(sizes(hurt))  # starts a replica
    declared = asyncio.run(sizes(hurt))
    hosts = hurt.pids("batches")
    set_batch_size(hurt, 4)
    four = asyncio.run(sizes(hurt))
    set_batch_size(hurt, 1)
    one = asyncio.run(sizes(hurt))
    print(f"\nas declared {declared}, at most four {four}, alone {one}")
    assert max(declared) > 4
    assert max(four) == 4
    assert set(one) == {1}
    assert hurt.pids("batches") == hosts
