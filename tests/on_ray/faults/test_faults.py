"""Processes die by SIGKILL while sixteen clients call: what each death may cost, and no more."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.killing import VICTIMS, WHOLE_S, kill_under_load
from tests.on_ray.faults.load import until

LAST_WORDS = ["last words 1", "last words 2", "last words 3"]


@pytest.mark.parametrize("name", VICTIMS)
def test_a_killed_process_costs_no_more_than_it_may(hurt: HurtCluster, name: str) -> None:
    done = asyncio.run(kill_under_load(hurt, VICTIMS[name]))
    print(f"\n{name}: {done}", *done.complaints, sep="\n  ")
    assert done.complaints == []


def test_a_killed_registry_comes_back_as_it_was_and_changes_go_on(hurt: HurtCluster) -> None:
    before = catalog_of(hurt)
    done = asyncio.run(kill_under_load(hurt, VICTIMS["registry"]))
    after = catalog_of(hurt)
    assert done.complaints == []
    assert after["store_id"] == before["store_id"]
    assert (after["epoch"], after["number"]) == (before["epoch"] + 1, before["number"])
    asyncio.run(put_and_read(hurt, b"written after the kill"))


def test_a_call_whose_host_dies_before_it_is_heard_of_runs_once(hurt: HurtCluster) -> None:
    hosts = len(hurt.pids("effects"))

    def is_whole() -> bool:
        return sum(map(psutil.pid_exists, hurt.pids("effects"))) == hosts

    async def scenario() -> None:
        for key in LAST_WORDS:
            answer = await hurt.front().ask(hurt.front().tool("last_words", {"key": key}))
            assert answer.result["_meta"]["io.thornback/error"]["code"] == "pool.replica_lost"
            await until(is_whole, WHOLE_S)

    asyncio.run(scenario())
    lines = hurt.effects_file.read_text("utf-8").splitlines()
    assert [line for line in lines if line in LAST_WORDS] == LAST_WORDS


def test_each_gateway_has_a_line_to_each_replica_of_its_machine(hurt: HurtCluster) -> None:
    def lines() -> list[int]:
        sockets = [psutil.Process(pid).net_connections("unix") for pid in hurt.pids("effects")]
        return [sum(Path(s.laddr).parent.name == "sockets" for s in each) for each in sockets]

    async def scenario() -> None:
        for target in hurt.gateways():
            call = target.tool("repeatable_effect", {"key": "by-a-line"})
            assert not (await target.ask(call)).result["isError"]
        # One to listen on, and one to each of the two gateways.
        await until(lambda: lines() == [3] * len(hurt.pids("effects")), WHOLE_S)

    asyncio.run(scenario())


def catalog_of(hurt: HurtCluster) -> dict[str, Any]:
    done = hurt.thornback("status", hurt.name, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["catalog"]
    return found


async def put_and_read(hurt: HurtCluster, data: bytes) -> None:
    """Put a resource through one gateway, read it through the other, and take it away again."""
    one, other = hurt.gateways()
    path = f"/resources/sha256/{hashlib.sha256(data).hexdigest()}"
    query = "?name=written&mime_type=text/plain"
    put = await one.ask(one.request(data, method="PUT", path=path + query))
    assert put.status == 201, put
    read = other.call("resources/read", {"uri": put.json["uri"]})
    async with asyncio.timeout(WHOLE_S):
        while "result" not in (found := await other.ask(read)).json:  # noqa: ASYNC110 (a process)
            await asyncio.sleep(0.01)
    assert found.result["contents"][0]["text"] == data.decode()
    gone = await other.ask(other.request(method="DELETE", path=path))
    assert gone.json == {"withdrawn": [put.json["uri"]]}
