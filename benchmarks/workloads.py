"""Every workload: what is asked, of which servers, and under which config of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from benchmarks.changes import measure_changing
from benchmarks.measuring import Measured, Point, measure
from benchmarks.servers import CONFIGS, PEER_COMMANDS, SHIPPED, Server
from benchmarks.streaming import FIRST_ITEM, measure_stream
from thornback.deployments.load import Load

CLUSTER = "cluster"
ONE_PROCESS = ("bare", "bare, JSON", "fastmcp")
PADDED = '{"text":"@","padding_bytes":%d}'
ITEMS = '{"text":"@","count":%d}'
LATER = '{"text":"@","delay_s":%g}'
MB = 1_000_000


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


_SATURATING = Load(
    url="",
    tools=("echo_later",),
    arguments=LATER % 0.1,
    connections=64,
)
_LISTED = Load(url="", method="tools/list", tools=("tools/list",), expected='"listed_0"')

WORKLOADS = {
    "echo": Workload(
        about="echo at 1, 16, 64 and 256 connections, beside every peer",
        config=SHIPPED / "benchmark.yaml",
        points=tuple(_echo(connections) for connections in (1, 16, 64, 256)),
        peers=tuple(PEER_COMMANDS),
    ),
    "crowd": Workload(
        about="echo from 125 clients (with --seconds 60, what other gateways publish)",
        config=SHIPPED / "benchmark.yaml",
        points=(_echo(125),),
    ),
    "sequential": Workload(
        about="echo from one client: the latency that the cluster adds",
        config=SHIPPED / "benchmark.yaml",
        points=(_echo(1),),
        peers=("bare", "bare, JSON", "published Ray"),
    ),
    "later": Workload(
        about="a 500 ms echo from 200 clients",
        config=CONFIGS / "waiting.yaml",
        points=(_later("200 clients, 500 ms", 200, 0.5),),
        peers=(*ONE_PROCESS, "published Ray"),
    ),
    "connections": Workload(
        about="a 1 s echo from 2,000 clients",
        config=CONFIGS / "waiting.yaml",
        points=(_later("2,000 clients, 1 s", 2000, 1.0),),
        peers=ONE_PROCESS,
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
            _echo(16, "fast tool alone"),
            _echo(16, "beside a saturated one", beside=_SATURATING),
        ),
        peers=("bare",),
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
    ),
    "tools": Workload(
        about="100, 1,000 and 10,000 registered tools: first page of the list, echo, changes",
        config=CONFIGS / "many.yaml",
        points=(
            Point(label="first page, c=1", load=_LISTED),
            _echo(64, "echo, c=64"),
            _echo(64, "echo, while tools change", changes=1000),
        ),
        measure=measure_changing,
        variants={
            f"{count:,} tools": {
                "pools": {"many": {"runtime_env": {"env_vars": {"BENCHMARK_TOOLS": str(count)}}}}
            }
            for count in (100, 1000, 10_000)
        },
    ),
}
