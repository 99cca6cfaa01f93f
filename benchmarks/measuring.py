"""One measurement, and rounds of them: pure arithmetic, and the one place that runs a load."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from benchmarks.accounting import Process, on_the_way, spent
from benchmarks.servers import Server
from thornback.deployments.load import Figures, Load, WrongAnswers
from thornback.deployments.load_wrk import run_wrk

T = TypeVar("T")
MANY_CONNECTIONS = 1000
INTERRUPTED = "interrupted; nothing after it was measured"


class CountDiffers(Exception):
    """The tools counted other calls than were answered: such figures mean nothing."""

    def __init__(self, server: str, counted: int, answered: int) -> None:
        super().__init__(f"{server}: its tools counted {counted} calls, {answered} were answered")


class NotHeld(Exception):
    """A server did not do right what it was asked to do under a load."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.server}, {failure.point}: {failure.why}")


class Failure(msgspec.Struct, frozen=True):
    """What came in place of a measurement: there are no figures of answers that were wrong."""

    server: str
    point: str
    run: int
    why: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one server did under one load, once."""

    server: str
    point: str
    """Which load of the workload."""
    run: int
    calls: int
    seconds: float
    latency_us: dict[str, dict[int, int]]
    cpu_s: dict[str, float]
    """By role, while the load was counted."""
    unique_bytes: dict[str, int]
    """By role, right after that."""
    extra: dict[str, float] = {}
    """Figures that only this workload has."""
    series: dict[str, list[tuple[float, float]]] = {}
    """What changed while it ran: seconds since the start, and the value from then on."""

    @property
    def figures(self) -> Figures:
        return Figures(answered=self.calls, seconds=self.seconds, latency_us=self.latency_us)

    @property
    def cpu_ms_per_call(self) -> float:
        """Of the processes that a call passes through."""
        return on_the_way(self.cpu_s) * 1000 / self.calls if self.calls else 0.0

    @property
    def beside_percent(self) -> float:
        """Of one core: what the processes beside the way of a call take."""
        return (sum(self.cpu_s.values()) - on_the_way(self.cpu_s)) * 100 / self.seconds


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load of a workload; its `url` is filled in for each server."""

    label: str
    load: Load
    beside: Load | None = None
    """Runs at the same time and is not measured."""
    changes: int = 0
    """So many changes of the registry are made meanwhile."""
    ideal_per_s: float | None = None
    """What a server without any cost would reach."""

    def under(self, **load: Any) -> Point:
        """The same with other values in its load."""
        return msgspec.structs.replace(self, load=msgspec.structs.replace(self.load, **load))

    def lasting(self, seconds: float) -> Point:
        """The same, for at least so many seconds: for what does not happen in fewer."""
        return self.under(seconds=max(self.load.seconds, seconds))


def measure(server: Server, point: Point, run: int) -> Measured:
    """Put a server under a load once.

    Raises:
        WrongAnswers: not every request was answered rightly.
        CountDiffers: the tools counted other calls.
    """
    counted_before = server.counted()
    idle_bytes = sum(server.unique_bytes().values())
    before: list[Process] = []
    after: list[Process] = []
    unique_bytes: dict[str, int] = {}

    def at(from_s: float, until_s: float) -> None:
        time.sleep(max(0.0, from_s - time.monotonic()))
        before.extend(server.usage())
        time.sleep(max(0.0, until_s - time.monotonic()))
        after.extend(server.usage())
        unique_bytes.update(server.unique_bytes())  # while all connections are still there

    with ThreadPoolExecutor(1) as threads:
        load = msgspec.structs.replace(point.load, url=server.url)
        beside = point.beside and msgspec.structs.replace(point.beside, url=server.url)
        other = beside and threads.submit(run_wrk, beside)
        figures = run_wrk(load, at=at)
        answered = figures.answered + (other.result().answered if other else 0)
    check_count(server, counted_before, answered if load.method == "tools/call" else 0)
    return Measured(
        server=server.name,
        point=point.label,
        run=run,
        calls=figures.calls,
        seconds=figures.seconds,
        latency_us=figures.latency_us,
        cpu_s=spent(before, after),
        unique_bytes=unique_bytes,
        extra=memory_per_connection(load.connections, sum(unique_bytes.values()) - idle_bytes),
    )


def measure_each(
    steps: Iterable[tuple[int, Point, Server]],
    measure: Callable[[Server, Point, int], Measured],
    tell: Callable[[Measured | Failure], None],
    *,
    may_fail: Callable[[Server], bool],
) -> tuple[list[Measured], list[Failure]]:
    """Measure every step of a plan, or what of it is measured when the user interrupts it.

    Args:
        tell: Called with each as it is known.
        may_fail: Whether a server's failure is a result like another, as that of a peer is.

    Raises:
        NotHeld: one that may not fail answered wrongly, or its tools counted other calls.
    """
    measured: list[Measured] = []
    failures: list[Failure] = []
    for run, point, server in steps:
        try:
            server.ready()
            done = measure(server, point, run)
        except KeyboardInterrupt:
            if not measured:
                raise
            failures.append(Failure(server.name, point.label, run, INTERRUPTED))
            break
        except (WrongAnswers, CountDiffers) as error:
            failure = Failure(server.name, point.label, run, str(error))
            if not may_fail(server):
                raise NotHeld(failure) from error
            failures.append(failure)
            tell(failure)
        else:
            measured.append(done)
            tell(done)
    return measured, failures


def memory_per_connection(connections: int, grown_bytes: int) -> dict[str, float]:
    """What a connection takes, where they are enough to be seen."""
    if connections < MANY_CONNECTIONS:
        return {}
    return {"kb_per_connection": grown_bytes / 1000 / connections}


def check_count(server: Server, counted_before: int, answered: int) -> None:
    """Compare the tools' own counter with the answers.

    Raises:
        CountDiffers: they are not equal.
    """
    counted = server.counted() - counted_before
    if counted != answered:
        raise CountDiffers(server.name, counted, answered)


def rounds(servers: Sequence[T], runs: int) -> Iterator[tuple[int, T]]:
    """Each server once a run, forwards and backwards in turn: none is always the first."""
    for run in range(runs):
        for server in servers[:: -1 if run % 2 else 1]:
            yield run, server


def plan(
    points: Sequence[Point], servers: Sequence[T], runs: int, *, changing_is_slow: bool
) -> Iterator[tuple[int, Point, T]]:
    """Every measurement in its order: load by load, so that what is compared is near in time.

    Args:
        changing_is_slow: Whether servers must be brought up in turn: each then meets all loads.
    """
    if changing_is_slow:
        for run, server in rounds(servers, runs):
            yield from ((run, point, server) for point in points)
    else:
        for point in points:
            yield from ((run, point, server) for run, server in rounds(servers, runs))


FIGURES: dict[str, Callable[[Measured], float]] = {
    "calls_per_s": lambda m: m.figures.calls_per_s,
    "p50_ms": lambda m: m.figures.latency_ms(50),
    "p99_ms": lambda m: m.figures.latency_ms(99),
    "cpu_ms_per_call": lambda m: m.cpu_ms_per_call,
    "beside_percent": lambda m: m.beside_percent,
    "unique_mb": lambda m: on_the_way(m.unique_bytes) / 1e6,
}
"""What every measurement has, by name."""


def all_figures(measured: Measured) -> dict[str, float]:
    """Every figure of one measurement, those that only its workload has included."""
    return {**{name: figure(measured) for name, figure in FIGURES.items()}, **measured.extra}


def medians(measured: Iterable[Measured]) -> dict[str, float]:
    """The median over the runs of every figure that a table shows."""
    runs = [all_figures(one) for one in measured]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
