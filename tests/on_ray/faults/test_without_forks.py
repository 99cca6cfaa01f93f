"""Replicas are copies of a process that imported what they need; without it they start slower.

Last in this directory: the fork server that is killed here does not come back.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import psutil

from tests.on_ray.faults.history import complaints
from tests.on_ray.faults.hurt_cluster import HurtCluster, kill
from tests.on_ray.faults.load import calling, until
from thornback.deployments.process_start import FORK_SERVER


def forked(hurt: HurtCluster, pids: set[int]) -> bool:
    server = hurt.file.pids[FORK_SERVER]
    return {psutil.Process(pid).ppid() for pid in pids} == {server}


def refusals(hurt: HurtCluster) -> list[str]:
    """What the fork server says of workers that it did not fork."""
    assert hurt.file.temp_dir is not None
    log = Path(hurt.file.temp_dir, f"{FORK_SERVER}.log").read_text("utf-8")
    return [line for line in log.splitlines() if "starts by itself" in line]


def replaced(hurt: HurtCluster, **options: Any) -> set[int]:
    """The hosts of a pool after a change of its options."""
    before = hurt.pids("effects")
    hurt.configure(lambda config: config["pools"]["effects"].update(options))
    up = hurt.thornback("up", str(hurt.config), "--detach")
    assert up.returncode == 0, up.stdout + up.stderr

    def is_replaced() -> bool:
        return len(hurt.pids("effects") - before) == 2 and not any(map(psutil.pid_exists, before))

    asyncio.run(until(is_replaced, 60))
    return hurt.pids("effects")


def test_gateways_and_hosts_are_copies_of_one_process(hurt: HurtCluster) -> None:
    before = refusals(hurt)
    assert forked(hurt, hurt.pids("gateway") | replaced(hurt, ray_actor_options={"num_cpus": 0.15}))
    assert refusals(hurt) == before


def test_a_host_that_would_be_another_process_starts_by_itself(hurt: HurtCluster) -> None:
    before = refusals(hurt)
    assert len(replaced(hurt, threads=2)) == 2
    new = refusals(hurt)[len(before) :]
    assert new.count("a worker starts by itself: its OPENBLAS_NUM_THREADS differs") >= 2


def test_without_the_fork_server_replicas_start_all_the_same(hurt: HurtCluster) -> None:
    async def scenario() -> None:
        async with calling(hurt.front(), "effect") as load:
            kill(hurt.file.pids[FORK_SERVER])
            hosts = await asyncio.to_thread(replaced, hurt, ray_actor_options={"num_cpus": 0.3})
            await load.each_answered(10)
        assert complaints(load.operations, hurt.effects_of(load)) == []
        assert len(hosts) == 2

    asyncio.run(scenario())
    status = hurt.thornback("status", hurt.name, "--json")
    (problem,) = json.loads(status.stdout)["problems"]
    assert "fork server" in problem
