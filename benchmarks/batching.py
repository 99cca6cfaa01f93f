"""What batching does for `text_embed`, in one process: no Ray, no HTTP, the same model and threads.

    python -m benchmarks batching [--seconds 8] [--runs 3] [--clients 64]

Clients in a closed loop, one fresh short text a call; the order of the kinds alternates from run to
run. Prints a JSON line for each measurement, and the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import resource
import statistics
import time
from collections.abc import Awaitable, Callable

import msgspec

from thornback.cluster.catalog import Batch
from thornback.cluster.messages import Complete
from thornback.deployments.batcher import Batcher
from thornback.deployments.counted_threads import CountedThreads
from thornback.tools.context import ToolContext
from thornback.tools.definition import tool_of
from thornback.tools.embeddings import DIMENSION, TextEmbed
from thornback.tools.runner import Outcome, run

TOOL = tool_of(TextEmbed)
WORDS = ["agents", "read", "the", "answers", "about", "weather", "trade", "rivers", "dogs", "law"]
WARM_UP_S = 1.0
Send = Callable[[bytes, ToolContext], Awaitable[Outcome]]


async def measured(send: Send, clients: int, seconds: float) -> dict[str, float]:
    """Calls a second, latencies in ms and CPU ms a call, after a warm-up."""
    times: list[float] = []
    parts: list[float] = []  # of its batch that each call was
    numbers = itertools.count()
    starts_at = time.perf_counter() + WARM_UP_S
    ends_at = starts_at + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < ends_at:
            text = f"{next(numbers)} {' '.join(random.choices(WORDS, k=8))}"
            context = ToolContext(lambda event: None, tool=TOOL.name)
            outcome = await send(msgspec.json.encode({"texts": [text]}), context)
            assert isinstance(outcome, Complete)
            assert not outcome.is_error, outcome.result
            vectors = msgspec.json.decode(outcome.result)["structuredContent"]["vectors"]
            assert [len(vector) for vector in vectors] == [DIMENSION]
            parts.append(1 / (outcome.batch_size or 1))
            ended = time.perf_counter()
            if began >= starts_at and ended < ends_at:
                times.append(ended - began)

    used = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*[client() for _ in range(clients)])
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    quantiles = statistics.quantiles(times, n=100)
    return {
        "calls_per_s": round(len(times) / seconds, 1),
        "p50_ms": round(quantiles[49] * 1000, 1),
        "p99_ms": round(quantiles[98] * 1000, 1),
        "cpu_ms_per_call": round(cpu_s * 1000 / next(numbers), 2),
        "mean_batch": round(len(parts) / sum(parts), 1),
    }


async def compare(clients: int, seconds: float, runs: int) -> None:
    threads = CountedThreads(1024)
    batcher = Batcher(threads)

    def batched(batch: Batch) -> Send:
        return lambda arguments, ctx: batcher.run(TOOL, arguments, ctx, batch)

    kinds: dict[str, Send] = {
        "off": lambda arguments, ctx: run(TOOL, arguments, ctx, threads),
        "one batch at a time": batched(Batch(max_batch_size=64)),
        "two batches at a time": batched(Batch(max_batch_size=32, max_concurrent_batches=2)),
    }
    TOOL.warm()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(runs):
        for kind, send in list(kinds.items())[:: 1 if number % 2 else -1]:
            row = await measured(send, clients, seconds)
            found[kind].append(row)
            print(json.dumps({"run": number, "batching": kind, "clients": clients, **row}))
    base = statistics.median(row["calls_per_s"] for row in found["off"])
    for kind, rows in found.items():
        medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        print(f"{kind:24}{medians}  {medians['calls_per_s'] / base:.2f} times off")
    threads.shutdown(wait=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    asyncio.run(compare(given.clients, given.seconds, given.runs))
