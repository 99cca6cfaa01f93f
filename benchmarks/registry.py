"""What the registry does with 10,000 tools and 50 watchers, on a Ray of its own.

    python -m benchmarks registry [--tools 10000] [--writes 1000] [--watchers 50]

Prints one figure a line. Everything is real: an actor, its process, its store on this disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import ray

from thornback.cluster.actors import (
    REGISTRY,
    RegistryClient,
    start_registry,
    stop_registry,
)
from thornback.cluster.catalog import ToolSpec, content_hash_of
from thornback.cluster.errors import StoreOwned
from thornback.cluster.journal import Journal
from thornback.cluster.news import decode_news
from thornback.cluster.registry import Registry, edit_of, encode_edit

NAMESPACE = "thornback.benchmark-registry"


def tool(number: int, revision: int = 0) -> ToolSpec:
    """A tool of about 1 kB, no two alike."""
    properties = {
        f"parameter_{number}_{i}": {
            "type": "string",
            "description": f"What parameter {i} of tool {number} stands for, in a sentence.",
        }
        for i in range(6)
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    spec = ToolSpec(
        name=f"tool_{number}",
        version="1.0.0",
        description=f"Does what tool {number} does, in revision {revision}.",
        input_schema=msgspec.Raw(json.dumps(schema)),
        pool="many",
    )
    return msgspec.structs.replace(spec, content_hash=content_hash_of(spec))


def say(what: str, figure: object) -> None:
    print(f"{what:<72} {figure}", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    say(what, f"{time.perf_counter() - begin:.3f} s")


class Watcher:
    """Follows the registry as a gateway does, and counts what it is sent."""

    def __init__(self, actor: Any, number: int) -> None:
        self.actor = actor
        self.number = number
        self.seen_at: dict[int, float] = {}
        self.answers = 0
        self.received_bytes = 0
        self.snapshots = 0

    async def follow(self, until: int) -> None:
        while self.number < until:
            data = await self.actor.watch.remote(self.number, 10.0)
            news = decode_news(data)
            self.answers += 1
            self.received_bytes += len(data)
            self.snapshots += news.changes is None
            for change in news.changes or ():
                self.seen_at.setdefault(change.number, time.perf_counter())
            self.number = news.number


async def single_writes(client: RegistryClient, writes: int, watchers: int, size: int) -> None:
    actor = ray.get_actor(REGISTRY, namespace=NAMESPACE)
    first = (await client.info()).number
    following = [Watcher(actor, first) for _ in range(watchers)]
    tasks = [asyncio.create_task(w.follow(first + writes)) for w in following]
    written_at: dict[int, float] = {}
    took: list[float] = []
    begin = time.perf_counter()
    for i in range(writes):
        before = time.perf_counter()
        _, number = await client.write(edit_of(tool(i * 7 % size, revision=1 + i)))
        written_at[number] = time.perf_counter()
        took.append(written_at[number] - before)
    say(f"{writes} single writes, {watchers} watchers", f"{time.perf_counter() - begin:.3f} s")
    await asyncio.gather(*tasks)
    say("  last watcher has them all", f"{time.perf_counter() - begin:.3f} s")
    say("  one write, acknowledged: p50 / p99", percentiles(took))
    late = [seen - written_at[n] for w in following for n, seen in w.seen_at.items()]
    say("  from acknowledgement to a watcher: p50 / p99", percentiles(late))
    say("  changes that each watcher saw", sorted({len(w.seen_at) for w in following}))
    say(
        "  answers and snapshots needed, all watchers",
        (sum(w.answers for w in following), sum(w.snapshots for w in following)),
    )
    per_watcher = statistics.mean(w.received_bytes for w in following)
    whole = len(await actor.snapshot.remote())
    say("  bytes to one watcher for all changes", f"{per_watcher:,.0f}")
    say(
        "  bytes of one whole catalog; of as many catalogs as writes",
        f"{whole:,} ; {whole * writes:,}",
    )


async def writes_at_once(client: RegistryClient, writes: int, size: int) -> None:
    edits = [edit_of(tool(i * 7 % size, revision=-1 - i)) for i in range(writes)]
    with timed(f"{writes} single writes at once (they share syncs)"):
        await asyncio.gather(*(client.write(edit) for edit in edits))


def percentiles(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"{cuts[49] * 1000:.1f} ms / {cuts[98] * 1000:.1f} ms"


async def restart(client: RegistryClient) -> None:
    before = await client.info()
    begin = time.perf_counter()
    os.kill(before.pid, signal.SIGKILL)
    after = await client.info(timeout_s=60)
    say(
        "SIGKILL to the first answer, Ray's new process included",
        f"{time.perf_counter() - begin:.3f} s",
    )
    same = (after.store_id, after.number) == (before.store_id, before.number)
    say("  same store and number; epoch", f"{same}; {before.epoch} -> {after.epoch}")


def load(directory: Path) -> None:
    begin = time.perf_counter()
    journal = Journal.open(directory, owner="the benchmark", program_version="0")
    registry = Registry(journal)
    say(
        "  of that, opening the store and loading it (in this process)",
        f"{time.perf_counter() - begin:.3f} s",
    )
    with timed("  its catalog, decoded and sorted"):
        catalog = registry.catalog
        count = len(catalog.tools)
    say("  tools in it", count)
    journal.close()


def two_owners(state_dir: Path) -> None:
    try:
        start_registry(f"{NAMESPACE}-second", state_dir)
        say("a second owner", "WAS LET IN")
    except StoreOwned as refusal:
        say("a second owner is refused", refusal)
    finally:
        stop_registry(f"{NAMESPACE}-second")


def measure(size: int, writes: int, watchers: int) -> None:
    state_dir = Path(tempfile.mkdtemp(prefix="thornback-registry-"))
    try:
        with timed("start of the registry, its process included"):
            client = start_registry(NAMESPACE, state_dir)
        edit = edit_of(*(tool(i) for i in range(size)), pool="many")
        say(f"bytes of an edit with {size} tools", f"{len(encode_edit(edit)):,}")
        with timed(f"{size} tools registered in one write"):
            asyncio.run(client.write(edit))
        with timed("the same again (nothing changes)"):
            asyncio.run(client.write(edit))
        asyncio.run(single_writes(client, writes, watchers, size))
        asyncio.run(writes_at_once(client, writes, size))
        asyncio.run(restart(client))
        two_owners(state_dir)
        stop_registry(NAMESPACE)
        shutil.copytree(state_dir / REGISTRY, state_dir / "copy")
        load(state_dir / "copy")
    finally:
        stop_registry(NAMESPACE)
        shutil.rmtree(state_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=int, default=10_000)
    parser.add_argument("--writes", type=int, default=1_000)
    parser.add_argument("--watchers", type=int, default=50)
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        measure(arguments.tools, arguments.writes, arguments.watchers)
    finally:
        ray.shutdown()
