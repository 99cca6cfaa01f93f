"""Workloads of calls: how many, how soon, and at what cost."""

from __future__ import annotations

from typing import Any

from benchmarks.bars import Bar
from benchmarks.changes import measure_changing
from benchmarks.counters import OFF, ON, measure_counted
from benchmarks.measuring import Point
from benchmarks.servers import CONFIGS, SHIPPED
from benchmarks.slow_reader import measure_slow_reader
from benchmarks.streaming import FIRST_ITEM, measure_stream
from benchmarks.workload import CLUSTER, Workload, difference_of, figure_of, ratio_of, times
from thornback.deployments.load import Load

ONE_PROCESS = ("bare", "bare, JSON", "fastmcp")
A_WORKER_A_CORE = "bare, JSON, a worker a core"
ECHO_PEERS = ("bare", "bare, JSON", A_WORKER_A_CORE, "fastmcp", "published Ray")
PADDED = '{"text":"@","padding_bytes":%d}'
ITEMS = '{"text":"@","count":%d}'
LATER = '{"text":"@","delay_s":%g}'
MB = 1_000_000
ALONE, BESIDE = "fast tool alone", "beside a saturated one"
MILLION = "a million items"


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


def _stream(label: str, connections: int, count: int, tool: str = "items") -> Point:
    load = Load(
        url="",
        tools=(tool,),
        arguments=ITEMS % count,
        connections=connections,
    )
    return Point(label=label, load=load)


def _batching(what: str, **limits: Any) -> tuple[Bar, ...]:
    on, off = ("c=64", "batched"), ("c=64", "not batched")
    return (
        ratio_of(f"{what}, c=64, calls/s: batched over not", "calls_per_s", on, off, **limits),
        ratio_of(f"{what}, 64 clients, p99: batched over not", "p99_ms", on, off, most=1),
    )


_SATURATING = Load(
    url="",
    tools=("echo_later",),
    arguments=LATER % 0.1,
    connections=64,
)
FIRST_PAGE, STILL, CHANGING = "first page, c=1", "echo, c=64", "echo, while tools change"
MOST_TOOLS = "10,000 tools"
_LISTED = Load(url="", method="tools/list", tools=("tools/list",), expected='"listed_0"')


CALL_WORKLOADS = {
    "echo": Workload(
        about="echo at 1, 16, 64 and 256 connections, beside every peer",
        config=SHIPPED / "benchmark.yaml",
        points=tuple(_echo(connections) for connections in (1, 16, 64, 256)),
        peers=ECHO_PEERS,
        bars=(
            times("echo, c=64", "c=64", A_WORKER_A_CORE),
            figure_of(
                "echo, c=64: CPU of a worker on each core, a call",
                "cpu_ms_per_call",
                "c=64",
                A_WORKER_A_CORE,
                unit=" ms",
                digits=3,
            ),
            times("echo, c=64", "c=64", "bare", least=2, aim=3),
            times("echo, c=64", "c=64", "bare, JSON", least=1.2, aim=1.5),
            times("echo, c=64", "c=64", "published Ray", least=10, aim=14),
            difference_of(
                "echo, c=1: p50 that the cluster adds to bare",
                "p50_ms",
                ("c=1", CLUSTER),
                ("c=1", "bare"),
                most=2,
                aim=1,
                unit=" ms",
            ),
            figure_of(
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
            figure_of("echo, 125 clients", "calls_per_s", "c=125", least=742, unit="/s", digits=0),
            figure_of("echo, 125 clients: p99", "p99_ms", "c=125", most=640, unit=" ms", digits=0),
        ),
    ),
    "sequential": Workload(
        about="echo from one client: the latency that the cluster adds",
        config=SHIPPED / "benchmark.yaml",
        points=(_echo(1),),
        peers=("bare", "bare, JSON", "published Ray"),
        bars=(
            difference_of(
                "echo, c=1: p50 that the cluster adds to bare",
                "p50_ms",
                ("c=1", CLUSTER),
                ("c=1", "bare"),
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
            figure_of(
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
            figure_of(
                "1 s echo, 2,000 connections, two gateways (ideal 2,000/s)",
                "calls_per_s",
                "2,000 clients, 1 s",
                least=1900,
                unit="/s",
                digits=0,
            ),
            figure_of(
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
            ratio_of(
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
            figure_of(
                "10,000 tools: p99 of the first page of tools/list",
                "p99_ms",
                FIRST_PAGE,
                MOST_TOOLS,
                most=10,
                unit=" ms",
            ),
            figure_of(
                "10,000 tools: a change is in every gateway's list, the slowest looked for",
                "seen_max_ms",
                CHANGING,
                MOST_TOOLS,
                most=100,
                unit=" ms",
                digits=0,
            ),
            ratio_of(
                "10,000 tools: p99 of echo during 1,000 changes, over that without",
                "p99_ms",
                (CHANGING, MOST_TOOLS),
                (STILL, MOST_TOOLS),
                most=2,
            ),
        ),
    ),
    "slow-reader": Workload(
        about="a million items for a client that reads a thousand a second, then all it can",
        config=CONFIGS / "results.yaml",
        points=(
            _stream("100,000 items", 1, 100_000, "many_items"),
            _stream(MILLION, 1, 1_000_000, "many_items"),
        ),
        measure=measure_slow_reader,
        runs=1,
        bars=(
            figure_of(
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
            ratio_of(
                "calls/s, telemetry on over off",
                "calls_per_s",
                ("c=64", ON),
                ("c=64", OFF),
                least=0.95,
            ),
            figure_of(
                "calls in the metrics, more or less than the load's",
                "counters_off_by",
                "c=64",
                ON,
                most=0,
                digits=0,
            ),
        ),
    ),
}
