"""Calls per second of the dispatch alone: from a gateway's queue to an echo tool and back.

    thornback up benchmark --detach
    python -m benchmarks dispatch [--name benchmark] [--pool benchmark] [--seconds 5]

No HTTP, no MCP and no policy: this process is the gateway, in the mode that `up` sets for its own.
CPU is user plus system of this process and of the pool's replicas, for each call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time

import psutil

from thornback.deployments.environment import DATA_PATH

# Serve reads these when it is imported.
os.environ.update(DATA_PATH)

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.ids import new_id
from thornback.cluster.messages import WIRE_VERSION, CallMessage, Complete
from thornback.cluster.principals import EVERYBODY
from thornback.deployments.clock import SystemClock
from thornback.deployments.cluster_file import ClusterFile, find_cluster
from thornback.deployments.dispatch import Pool, Pools
from thornback.deployments.ray_driver import join, leave

CALLERS = (1, 16, 64, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="benchmark", help="the cluster")
    parser.add_argument("--pool", default="benchmark", help="a pool with the echo tool")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args()
    cluster = find_cluster(options.name)
    if cluster is None:
        parser.exit(2, f"no cluster called {options.name} runs here\n")
    join(cluster)
    try:
        asyncio.run(measure(cluster, options.pool, options.seconds))
    finally:
        leave()


async def measure(cluster: ClusterFile, name: str, seconds: float) -> None:
    application = f"{cluster.namespace}.{name}"
    pool = Pools(SystemClock()).get(PoolEntry(name=name, application=application, modules=()))
    await closed_loop(pool, 4, 1.0)  # warm: connections, imports, code paths
    processes = [psutil.Process(), *replicas_of(application)]
    print("| callers | calls/s | p50/p99 ms | gateway CPU ms/call | replicas CPU ms/call |")
    print("|---|---|---|---|---|")
    for callers in CALLERS:
        before = [cpu_seconds(process) for process in processes]
        took_ms = await closed_loop(pool, callers, seconds)
        mine, *theirs = (
            (cpu_seconds(p) - b) * 1000 / len(took_ms)
            for p, b in zip(processes, before, strict=True)
        )
        cuts = statistics.quantiles(took_ms, n=100)
        print(
            f"| {callers} | {len(took_ms) / seconds:.0f} | {cuts[49]:.1f} / {cuts[98]:.1f} "
            f"| {mine:.2f} | {sum(theirs):.2f} |",
            flush=True,
        )


async def closed_loop(pool: Pool, callers: int, seconds: float) -> list[float]:
    """So many callers, each with one call at a time; milliseconds of each call.

    Raises:
        SystemExit: an answer was wrong: such figures mean nothing.
    """
    took_ms: list[float] = []
    end_s = time.perf_counter() + seconds

    async def caller() -> None:
        while (begin_s := time.perf_counter()) < end_s:
            text = new_id("call")
            arguments = b'{"text":"%s"}' % text.encode()
            message = CallMessage(
                WIRE_VERSION, text, "echo", "1.0.0", arguments, 30.0, EVERYBODY.principal
            )
            outcome = await pool.call(message, lambda event: None)
            if not isinstance(outcome, Complete) or text.encode() not in outcome.result:
                raise SystemExit(f"a wrong answer: {outcome}")
            took_ms.append((time.perf_counter() - begin_s) * 1000)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took_ms


def replicas_of(application: str) -> list[psutil.Process]:
    title = f"ray::ServeReplica:{application}:"
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if " ".join(process.info["cmdline"] or []).startswith(title)
    ]


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
