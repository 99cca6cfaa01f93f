"""`thornback top` shows the calls of all gateways while they run, and leaves when it is told to."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.conftest import THORNBACK
from tests.on_ray.faults.hurt_cluster import HurtCluster

LOOKS = 30
"""Seconds at most until calls are shown."""


@contextmanager
def calling(hurt: HurtCluster) -> Iterator[None]:
    """Calls through both gateways, all the time."""
    over = threading.Event()

    async def call() -> None:
        targets = hurt.gateways()
        while not over.is_set():
            asks = [target.ask(target.tool("talk", {"topic": "top"})) for target in targets]
            await asyncio.gather(*asks)
            await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(call()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def shown(line: str) -> dict[str, Any] | None:
    """The row of the tool, once it has rates."""
    snapshot = json.loads(line)
    assert snapshot["problems"] == []
    assert snapshot["gateways"] == 2
    pools = {pool["pool"]: (pool["running"], pool["target"]) for pool in snapshot["pools"]}
    assert pools["effects"] == (2, 2)
    rows = [row for row in snapshot["tools"] if row["tool"] == "talk"]
    return rows[0] if rows and rows[0]["calls_per_s"] else None


@pytest.mark.usefixtures("heeding_ctrl_c")
def test_top_shows_calls_while_they_run_and_ends_with_ctrl_c(hurt: HurtCluster) -> None:
    with (
        calling(hurt),
        subprocess.Popen(
            [THORNBACK, "top", "--json"], env=hurt.environment, stdout=subprocess.PIPE, text=True
        ) as top,
    ):
        assert top.stdout is not None
        rows = (shown(top.stdout.readline()) for _ in range(LOOKS))
        row = next((row for row in rows if row is not None), None)
        feeds = psutil.Process(top.pid).children()
        top.send_signal(signal.SIGINT)
        assert top.wait(10) == 0
    assert row is not None
    assert row["calls_per_s"] > 1
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["errors_per_s"] == 0
    assert len(feeds) == 1
    assert not any(feed.is_running() for feed in feeds)
