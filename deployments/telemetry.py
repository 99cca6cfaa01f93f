"""Every metric of the cluster, in one table, and what counts them.

A call costs a few additions in this process; what was added up goes to Ray's metrics every few
seconds, where Prometheus finds it under `ray_thornback_...`. Labels come from the catalog and from
the tables here alone: nothing of a caller, no id and no message ever becomes one. Called by others,
calls nobody but the sink.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol

EXPORT_S = 5.0
"""Seconds between two exports."""
MAX_TOOLS = 1000
"""Tool versions that one process counts apart; all others are counted together as `(others)`."""
MAX_CODES = 64
"""Classes of error that are counted apart for one version of a tool: its author makes them up."""
MAX_CODE_CHARS = 64
OTHERS = "(others)"

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0,
)  # fmt: skip
"""Upper bounds of the buckets of times. What lies between two is told in proportion, and of calls
of many seconds people know better: those are close together."""
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Upper bounds of the buckets of batch sizes."""

logger = logging.getLogger(__name__)

Outcome = Literal["ok", "error", "input_needed", "cancelled"]


class Metric(NamedTuple):
    """One row of the table."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets, upwards; a last one without bound is always there."""


_TOOL = ("tool", "version")
CALLS = Metric("thornback_calls", "counter", (*_TOOL, "outcome"), "Calls that are over.")
ERRORS = Metric(
    "thornback_errors", "counter", (*_TOOL, "code"), "Calls that failed, by class of error."
)
REQUEST_BYTES = Metric("thornback_request_bytes", "counter", _TOOL, "Bytes of arguments.")
RESULT_BYTES = Metric("thornback_result_bytes", "counter", _TOOL, "Bytes of results.")
COLD_STARTS = Metric(
    "thornback_cold_starts", "counter", _TOOL, "Calls for which a replica had to be started."
)
QUEUE = Metric(
    "thornback_queue_seconds", "histogram", (*_TOOL, "outcome"),
    "From a call's arrival until a host admitted it.", SECONDS,
)  # fmt: skip
RUN = Metric(
    "thornback_run_seconds", "histogram", (*_TOOL, "outcome"), "Time in the tool.", SECONDS
)
TOTAL = Metric(
    "thornback_total_seconds", "histogram", (*_TOOL, "outcome"),
    "From a call's arrival until its answer.", SECONDS,
)  # fmt: skip
BATCH_SIZE = Metric(
    "thornback_batch_size", "histogram", _TOOL, "Calls in the batch that a call ran in.", SIZES
)
RUNNING = Metric("thornback_running", "gauge", _TOOL, "Calls that run now.")
QUEUED = Metric("thornback_queued", "gauge", _TOOL, "Calls that wait now.")
_POOL = ("cluster", "pool")
REPLICAS = Metric(
    "thornback_replicas", "gauge", (*_POOL, "state"), "Replicas of a pool that scales."
)
TARGET_REPLICAS = Metric(
    "thornback_target_replicas", "gauge", _POOL, "Replicas that a pool shall have."
)
LAST_DECISION = Metric(
    "thornback_last_decision_seconds", "gauge", _POOL,
    "When a pool's size was last changed, in seconds since 1970.",
)  # fmt: skip

TABLE = (
    CALLS, ERRORS, REQUEST_BYTES, RESULT_BYTES, COLD_STARTS, QUEUE, RUN, TOTAL, BATCH_SIZE, RUNNING,
    QUEUED, REPLICAS, TARGET_REPLICAS, LAST_DECISION,
)  # fmt: skip

Labels = tuple[str, ...]
"""In the order of the metric's labels."""


class CallFacts(NamedTuple):
    """A call that is over."""

    tool: str
    """As the catalog has it; a call of a tool that nobody offers is not observed."""
    version: str
    outcome: Outcome
    total_s: float
    queue_s: float | None = None
    """None: no host admitted it."""
    run_s: float | None = None
    error: str = ""
    """Code of the error, as in `cluster.errors`; empty: none."""
    request_bytes: int = 0
    result_bytes: int = 0
    batch_size: int | None = None
    """None: it ran in no batch."""
    cold: bool = False
    """A replica had to be started for it."""


class Gauged(NamedTuple):
    """A value as it is now."""

    metric: Metric
    labels: Labels
    value: float


class Sink(Protocol):
    """Where numbers go."""

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Add to a counter; `value` is above 0."""

    def put(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Set a gauge."""


class Distribution:
    """How often values fell into each bucket."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def quantile(self, share: float) -> float | None:
        """The bound below which `share` of the values lie, between bounds in proportion.

        None without values. What lies above the last bound counts as lying on it.
        """
        total = sum(self.counts)
        if not total:
            return None
        wanted, below = share * total, 0
        for i, count in enumerate(self.counts[:-1]):
            if count and below + count >= wanted:
                low = self.bounds[i - 1] if i else 0.0
                return low + (self.bounds[i] - low) * (wanted - below) / count
            below += count
        return self.bounds[-1]


class Times:
    """How long the calls of one outcome took."""

    def __init__(self) -> None:
        self.queue = Distribution(QUEUE.bounds)
        self.run = Distribution(RUN.bounds)
        self.total = Distribution(TOTAL.bounds)

    @property
    def calls(self) -> int:
        return sum(self.total.counts)


class ToolNumbers:
    """What was observed of one version of a tool since this process began."""

    def __init__(self) -> None:
        self.times: dict[str, Times] = {}
        """By outcome."""
        self.errors: dict[str, int] = {}
        self.request_bytes = self.result_bytes = self.cold_starts = 0
        self.batch_size = Distribution(BATCH_SIZE.bounds)

    @property
    def total_counts(self) -> list[int]:
        """How many calls took how long in all, whatever came of them: the buckets of `TOTAL`."""
        counts = (times.total.counts for times in self.times.values())
        return [sum(bucket) for bucket in zip(*counts, strict=True)]

    def observe(self, call: CallFacts) -> None:
        times = self.times.get(call.outcome)
        if times is None:
            times = self.times[call.outcome] = Times()
        if call.error:
            code = call.error if self._is_counted_apart(call.error) else OTHERS
            self.errors[code] = self.errors.get(code, 0) + 1
        self.request_bytes += call.request_bytes
        self.result_bytes += call.result_bytes
        self.cold_starts += call.cold
        times.total.add(call.total_s)
        if call.queue_s is not None:
            times.queue.add(call.queue_s)
        if call.run_s is not None:
            times.run.add(call.run_s)
        if call.batch_size is not None:
            self.batch_size.add(call.batch_size)

    def _is_counted_apart(self, code: str) -> bool:
        return code in self.errors or (len(self.errors) < MAX_CODES and len(code) <= MAX_CODE_CHARS)

    def counters(self, tool: Labels) -> Iterable[tuple[str, Labels, float]]:
        """Name, labels and value of every counter, a histogram's buckets among them."""
        for outcome, times in self.times.items():
            labels = (*tool, outcome)
            yield CALLS.name, labels, times.calls
            yield from _buckets(QUEUE, labels, times.queue)
            yield from _buckets(RUN, labels, times.run)
            yield from _buckets(TOTAL, labels, times.total)
        for code, count in self.errors.items():
            yield ERRORS.name, (*tool, code), count
        yield REQUEST_BYTES.name, tool, self.request_bytes
        yield RESULT_BYTES.name, tool, self.result_bytes
        yield COLD_STARTS.name, tool, self.cold_starts
        yield from _buckets(BATCH_SIZE, tool, self.batch_size)


def _buckets(
    metric: Metric, labels: Labels, seen: Distribution
) -> Iterable[tuple[str, Labels, float]]:
    """A histogram as counters."""
    yield f"{metric.name}_sum", labels, seen.sum
    yield f"{metric.name}_count", labels, sum(seen.counts)
    bounds = [f"{bound:g}" for bound in metric.bounds] + ["+Inf"]
    for bound, count in zip(bounds, accumulate(seen.counts), strict=True):
        yield f"{metric.name}_bucket", (*labels, bound), count


class Telemetry:
    """The numbers of one process. Not safe for several threads: one loop observes and exports."""

    def __init__(self, sink: Sink) -> None:
        self.tools: dict[Labels, ToolNumbers] = {}
        """By tool and version."""
        self._sink = sink
        self._sources: list[Callable[[], Iterable[Gauged]]] = []
        self._touched: set[Labels] = set()
        """Those of `tools` that were called since the last export."""
        self._exported: dict[tuple[str, Labels], float] = {}
        self._shown: dict[tuple[str, Labels], Metric] = {}

    def observe(self, call: CallFacts) -> None:
        """Count a call that is over."""
        key = call[:2]
        if key not in self.tools:
            if len(self.tools) >= MAX_TOOLS:
                key = (OTHERS, OTHERS)
            if key not in self.tools:
                self.tools[key] = ToolNumbers()
        self.tools[key].observe(call)
        self._touched.add(key)

    def watch(self, source: Callable[[], Iterable[Gauged]]) -> None:
        """Ask `source` with every export for what is now; it must not wait."""
        self._sources.append(source)

    def export(self) -> None:
        """Give the sink what has been added since it was last given anything."""
        for _ in self._exporting():
            pass

    def _exporting(self) -> Iterator[None]:
        """Export, one tool at a time: one costs about half a millisecond."""
        for tool in list(self._touched):
            for name, labels, value in self.tools[tool].counters(tool):
                added = value - self._exported.get((name, labels), 0)
                if added > 0:
                    self._sink.add(name, named(name, labels), added)
                    self._exported[name, labels] = value
            self._touched.discard(tool)
            yield
        now = {
            (gauged.metric.name, gauged.labels): gauged
            for source in self._sources
            for gauged in source()
        }
        for name, labels in self._shown.keys() - now.keys():
            # Ray shows the last value of a gauge until its process ends.
            self._sink.put(name, named(name, labels), 0)
        for (name, labels), gauged in now.items():
            self._sink.put(name, named(name, labels), gauged.value)
        self._shown = {key: gauged.metric for key, gauged in now.items()}

    async def keep_exporting(self) -> None:
        """Export every `EXPORT_S` seconds until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(EXPORT_S)
                try:
                    for _ in self._exporting():
                        await asyncio.sleep(0)
                except Exception:  # a metric is not worth a call
                    logger.exception("metrics were not exported")
        finally:
            self.export()


class RaySink:
    """Ray's metrics: what its agents show to Prometheus."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._counters: dict[str, Any] = {}
        self._gauges: dict[str, Any] = {}
        for metric in TABLE:
            if metric.kind == "gauge":
                self._gauges[metric.name] = Gauge(metric.name, metric.help, metric.labels)
                continue
            # Ray's histogram takes values one by one, at three microseconds each; a counter for
            # each bucket takes seconds' worth at once, and Prometheus computes the same with it.
            for name in _counters_of(metric):
                self._counters[name] = Counter(name, metric.help, LABELS[name])

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._counters[name].inc(value, labels)

    def put(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._gauges[name].set(value, labels)


def _counters_of(metric: Metric) -> list[str]:
    if metric.kind == "counter":
        return [metric.name]
    return [f"{metric.name}_{part}" for part in ("sum", "count", "bucket")]


def _labels() -> dict[str, tuple[str, ...]]:
    found = {metric.name: metric.labels for metric in TABLE if metric.kind != "histogram"}
    for metric in TABLE:
        if metric.kind == "histogram":
            found |= dict.fromkeys(_counters_of(metric), metric.labels)
            found[f"{metric.name}_bucket"] = (*metric.labels, "le")
    return found


LABELS = _labels()
"""Labels of everything that is exported, by its name."""


def named(name: str, labels: Labels) -> dict[str, str]:
    """The labels of what is exported under a name, each with its own."""
    return dict(zip(LABELS[name], labels, strict=True))
