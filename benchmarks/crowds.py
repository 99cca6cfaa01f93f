"""Which replica runs what: shares, limits, and one that stands still. The clients are `Crowd`s."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from benchmarks.accounting import Process, spent
from benchmarks.clients import Call, Crowd
from benchmarks.measuring import Measured, Point, check_count
from benchmarks.servers import Server, Variant
from benchmarks.watching import Seen, at_once, watching, within

SHARE = 0.8
"""A replica has its share when it runs so much of what each would have if all had as much."""
STOPPED_S = 4.0
STOPPED_LOAD_S = STOPPED_S + 4.0
"""Shortest load around a replica that stands still for `STOPPED_S`."""
ADDED_LOAD_S = 20.0
"""Shortest load around a replica that is added."""
LOOK_S = 0.1

During = Callable[[Crowd], Awaitable[None]]


class Ran(NamedTuple):
    """What a crowd met."""

    calls: list[Call]
    """All, in the order of their answers."""
    replicas: Seen
    from_s: float
    until_s: float
    """Between these moments answers count."""
    cpu_s: dict[str, float]

    @property
    def counted(self) -> list[Call]:
        return [call for call in self.calls if self.from_s <= call.answered_s < self.until_s]


def run_crowd(
    server: Server,
    point: Point,
    run: int,
    *,
    work_s: Sequence[float],
    wanted: Callable[[float], float] | None = None,
    during: During | None = None,
    exactly_once: bool = True,
) -> Ran:
    """Let the clients of a point call `work`.

    Args:
        work_s: How long calls work; each one of these by chance, the same chance in each run.
        wanted: From seconds since the start to how many clients call then; None: all.
        during: Runs beside them.
        exactly_once: Whether no call may run twice.

    Raises:
        WrongAnswers: not every call was answered rightly.
        CountDiffers: the tools counted other calls.
    """
    load = point.load
    crowd = Crowd(server.url, load.connections, work_s=work_s, wanted=wanted, seed=run)
    counted = server.counted()
    usages: list[list[Process]] = []

    async def look() -> None:
        await asyncio.sleep(load.warm_up_s)
        usages.append(await asyncio.to_thread(server.usage))
        await asyncio.sleep(load.seconds)
        usages.append(await asyncio.to_thread(server.usage))

    async def whole() -> None:
        beside = [look()] if during is None else [look(), during(crowd)]
        await asyncio.gather(crowd.run(load.warm_up_s + load.seconds), *beside)

    with watching(server) as watch:
        asyncio.run(whole())
    if exactly_once:
        check_count(server, counted, len(crowd.calls))
    from_s = crowd.began_s + load.warm_up_s
    return Ran(crowd.calls, watch.replicas, from_s, from_s + load.seconds, spent(*usages))


def as_measured(
    server: Server, point: Point, run: int, ran: Ran, extra: dict[str, float], **series: Seen
) -> Measured:
    """What a crowd met, as it is kept; `series` are at moments of `time.monotonic`."""
    load = point.load
    replicas = within(ran.replicas, ran.from_s, ran.until_s)
    return Measured(
        server=server.name,
        point=point.label,
        run=run,
        calls=len(ran.counted),
        seconds=load.seconds,
        latency_us={"work": Counter(round(call.took_s * 1e6) for call in ran.counted)},
        cpu_s=ran.cpu_s,
        unique_bytes=server.unique_bytes(),
        extra=extra,
        series={
            name: [(moment - ran.from_s, value) for moment, value in seen]
            for name, seen in {"replicas": replicas, **series}.items()
        },
    )


# --- shares ---------------------------------------------------------------------------------------


def measure_shares(server: Server, point: Point, run: int, *, work_s: Sequence[float]) -> Measured:
    """How evenly calls keep the replicas busy."""
    ran = run_crowd(server, point, run, work_s=work_s)
    busy_s = busy(ran.counted, server.replicas())
    extra = {"replicas": float(len(busy_s)), "busy_spread_percent": spread(busy_s.values()) * 100}
    return as_measured(server, point, run, ran, extra)


def busy(calls: Iterable[Call], replicas: Iterable[int]) -> dict[int, float]:
    """Seconds that calls worked in each replica, added up also where they ran side by side."""
    found = dict.fromkeys(replicas, 0.0)
    for call in calls:
        found[call.pid] = found.get(call.pid, 0.0) + call.worked_s
    return found


def spread(values: Iterable[float]) -> float:
    """By how much the least falls short of the greatest, as a part of that."""
    found = list(values)
    greatest = max(found, default=0.0)
    return (greatest - min(found)) / greatest if greatest else 0.0


def measure_added(
    server: Server, point: Point, run: int, *, work_s: Sequence[float], pool: str, to: int
) -> Measured:
    """How soon a replica that is added has its share."""
    assert isinstance(server, Variant)
    point = point.lasting(ADDED_LOAD_S)
    while len(before := server.replicas()) >= to:  # one that an earlier run added goes yet
        time.sleep(LOOK_S)
    there_s: list[float] = []

    def add() -> None:
        server.change({"pools": {pool: {"num_replicas": to}}})

    async def wait_for_it() -> None:
        while await asyncio.to_thread(_running, server, pool) < to:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(LOOK_S)
        there_s.append(time.monotonic())

    async def during(crowd: Crowd) -> None:
        await asyncio.sleep(point.load.warm_up_s)
        await asyncio.gather(asyncio.to_thread(add), wait_for_it())

    ran = run_crowd(server, point, run, work_s=work_s, during=during)
    old, new = running_in(ran.calls, before)
    extra = {"share_s": max(0.0, share_s(old, new, len(before), to) - there_s[0])}
    return as_measured(server, point, run, ran, extra, others=old, added=new)


def _running(server: Variant, pool: str) -> int:
    deployments = server.serve_details()[pool]["deployments"].values()
    replicas = [replica for deployment in deployments for replica in deployment["replicas"]]
    return sum(replica["state"] == "RUNNING" for replica in replicas)


def running_in(calls: Iterable[Call], before: set[int]) -> tuple[Seen, Seen]:
    """How many calls ran at once in the replicas that were there before, and in others."""
    steps: dict[bool, list[tuple[float, float]]] = defaultdict(list)
    for call in calls:
        steps[call.pid in before].append((call.began_s, call.ended_s))
    return at_once(steps[True]), at_once(steps[False])


def share_s(old: Seen, new: Seen, before: int, replicas: int) -> float:
    """The moment from which the replicas that were not there before run their share; infinite if
    they never do.

    Args:
        old, new: How many calls ran at once in the `before` replicas, and in the others.
        replicas: How many there are with those.
    """
    wanted = SHARE * (replicas - before) / replicas
    for moment, number in new:
        others = within(old, moment, moment + LOOK_S)[0][1] if old else 0.0
        if number >= wanted * (number + others):
            return moment
    return math.inf


# --- limits ---------------------------------------------------------------------------------------


def measure_limit(server: Server, point: Point, run: int, *, work_s: Sequence[float]) -> Measured:
    """How many calls the tool itself ever saw at once in one process."""
    ran = run_crowd(server, point, run, work_s=work_s)
    most = Counter[int]()
    for call in ran.calls:
        most[call.pid] = max(most[call.pid], call.running)
    extra = {"replicas": float(len(most)), "most_at_once": float(max(most.values()))}
    return as_measured(server, point, run, ran, extra)


# --- a replica that stands still ------------------------------------------------------------------


def measure_stopped(server: Server, point: Point, run: int, *, work_s: Sequence[float]) -> Measured:
    """How long calls wait while one replica is stopped (SIGSTOP)."""
    point = point.lasting(STOPPED_LOAD_S)
    victim = min(server.replicas())
    stopped_s: list[float] = []
    counted = server.counted()

    async def during(crowd: Crowd) -> None:
        await asyncio.sleep(point.load.warm_up_s + 1)
        os.kill(victim, signal.SIGSTOP)
        try:
            stopped_s.append(time.monotonic())
            await asyncio.sleep(STOPPED_S)
        finally:
            os.kill(victim, signal.SIGCONT)

    ran = run_crowd(server, point, run, work_s=work_s, during=during, exactly_once=False)
    held, others = parted(ran.calls, victim, stopped_s[0])
    extra = {
        "held": float(len(held)),
        "longest_wait_s": max(call.took_s for call in others),
        "ran_twice": float(server.counted() - counted - len(ran.calls)),
    }
    return as_measured(server, point, run, ran, extra)


def parted(calls: Iterable[Call], victim: int, stopped_s: float) -> tuple[list[Call], list[Call]]:
    """The calls that the victim had begun and not ended when it was stopped, and all others.

    One that it was given and began only afterwards is among the others: it was not acknowledged.
    """
    held: list[Call] = []
    others: list[Call] = []
    for call in calls:
        had_it = call.pid == victim and call.began_s <= stopped_s < call.ended_s
        (held if had_it else others).append(call)
    return held, others
