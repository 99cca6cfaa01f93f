"""Telemetry: whether its counters say what a load generator counts."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping

import msgspec
import psutil

from benchmarks.measuring import CountDiffers, Measured, Point, measure
from benchmarks.servers import Server, Variant

SHOWN_S = 45.0
"""Longest time until a call is shown: two exports, ours and Ray's."""
LOOK_S = 1.0
ON, OFF = "on", "off"
CALLS = re.compile(r"^ray_thornback_calls(?:_total)?\{(?P<labels>.*)\} (?P<value>\S+)$", re.M)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def measure_counted(server: Server, point: Point, run: int) -> Measured:
    """`measure`, and the metric `calls` of the tool against the tool's own count.

    Raises:
        CountDiffers: they differ, also after the metrics have had time to come.
    """
    assert isinstance(server, Variant)
    (tool,) = point.load.tools
    before, began = shown(server, tool), server.counted()
    done = measure(server, point, run)
    counted = server.counted() - began if server.name == ON else 0
    found = _awaited(lambda: grown(before, shown(server, tool)), counted)
    if found != counted:
        raise CountDiffers(f"{server.name}: the metrics", int(found), counted)
    return msgspec.structs.replace(done, extra={**done.extra, "counters_off_by": 0.0})


def _awaited(figure: Callable[[], float], wanted: float) -> float:
    until_s = time.monotonic() + SHOWN_S
    while (found := figure()) != wanted and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    return found


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """By how much the counters of living gateways grew; those of ended ones disappear."""
    return sum(value - before.get(gateway, 0) for gateway, value in after.items())


def shown(server: Variant, tool: str) -> dict[str, float]:
    """Calls of a tool on Ray's metrics endpoint, by gateway."""
    with urllib.request.urlopen(f"http://127.0.0.1:{_port(server)}/metrics", timeout=10) as answer:
        return calls_in(answer.read().decode(), tool)


def calls_in(metrics: str, tool: str) -> dict[str, float]:
    """`thornback_calls` of a tool in Prometheus's text format, by gateway, outcomes together."""
    found: dict[str, float] = defaultdict(float)
    for sample in CALLS.finditer(metrics):
        labels = dict(LABEL.findall(sample["labels"]))
        if labels.get("tool") == tool:
            found[labels.get("WorkerId", "")] += float(sample["value"])
    return dict(found)


def _port(server: Variant) -> int:
    """Where Ray's agent shows metrics, as the raylet is told that starts it."""
    for process in server.processes():
        command = " ".join(process.cmdline())
        told = re.search(r"--metrics-export-port=(\d+)", command)
        if told is not None:
            return int(told[1])
    raise psutil.NoSuchProcess(0, "raylet")
