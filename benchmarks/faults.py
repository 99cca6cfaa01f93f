"""Kills one process after another under load, for as long as you like, and judges every call.

    python -m benchmarks faults --minutes 10 --seed 1 [--only gateway] [--out faults.jsonl]

The long form of `tests/on_ray/faults`: the same cluster, clients, victims and judge, in an order
that the seed decides. Prints one line for each kill and exits with 1 if there was a complaint.
Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import brought_up, free_port
from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.killing import VICTIMS, Round, kill_under_load
from tests.otlp import collecting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=VICTIMS, help="kill nothing else")
    parser.add_argument("--out", type=Path, help="file for one JSON line a kill")
    options = parser.parse_args()
    victims = [options.only] if options.only else list(VICTIMS)
    order = random.Random(options.seed)
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="thornback-hurt-"))
    complained = 0
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        hurt = HurtCluster(f"hurt-{port}", port, home, collector.url)
        stack.enter_context(brought_up(hurt))
        until_s = time.monotonic() + 60 * options.minutes
        while time.monotonic() < until_s:
            name = order.choice(victims)
            done = asyncio.run(kill_under_load(hurt, VICTIMS[name]))
            print(f"{name}: {done}", *done.complaints, sep="\n    ", flush=True)
            complained += len(done.complaints)
            if options.out is not None:
                with options.out.open("a") as out:
                    out.write(json.dumps(_row(name, done)) + "\n")
    print(f"{complained} complaints")
    return 1 if complained else 0


def _row(name: str, done: Round) -> dict[str, object]:
    return {
        "victim": name,
        "calls": len(done.operations),
        "outcomes": Counter(o.outcome for o in done.operations),
        "answered_s": done.answered_s,
        "whole_s": done.whole_s,
        "starved_s": done.starved_s,
        "slowest_s": max(o.took_s for o in done.operations),
        "complaints": done.complaints,
    }
