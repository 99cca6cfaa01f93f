"""How a pool follows its load: a step, a wave, and what `target_ongoing_requests` comes to."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.crowds import Ran, as_measured, run_crowd
from benchmarks.measuring import Measured, Point
from benchmarks.servers import Server, Variant
from benchmarks.watching import Seen, at_once, changes, integral, mean, within

WORK_S = (0.2,)
BEFORE_S = 4.0
"""For which one client calls before a step."""
PERIOD_S = 60.0
SETTLE_S = 15.0
"""For which a pool may take its size before it is looked at."""
STEP_S = 0.1


def measure_step(server: Server, point: Point, run: int, *, pool: str) -> Measured:
    """From one client to all at once, on a cluster that has seen no other load."""
    assert isinstance(server, Variant)
    server.begin_anew()
    before, began_at_s = server.replicas(), time.time()
    step_s = max(point.load.warm_up_s, BEFORE_S)
    ran = run_crowd(
        server,
        point.lasting(SETTLE_S).under(warm_up_s=step_s),
        run,
        work_s=WORK_S,
        wanted=lambda since_s: 1 if since_s < step_s else math.inf,
    )
    began_s = [call.began_s for call in ran.calls if call.pid not in before]
    decided = decisions_up(server.status(), pool, began_at_s)
    print(*decided, sep="\n", file=sys.stderr, flush=True)
    extra = {
        "first_new_s": min(began_s, default=math.inf) - ran.from_s,
        "decisions_up": float(len(decided)),
        "replicas": ran.replicas[-1][1],
    }
    return as_measured(server, point, run, ran, extra, clients=_asked(ran))


def decisions_up(status: dict[str, Any], pool: str, since_s: float) -> list[str]:
    """What led to each time that the pool grew, in words, beyond its first replicas.

    Args:
        since_s: Seconds since 1970; earlier ones are another run's.
    """
    found = status["pools"][pool]["decisions"]
    facts = [(each["text"], each["facts"]) for each in found if each["facts"]["at_s"] >= since_s]
    return [text for text, fact in facts if 0 < fact["before"] < fact["after"]]


def measure_wave(server: Server, point: Point, run: int, *, target: float, most: int) -> Measured:
    """As many clients as a sine says, from one to all of them and back, period after period.

    One period passes before: a pool that begins with its fewest replicas has all its steps to take.
    """
    point = point.under(warm_up_s=max(point.load.warm_up_s, PERIOD_S))
    clients = point.load.connections
    ran = run_crowd(server, point, run, work_s=WORK_S, wanted=lambda s: wave(s, clients))
    warm_up_s, seconds = point.load.warm_up_s, point.load.seconds
    ideal_s = ideal_replica_s(
        lambda s: wave(s + warm_up_s, clients), seconds, target=target, most=most
    )
    replicas = within(ran.replicas, ran.from_s, ran.until_s)
    extra = {
        "changes_per_period": len(changes(replicas)) / max(1.0, seconds / PERIOD_S),
        "times_ideal": integral(replicas) / ideal_s,
    }
    return as_measured(server, point, run, ran, extra, clients=_asked(ran))


def wave(since_s: float, clients: int) -> int:
    """Clients at a moment of a load that begins at one."""
    return round(1 + (clients - 1) * (1 - math.cos(2 * math.pi * since_s / PERIOD_S)) / 2)


def ideal_replica_s(
    wanted: Callable[[float], float], seconds: float, *, target: float, most: int
) -> float:
    """Replica-seconds of a pool that always has just as many whole replicas as the clients need."""
    moments = (number * STEP_S for number in range(round(seconds / STEP_S)))
    needed = (math.ceil(wanted(moment) / target) for moment in moments)
    return sum(min(max(one, 1), most) * STEP_S for one in needed)


def _asked(ran: Ran) -> Seen:
    """How many calls were under way, thinned to what a plot can show."""
    steps = at_once([(call.asked_s, call.answered_s) for call in ran.calls])
    inside = within(steps, ran.from_s, ran.until_s)
    return inside[:: max(1, len(inside) // 600)]


def measure_target(
    server: Server, point: Point, run: int, *, targets: dict[str, int], replicas: int
) -> Measured:
    """What a replica has, running and queued, where the load is worth so many replicas.

    Args:
        targets: By name of the server, its `target_ongoing_requests`.
    """
    target = targets[server.name]
    settled = point.under(
        connections=target * replicas, warm_up_s=max(point.load.warm_up_s, SETTLE_S)
    )
    ran = run_crowd(server, settled, run, work_s=WORK_S)
    steps = at_once([(call.asked_s, call.answered_s) for call in ran.calls])
    there = mean(within(ran.replicas, ran.from_s, ran.until_s))
    each = mean(within(steps, ran.from_s, ran.until_s)) / there
    extra = {
        "replicas": there,
        "each_has": each,
        "off_target_percent": abs(each / target - 1) * 100,
    }
    return as_measured(server, settled, run, ran, extra)
