"""`python -m benchmarks WORKLOAD`: measure it, print a table, keep every figure and a plot."""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import yaml

from benchmarks import report
from benchmarks.bars import judged
from benchmarks.measuring import Failure, Measured, NotHeld, Point, measure_each, plan
from benchmarks.servers import (
    PEER_COMMANDS,
    SHIPPED,
    NotStarted,
    Server,
    Variant,
    cluster_home,
    merged,
    started_peer,
)
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS
from thornback.cluster.errors import ThornbackError
from thornback.deployments.load_wrk import HOW_TO_GET_IT, has_wrk

OF_A_PART = {
    "batching": "text_embed batched in one process, without Ray and HTTP",
    "dispatch": "from a gateway's queue to a tool and back, without HTTP",
    "registry": "the registry with 10,000 tools and 50 watchers",
    "faults": "processes of a cluster killed under load, in an order of chance",
}
"""Benchmarks of a part, with options of their own: `python -m benchmarks NAME --help`."""


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in OF_A_PART:
        name = sys.argv.pop(1)
        sys.argv[0] = f"python -m benchmarks {name}"
        return importlib.import_module(f"benchmarks.{name}").main() or 0
    options = _options()
    _allow_many_files()
    if not has_wrk():
        print(HOW_TO_GET_IT, file=sys.stderr)
        return 2
    try:
        run(options.workload, options)
    except (ThornbackError, NotStarted, NotHeld) as error:
        print(f"{options.workload}: {error}", file=sys.stderr)
        return 1
    return 0


def _allow_many_files() -> None:
    """Let this process and what it begins open as many connections as they may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _options() -> argparse.Namespace:
    about = {**{name: w.about for name, w in WORKLOADS.items()}, **OF_A_PART}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="\n".join(f"{name:12} {text}" for name, text in about.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workload", choices=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument(
        "--seconds", type=float, help="of each measurement; 20, or what the workload needs"
    )
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds before each")
    parser.add_argument("--runs", type=int, help="of each load and server; 3, for long ones 1")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--without", action="append", default=[], help="a peer; again for more")
    parser.add_argument(
        "--point", action="append", default=[], help="only this load; again for more"
    )
    parser.add_argument(
        "--variant", action="append", default=[], help="only this one of ours; again for more"
    )
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    if options.seconds is None:
        options.seconds = workload.seconds
    if options.runs is None:
        options.runs = workload.runs
    labels = [point.label for point in workload.points]
    _refuse_unknown(parser, "--point", options.point, labels)
    _refuse_unknown(parser, "--variant", options.variant, list(workload.variants))
    _refuse_unknown(parser, "--without", options.without, list(PEER_COMMANDS))
    return options


def _refuse_unknown(
    parser: argparse.ArgumentParser, option: str, given: list[str], known: list[str]
) -> None:
    for one in given:
        if one not in known:
            there = ", ".join(map(repr, known))
            parser.error(f"argument {option}: {one!r} is not one of {there}")


def run(name: str, options: argparse.Namespace) -> None:
    """Measure one workload from nothing to its table.

    Raises:
        NotStarted: a server did not come up.
        NotHeld: ours answered wrongly, or its tools counted other calls than were answered.
    """
    workload = WORKLOADS[name]
    document = yaml.safe_load(workload.config.read_text("utf-8"))
    points = [
        _timed(point, options)
        for point in workload.points
        if not options.point or point.label in options.point
    ]
    print(_difference(workload, document), flush=True)
    with ExitStack() as stack:
        peers = [peer for peer in workload.peers if peer not in options.without]
        servers: list[Server] = [stack.enter_context(started_peer(peer)) for peer in peers]
        cluster = stack.enter_context(cluster_home(document))
        servers += [
            Variant(variant, cluster, overrides)
            for variant, overrides in workload.variants.items()
            if not options.variant or variant in options.variant
        ]
        several = len(workload.variants) > 1
        steps = plan(points, servers, options.runs, changing_is_slow=several)
        measured, failures = measure_each(
            steps, workload.measure, _tell, may_fail=lambda server: server.name in peers
        )
    measured.sort(key=lambda m: [server.name for server in servers].index(m.server))
    bars = judged(workload.bars, measured)
    text = report.text(
        points, measured, bars, failures, runs=options.runs, warm_up_s=options.warm_up
    )
    print(text)
    report.write_results(options.out, name, text, points, measured, bars, failures)
    print(f"\nraw results and plot: {options.out / name}.json, .svg")


def _timed(point: Point, options: argparse.Namespace) -> Point:
    """A point with the times that were asked for; what runs beside it lasts as long."""
    times = {"warm_up_s": options.warm_up, "seconds": options.seconds}
    return msgspec.structs.replace(
        point,
        load=msgspec.structs.replace(point.load, **times),
        beside=point.beside and msgspec.structs.replace(point.beside, **times),
    )


def _difference(workload: Workload, document: dict[str, object]) -> str:
    local = yaml.safe_load((SHIPPED / "local.yaml").read_text("utf-8"))
    parts = []
    for variant, overrides in workload.variants.items():
        difference = report.config_difference(local, merged(document, overrides))
        parts.append(f"{variant}:\n{report.difference_text(difference)}")
    return "\n".join(parts)


def _tell(done: Measured | Failure) -> None:
    if isinstance(done, Failure):
        found = f"FAILED: {done.why}"
    else:
        figures = done.figures
        found = (
            f"{figures.calls_per_s:.0f} calls/s, "
            f"p50 {figures.latency_ms(50):.2f} ms, p99 {figures.latency_ms(99):.2f} ms"
        )
    print(f"run {done.run + 1}, {done.point}, {done.server}: {found}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
