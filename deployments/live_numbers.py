"""What happens now, for `thornback top`: from each gateway's running sums to what the last seconds
came to. Pure: moments are passed in.

A gateway tells its sums since it began and keeps nothing for whoever asks; the differences are made
here, gateway by gateway, and then added up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from thornback.deployments.pool_news import replicas_of
from thornback.deployments.telemetry import (
    QUEUED,
    RUNNING,
    SECONDS,
    Distribution,
    Gauged,
    Labels,
    ToolNumbers,
)

WINDOW_S = 5.0
"""What rates and quantiles are over."""


class ToolSums(msgspec.Struct, frozen=True, array_like=True):
    """One version of a tool in one gateway, since that gateway began; and now."""

    tool: str
    version: str
    calls: int
    """That are over."""
    errors: int
    times: list[int]
    """How many calls took how long in all: the buckets of `telemetry.SECONDS`."""
    running: int
    queued: int


class GatewaySums(msgspec.Struct, frozen=True, array_like=True):
    """What one gateway tells."""

    gateway: str
    tools: list[ToolSums]
    counts: bool = True
    """Whether it counts calls; else it knows what runs and waits alone."""


class ToolRow(msgspec.Struct, frozen=True):
    """One version of a tool."""

    tool: str
    version: str
    calls_per_s: float
    errors_per_s: float
    p50_ms: float | None
    """None: no call ended in the last seconds."""
    p99_ms: float | None
    running: int
    queued: int


class PoolRow(msgspec.Struct, frozen=True):
    """One pool."""

    pool: str
    running: int
    target: int
    """Replicas that there shall be."""
    states: dict[str, int]
    """How many replicas are in each state, as Serve calls it."""


class Snapshot(msgspec.Struct, frozen=True):
    """What `top` shows at one moment."""

    time: float
    """Wall-clock seconds."""
    cluster: str
    window_s: float
    """Seconds that the rates are really over; 0: the first look, which has none."""
    gateways: int
    """That answered."""
    tools: list[ToolRow]
    pools: list[PoolRow]
    problems: list[str] = []


class Gone(msgspec.Struct, frozen=True):
    """There is nothing more to show."""

    gone: str
    """Why, in words."""


def sums_of(
    gateway: str, tools: Mapping[Labels, ToolNumbers] | None, gauged: Iterable[Gauged]
) -> GatewaySums:
    """What a gateway tells of itself.

    Args:
        tools: `Telemetry.tools`; None: it does not count.
        gauged: Its calls of this moment.
    """
    now = {(each.labels, each.metric): int(each.value) for each in gauged}
    counted = tools or {}
    keys = dict.fromkeys([*counted, *(labels for labels, _ in now)])
    sums = []
    for tool, version in keys:
        numbers = counted.get((tool, version))
        sums.append(
            ToolSums(
                tool,
                version,
                sum(times.calls for times in numbers.times.values()) if numbers else 0,
                sum(numbers.errors.values()) if numbers else 0,
                numbers.total_counts if numbers else [],
                now.get(((tool, version), RUNNING), 0),
                now.get(((tool, version), QUEUED), 0),
            )
        )
    return GatewaySums(gateway, sums, tools is not None)


class Window:
    """The last seconds of each gateway."""

    def __init__(self) -> None:
        self._looks: dict[str, deque[tuple[float, GatewaySums]]] = {}
        """Moment and sums, oldest first."""

    def add(self, moment_s: float, answers: Sequence[GatewaySums]) -> None:
        """Take what gateways answered at a moment; one that did not answer is not counted now."""
        answered = {answer.gateway: answer for answer in answers}
        for gateway, sums in answered.items():
            looks = self._looks.setdefault(gateway, deque())
            looks.append((moment_s, sums))
        for gateway, looks in list(self._looks.items()):
            while looks and looks[0][0] < moment_s - WINDOW_S:
                looks.popleft()
            if not looks:
                del self._looks[gateway]

    @property
    def length_s(self) -> float:
        """Seconds between the first and the last look of any gateway."""
        spans = [looks[-1][0] - looks[0][0] for looks in self._looks.values()]
        return max(spans, default=0.0)

    def rows(self) -> list[ToolRow]:
        """Every tool that was called since its gateways began, the busiest first."""
        totals: dict[Labels, _Total] = {}
        for looks in self._looks.values():
            (began_s, first), (moment_s, last) = looks[0], looks[-1]
            before = {(each.tool, each.version): each for each in first.tools}
            for each in last.tools:
                total = totals.setdefault((each.tool, each.version), _Total())
                total.add(each, before.get((each.tool, each.version)), moment_s - began_s)
        rows = [total.row(*key) for key, total in totals.items()]
        return sorted(rows, key=lambda row: (-row.calls_per_s, -row.running, row.tool, row.version))


class _Total:
    """One version of a tool, over all gateways."""

    def __init__(self) -> None:
        self._calls_per_s = self._errors_per_s = 0.0
        self._times = Distribution(SECONDS)
        self._running = self._queued = 0

    def add(self, now: ToolSums, before: ToolSums | None, span_s: float) -> None:
        """
        Args:
            before: None: nobody had called it.
            span_s: Seconds between the two.
        """
        self._running += now.running
        self._queued += now.queued
        if not span_s:
            return
        self._calls_per_s += (now.calls - (before.calls if before else 0)) / span_s
        self._errors_per_s += (now.errors - (before.errors if before else 0)) / span_s
        if len(now.times) != len(self._times.counts):
            return  # it counted none, or is of a version with other buckets
        for place, count in enumerate(now.times):
            was = before.times[place] if before and before.times else 0
            self._times.counts[place] += count - was

    def row(self, tool: str, version: str) -> ToolRow:
        return ToolRow(
            tool,
            version,
            round(self._calls_per_s, 2),
            round(self._errors_per_s, 2),
            _ms(self._times.quantile(0.5)),
            _ms(self._times.quantile(0.99)),
            self._running,
            self._queued,
        )


def pool_rows(details: Mapping[str, Any], namespace: str, gateway: str) -> list[PoolRow]:
    """The pools of a cluster, from what Serve says of itself.

    Args:
        namespace: How the names of the cluster's applications begin.
        gateway: The application that is no pool.
    """
    rows = []
    for name, application in sorted(details.get("applications", {}).items()):
        pool = name.removeprefix(f"{namespace}.")
        if pool in (name, gateway):
            continue
        states: dict[str, int] = {}
        for replica in replicas_of(application):
            states[replica["state"]] = states.get(replica["state"], 0) + 1
        deployments = application.get("deployments", {}).values()
        target = sum(deployment.get("target_num_replicas", 0) for deployment in deployments)
        rows.append(PoolRow(pool, states.get("RUNNING", 0), target, states))
    return rows


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
