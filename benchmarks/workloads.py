"""Every workload: what is asked, of which servers, and under which config of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from benchmarks.bars import Bar, Results
from benchmarks.changes import measure_changing
from benchmarks.counters import OFF, ON, measure_counted
from benchmarks.crowds import measure_added, measure_limit, measure_shares, measure_stopped
from benchmarks.measuring import Measured, Point, measure
from benchmarks.presets import measure_profile
from benchmarks.scaling import measure_step, measure_target, measure_wave
from benchmarks.servers import CONFIGS, SHIPPED, Server
from benchmarks.shared_batches import ALIKE, ODD, measure_shared
from benchmarks.slow_reader import measure_slow_reader
from benchmarks.streaming import FIRST_ITEM, measure_stream
from thornback.deployments.load import Load

CLUSTER = "cluster"
ONE_PROCESS = ("bare", "bare, JSON", "fastmcp")
PADDED = '{"text":"@","padding_bytes":%d}'
ITEMS = '{"text":"@","count":%d}'
LATER = '{"text":"@","delay_s":%g}'
MB = 1_000_000
A_WORKER_A_CORE = "bare, JSON, a worker a core"
ECHO_PEERS = ("bare", "bare, JSON", A_WORKER_A_CORE, "fastmcp", "published Ray")
ALONE, BESIDE = "fast tool alone", "beside a saturated one"
MILLION = "a million items"
MIXED_S = (0.005, 0.5)
TARGETS = {"target 1": 1, "target 4": 4, "target 16": 16}
WAVE_TARGET = 8
PROFILES = ("latency", "balanced", "throughput")


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark."""

    about: str
    config: Path
    """Of the cluster."""
    points: tuple[Point, ...]
    peers: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = MappingProxyType({CLUSTER: {}})
    """The cluster by name in tables, with the settings that lie over its config."""
    measure: Callable[[Server, Point, int], Measured] = measure
    bars: tuple[Bar, ...] = ()
    """What it must show."""
    seconds: float = 20.0
    runs: int = 3
    """Of each measurement, where nothing else is asked for."""


def _echo(connections: int, label: str | None = None, **more: Any) -> Point:
    load = Load(url="", connections=connections)
    return Point(label=label or f"c={connections}", load=load, **more)


def _later(label: str, connections: int, delay_s: float, **more: Any) -> Point:
    load = Load(
        url="",
        tools=("echo_later",),
        arguments=LATER % delay_s,
        connections=connections,
    )
    return Point(label=label, load=load, ideal_per_s=connections / delay_s, **more)


def _padded(label: str, connections: int, padding_bytes: int) -> Point:
    load = Load(
        url="",
        tools=("echo_padded",),
        arguments=PADDED % padding_bytes,
        padding_bytes=padding_bytes,
        connections=connections,
    )
    return Point(label=label, load=load)


def _stream(label: str, connections: int, count: int) -> Point:
    load = Load(
        url="",
        tools=("items",),
        arguments=ITEMS % count,
        connections=connections,
    )
    return Point(label=label, load=load)


def _working(label: str, connections: int) -> Point:
    """Clients that call `work`; how long a call takes is the measure's."""
    return Point(label=label, load=Load(url="", tools=("work",), connections=connections))


def _times(what: str, point: str, over: str, **limits: Any) -> Bar:
    """Calls per second of the cluster over those of another server."""
    return Bar(
        what=f"{what}, calls/s: cluster over {over}",
        figure=lambda r: r.ratio("calls_per_s", (point, CLUSTER), (point, over)),
        unit=" times",
        **limits,
    )


def _figure(what: str, figure: str, point: str, server: str = CLUSTER, **limits: Any) -> Bar:
    """The median of one figure."""
    return Bar(what=what, figure=lambda r: r.median(figure, point, server), **limits)


def _ratio(
    what: str, figure: str, over: tuple[str, str], under: tuple[str, str], **limits: Any
) -> Bar:
    return Bar(what=what, figure=lambda r: r.ratio(figure, over, under), unit=" times", **limits)


def _batching(what: str, **limits: Any) -> tuple[Bar, ...]:
    on, off = ("c=64", "batched"), ("c=64", "not batched")
    return (
        _ratio(f"{what}, 64 clients, calls/s: batched over not", "calls_per_s", on, off, **limits),
        _ratio(f"{what}, 64 clients, p99: batched over not", "p99_ms", on, off, most=1),
    )


def _clear_of_all(what: str, figure: str, point: str, server: str, *, highest: bool) -> Bar:
    """How far the worst run of one server lies from the best run of any other."""

    def gap(results: Results) -> float:
        sign = 1 if highest else -1
        own = min(sign * one for one in results.runs(figure, point, server))
        others = [
            sign * one
            for name in PROFILES
            if name != server
            for one in results.runs(figure, point, name)
        ]
        return own - max(others)

    return Bar(what=what, figure=gap, least=0.0)


_SATURATING = Load(
    url="",
    tools=("echo_later",),
    arguments=LATER % 0.1,
    connections=64,
)
FIRST_PAGE, STILL, CHANGING = "first page, c=1", "echo, c=64", "echo, while tools change"
MOST_TOOLS = "10,000 tools"
_LISTED = Load(url="", method="tools/list", tools=("tools/list",), expected='"listed_0"')

WORKLOADS = {
    "echo": Workload(
        about="echo at 1, 16, 64 and 256 connections, beside every peer",
        config=SHIPPED / "benchmark.yaml",
        points=tuple(_echo(connections) for connections in (1, 16, 64, 256)),
        peers=ECHO_PEERS,
        bars=(
            _times("echo, c=64", "c=64", "bare", least=2, aim=3),
            _times("echo, c=64", "c=64", "bare, JSON", least=1.2, aim=1.5),
            _times("echo, c=64", "c=64", "published Ray", least=10, aim=14),
            _times("echo, c=64", "c=64", A_WORKER_A_CORE),
            Bar(
                what="echo, c=1: p50 that the cluster adds to bare",
                figure=lambda r: r.difference("p50_ms", ("c=1", CLUSTER), ("c=1", "bare")),
                most=2,
                aim=1,
                unit=" ms",
            ),
            _figure(
                "echo, c=64: CPU of HAProxy, gateway and host a call",
                "cpu_ms_per_call",
                "c=64",
                most=0.45,
                unit=" ms",
                digits=3,
            ),
        ),
    ),
    "crowd": Workload(
        about="echo from 125 clients for a minute, as another gateway publishes it",
        config=SHIPPED / "benchmark.yaml",
        points=(_echo(125),),
        seconds=60,
        bars=(
            _figure("echo, 125 clients", "calls_per_s", "c=125", least=742, unit="/s", digits=0),
            _figure("echo, 125 clients: p99", "p99_ms", "c=125", most=640, unit=" ms", digits=0),
        ),
    ),
    "sequential": Workload(
        about="echo from one client: the latency that the cluster adds",
        config=SHIPPED / "benchmark.yaml",
        points=(_echo(1),),
        peers=("bare", "bare, JSON", "published Ray"),
        bars=(
            Bar(
                what="echo, c=1: p50 that the cluster adds to bare",
                figure=lambda r: r.difference("p50_ms", ("c=1", CLUSTER), ("c=1", "bare")),
                most=2,
                aim=1,
                unit=" ms",
            ),
        ),
    ),
    "later": Workload(
        about="a 500 ms echo from 200 clients",
        config=CONFIGS / "waiting.yaml",
        points=(_later("200 clients, 500 ms", 200, 0.5),),
        peers=(*ONE_PROCESS, "published Ray"),
        bars=(
            _figure(
                "500 ms echo, 200 clients (ideal 400/s)",
                "calls_per_s",
                "200 clients, 500 ms",
                least=380,
                unit="/s",
                digits=0,
            ),
        ),
    ),
    "connections": Workload(
        about="a 1 s echo from 2,000 clients",
        config=CONFIGS / "waiting.yaml",
        points=(_later("2,000 clients, 1 s", 2000, 1.0),),
        peers=ONE_PROCESS,
        bars=(
            _figure(
                "1 s echo, 2,000 connections, two gateways (ideal 2,000/s)",
                "calls_per_s",
                "2,000 clients, 1 s",
                least=1900,
                unit="/s",
                digits=0,
            ),
            _figure(
                "memory of all processes for each connection",
                "kb_per_connection",
                "2,000 clients, 1 s",
                unit=" kB",
                digits=0,
            ),
        ),
    ),
    "ten": Workload(
        about="ten tools in ten pools, called in turn from 64 clients",
        config=CONFIGS / "ten.yaml",
        points=(
            Point(
                label="c=64",
                load=Load(url="", tools=tuple(f"noop_{n}" for n in range(10)), connections=64),
            ),
        ),
        peers=ONE_PROCESS,
    ),
    "beside": Workload(
        about="echo from 16 clients while 64 others saturate a slow tool",
        config=CONFIGS / "beside.yaml",
        points=(
            _echo(16, ALONE),
            _echo(16, BESIDE, beside=_SATURATING),
        ),
        peers=("bare",),
        bars=(
            _ratio(
                "p99 of a fast tool while a slow pool is saturated, over its p99 alone",
                "p99_ms",
                (BESIDE, CLUSTER),
                (ALONE, CLUSTER),
                most=2,
            ),
        ),
    ),
    "results": Workload(
        about="results of 1 MB and 20 MB",
        config=CONFIGS / "results.yaml",
        points=(_padded("1 MB, c=4", 4, 1 * MB), _padded("20 MB, c=2", 2, 20 * MB)),
        peers=ONE_PROCESS,
    ),
    "stream": Workload(
        about=f"a tool that streams items; latencies are those of the {FIRST_ITEM}",
        config=CONFIGS / "results.yaml",
        points=(_stream("one reader", 1, 1000), _stream("16 readers", 16, 1000)),
        peers=("bare", "fastmcp"),
        measure=measure_stream,
    ),
    "embed": Workload(
        about="text_embed from 64 clients, calls batched and not",
        config=CONFIGS / "embed.yaml",
        points=(
            Point(
                label="c=64",
                load=Load(
                    url="",
                    tools=("text_embed",),
                    arguments='{"texts":["what agents read about rivers and trade @"]}',
                    expected='"vectors":[[',
                    connections=64,
                ),
            ),
        ),
        variants={
            "not batched": {"tools": {"text_embed": {"batch": {"max_batch_size": 1}}}},
            "batched": {},
        },
        bars=_batching("text_embed", least=2.5, aim=3),
    ),
    "nearest": Workload(
        about="a search through 154 MB from 64 clients, calls batched and not",
        config=CONFIGS / "nearest.yaml",
        points=(Point(label="c=64", load=Load(url="", tools=("nearest",), connections=64)),),
        variants={
            "not batched": {"tools": {"nearest": {"batch": {"max_batch_size": 1}}}},
            "batched": {},
        },
        bars=_batching("a search by vector", least=None),
    ),
    "tools": Workload(
        about="100, 1,000 and 10,000 registered tools: first page of the list, echo, changes",
        config=CONFIGS / "many.yaml",
        points=(
            Point(label=FIRST_PAGE, load=_LISTED),
            _echo(64, STILL),
            _echo(64, CHANGING, changes=1000),
        ),
        measure=measure_changing,
        variants={
            f"{count:,} tools": {
                "pools": {"many": {"runtime_env": {"env_vars": {"BENCHMARK_TOOLS": str(count)}}}}
            }
            for count in (100, 1000, 10_000)
        },
        bars=(
            _figure(
                "10,000 tools: p99 of the first page of tools/list",
                "p99_ms",
                FIRST_PAGE,
                MOST_TOOLS,
                most=10,
                unit=" ms",
            ),
            _figure(
                "10,000 tools: a change is in every gateway's list, the slowest looked for",
                "seen_max_ms",
                CHANGING,
                MOST_TOOLS,
                most=100,
                unit=" ms",
                digits=0,
            ),
            _ratio(
                "10,000 tools: p99 of echo during 1,000 changes, over that without",
                "p99_ms",
                (CHANGING, MOST_TOOLS),
                (STILL, MOST_TOOLS),
                most=2,
            ),
        ),
    ),
    "shares": Workload(
        about="calls of 5 and 500 ms on four replicas: is each as busy as the others",
        config=CONFIGS / "work.yaml",
        points=(_working("one connection", 1), _working("64 connections", 64)),
        measure=partial(measure_shares, work_s=MIXED_S),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 4}}}},
        seconds=60,
        bars=tuple(
            _figure(
                f"5 and 500 ms on 4 replicas, {label}: the least busy short of the busiest",
                "busy_spread_percent",
                label,
                most=20,
                unit=" %",
                digits=1,
            )
            for label in ("one connection", "64 connections")
        ),
    ),
    "added": Workload(
        about="a fourth replica beside three under load: how soon it has its share",
        config=CONFIGS / "work.yaml",
        points=(_working("64 connections", 64),),
        measure=partial(measure_added, work_s=MIXED_S, pool="work", to=4),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 3}}}},
        bars=(
            _figure(
                "a replica that is added has its share, from when Serve says that it runs",
                "share_s",
                "64 connections",
                most=2,
                unit=" s",
            ),
        ),
    ),
    "limit": Workload(
        about="64 clients of a tool whose replicas take four calls at a time",
        config=CONFIGS / "work.yaml",
        points=(_working("64 clients", 64),),
        measure=partial(measure_limit, work_s=(0.02, 0.05)),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 2, "max_ongoing_requests": 4}}}},
        bars=(
            _figure(
                "max_ongoing_requests 4, 64 clients: most calls that the tool saw at once",
                "most_at_once",
                "64 clients",
                most=4,
                digits=0,
            ),
        ),
    ),
    "stopped": Workload(
        about="one of two replicas stands still (SIGSTOP) for four seconds, under load",
        config=CONFIGS / "work.yaml",
        points=(_working("16 clients", 16),),
        measure=partial(measure_stopped, work_s=(0.02, 0.05)),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 2}}}},
        bars=(
            _figure(
                "one of two replicas stopped: longest wait of a call that it had not begun",
                "longest_wait_s",
                "16 clients",
                most=1.5,
                unit=" s",
            ),
        ),
    ),
    "step": Workload(
        about="from 1 to 64 calls of 200 ms at once, on a pool that may grow from 1 to 4",
        config=CONFIGS / "scaling.yaml",
        points=(_working("1 to 64 clients", 64),),
        measure=partial(measure_step, pool="work"),
        bars=(
            _figure(
                "step to 64 calls: first answer of a new replica",
                "first_new_s",
                "1 to 64 clients",
                most=10,
                unit=" s",
                digits=1,
            ),
            _figure(
                "step to 64 calls: decisions up (and no failed call, or there are no figures)",
                "decisions_up",
                "1 to 64 clients",
                least=1,
                most=1,
                digits=0,
            ),
        ),
    ),
    "wave": Workload(
        about="1 to 32 clients and back in each minute, beside Serve's own policy",
        config=CONFIGS / "scaling.yaml",
        points=(_working("1 to 32 clients", 32),),
        peers=("Serve's policy",),
        variants={
            CLUSTER: {
                "pools": {"work": {"autoscaling_config": {"target_ongoing_requests": WAVE_TARGET}}}
            }
        },
        measure=partial(measure_wave, target=WAVE_TARGET, most=4),
        seconds=600,
        runs=1,
        bars=(
            _figure(
                "sine of 60 s: changes of the number of replicas in a period",
                "changes_per_period",
                "1 to 32 clients",
                most=2,
            ),
            _figure(
                "sine of 60 s: replica-seconds over those of the ideal",
                "times_ideal",
                "1 to 32 clients",
                most=1.5,
                unit=" times",
            ),
            _ratio(
                "sine of 60 s: p99, over that of Serve's policy",
                "p99_ms",
                ("1 to 32 clients", CLUSTER),
                ("1 to 32 clients", "Serve's policy"),
            ),
        ),
    ),
    "targets": Workload(
        about="steady loads worth four replicas, for target_ongoing_requests 1, 4 and 16",
        config=CONFIGS / "scaling.yaml",
        points=(_working("worth 4 replicas", 64),),
        variants={
            name: {
                "pools": {
                    "work": {
                        "autoscaling_config": {"target_ongoing_requests": target, "max_replicas": 8}
                    }
                }
            }
            for name, target in TARGETS.items()
        },
        measure=partial(measure_target, targets=TARGETS, replicas=4),
        bars=tuple(
            _figure(
                f"{name}: running + queued a replica, off by",
                "off_target_percent",
                "worth 4 replicas",
                name,
                most=25,
                unit=" %",
                digits=1,
            )
            for name in TARGETS
        ),
    ),
    "shared": Workload(
        about="64 calls in shared batches, four of which hurt: one leaves, one returns 100 MB, ...",
        config=CONFIGS / "shared.yaml",
        points=tuple(
            Point(label=label, load=Load(url="", tools=("shared",), connections=64))
            for label in (ALIKE, ODD)
        ),
        measure=measure_shared,
        bars=(
            _figure(
                "64 calls in shared batches, 4 of them odd: of the other 60 were answered",
                "answered_of_60",
                ODD,
                least=60,
                digits=0,
            ),
            _ratio(
                "their p99, over that of 64 alike",
                "p99_ms",
                (ODD, CLUSTER),
                (ALIKE, CLUSTER),
                most=2,
            ),
        ),
    ),
    "slow-reader": Workload(
        about="a million items for a client that reads a thousand a second, then all it can",
        config=CONFIGS / "results.yaml",
        points=(_stream("100,000 items", 1, 100_000), _stream(MILLION, 1, 1_000_000)),
        measure=measure_slow_reader,
        runs=1,
        bars=(
            _figure(
                "slow reader of a million items: host and gateway grow by",
                "grown_mb",
                MILLION,
                most=64,
                unit=" MB",
                digits=1,
            ),
        ),
    ),
    "telemetry": Workload(
        about="echo with metrics and without; the metrics count as many calls as the load",
        config=SHIPPED / "benchmark.yaml",
        points=(_echo(64),),
        variants={OFF: {"telemetry": {"metrics": False}}, ON: {}},
        measure=measure_counted,
        bars=(
            _ratio(
                "calls/s, telemetry on over off",
                "calls_per_s",
                ("c=64", ON),
                ("c=64", OFF),
                least=0.95,
            ),
            _figure(
                "calls in the metrics, more or less than the load's",
                "counters_off_by",
                "c=64",
                ON,
                most=0,
                digits=0,
            ),
        ),
    ),
    "profiles": Workload(
        about="echo from 1, 64 and 256 clients under each profile",
        config=CONFIGS / "profiles.yaml",
        points=(_echo(1), _echo(64), _echo(256)),
        variants={name: {"profile": name} for name in PROFILES},
        measure=measure_profile,
        bars=(
            _clear_of_all(
                "`balanced`: idle, MB below every run of the others by",
                "idle_mb",
                "c=1",
                "balanced",
                highest=False,
            ),
            _clear_of_all(
                "`latency`: the first call, ms below every run of the others by",
                "first_call_ms",
                "c=1",
                "latency",
                highest=False,
            ),
            _clear_of_all(
                "`latency`, c=1: p50 below every run of the others by (ms)",
                "p50_ms",
                "c=1",
                "latency",
                highest=False,
            ),
            _clear_of_all(
                "`throughput`, c=256: calls/s above every run of the others by",
                "calls_per_s",
                "c=256",
                "throughput",
                highest=True,
            ),
        ),
    ),
}
"""By name on the command line."""
