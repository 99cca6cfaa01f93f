"""Processes die by SIGKILL while sixteen clients call: what each death may cost, and no more."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import Any

import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.killing import VICTIMS, WHOLE_S, kill_under_load


@pytest.mark.parametrize("name", VICTIMS)
def test_a_killed_process_costs_no_more_than_it_may(hurt: HurtCluster, name: str) -> None:
    done = asyncio.run(kill_under_load(hurt, VICTIMS[name]))
    print(f"\n{name}: {done}", *done.complaints, sep="\n  ")
    assert done.complaints == []


def test_a_killed_registry_comes_back_as_it_was_and_changes_go_on(hurt: HurtCluster) -> None:
    before = catalog_of(hurt)
    done = asyncio.run(kill_under_load(hurt, VICTIMS["registry"]))
    asyncio.run(put_and_read(hurt, b"written after the kill"))
    written_s = time.monotonic() - done.fault.at_s
    after = catalog_of(hurt)
    print(f"\na change reached both gateways {written_s:.1f} s after the kill")
    assert done.complaints == []
    assert after["store_id"] == before["store_id"]
    assert (after["epoch"], after["number"]) == (before["epoch"] + 1, before["number"] + 1)


def catalog_of(hurt: HurtCluster) -> dict[str, Any]:
    done = hurt.thornback("status", hurt.name, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["catalog"]
    return found


async def put_and_read(hurt: HurtCluster, data: bytes) -> None:
    """Put a resource through one gateway and read it through both."""
    one, other = hurt.gateways()
    path = f"/resources/sha256/{hashlib.sha256(data).hexdigest()}?name=written&mime_type=text/plain"
    async with asyncio.timeout(WHOLE_S):
        put = one.request(data, method="PUT", path=path)
        while (answer := await one.ask(put)).status == 503:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.1)
        assert answer.status == 201, answer
        read = one.call("resources/read", {"uri": answer.json["uri"]})
        while "result" not in (await other.ask(read)).json:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.01)
    assert (await one.ask(read)).result["contents"][0]["text"] == data.decode()
