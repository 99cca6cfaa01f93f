"""How many replicas a pool's calls ask for, and the sentence that says why it changed.

Pure: reports and the time come in, a wish and its facts go out. What Ray Serve's options say about
any policy's wish (bounds, both factors, the three delays) Serve itself applies to this one; a
second opinion here could only differ from it. A change of size is therefore told after it happened,
with the facts of the look that led to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

Points = Sequence[tuple[float, float]]
"""What one replica reported, oldest first: wall-clock seconds and a number of calls."""

REGROW_S = 60.0
"""A pool that grows this soon after it shrank takes back the size it had, in one step."""
SETTLE_S = 2.0
"""From a replica's first report until the others have told that it took calls off them: gateways
tell hosts every second what they hold, and hosts look at themselves nearly as often."""
_STEP_DIGITS = 6
"""Averages of whole numbers are a hair off; a hair must not cost a replica."""


class Aims(NamedTuple):
    """The options that shape the wish, under Serve's names."""

    target_ongoing_requests: float
    look_back_period_s: float
    aggregation_function: Literal["mean", "max", "min"]
    upscale_delay_s: float
    downscale_delay_s: float
    downscale_to_zero_delay_s: float | None
    min_replicas: int
    max_replicas: int


class Seen(NamedTuple):
    """A pool at one moment."""

    now_s: float
    """Wall-clock seconds, as in the reports."""
    target: int
    """Replicas it shall have."""
    calls: Mapping[str, Points]
    """By replica: calls running and queued there."""
    held: Mapping[str, Points]
    """By replica: calls that the gateways told it they hold. A gateway tells every replica the
    same, so the largest report counts, not the sum."""
    scaled_up_at_s: float | None = None
    """When Serve last made the pool larger."""


class Scaled(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of a pool's size, with its facts."""

    pool: str
    at_s: float
    """Wall-clock seconds."""
    before: int
    after: int
    load: float | None = None
    """Calls running, queued and held; None where the load was not asked."""
    target: float = 0.0
    """`target_ongoing_requests`."""
    wanted: int | None = None
    """Replicas that the load asks for by itself."""
    waited_s: float = 0.0
    delay: str = ""
    """Name of the delay that was waited for; empty: none applied."""
    delay_s: float = 0.0
    limit: str = ""
    """The bound that stopped it, and its value."""
    regrown_after_s: float | None = None
    """Seconds since the pool last had as many, if that is why it has them again."""

    def __str__(self) -> str:
        return f"{self.pool} {self.before}→{self.after}: {'; '.join(self._reasons())}"

    def _reasons(self) -> Iterable[str]:
        if self.load is None:
            yield "a call waits, from zero without delay" if self.before == 0 else "not by load"
            return
        asks = "" if self.wanted in (None, self.after) else f", which asks for {self.wanted}"
        limit = f" ({self.limit})" if self.limit else ""
        yield f"{round(self.load, 1):g} running + queued, target {self.target:g}{asks}{limit}"
        if self.regrown_after_s is not None:
            yield f"it had {self.after} until {self.regrown_after_s:.0f} s ago"
        yield f"waited {self.waited_s:.1f} s of {self.delay} {self.delay_s:g}"


class Shrunk(NamedTuple):
    """That the pool became smaller."""

    at_s: float
    before: int


class Wish(NamedTuple):
    """What the load asked for at the last look."""

    load: float
    replicas: float
    since_s: float
    """Since when it asks for a change in this direction."""
    looked_at_s: float
    regrown_after_s: float | None = None


class Memory(NamedTuple):
    """What a policy keeps from one look to the next."""

    target: int | None = None
    wish: Wish | None = None
    """None: the last look found the size right, or could not tell."""
    reporting_since_s: float = 0.0
    """When the first of the replicas that report now was heard of."""
    replicas: frozenset[str] = frozenset()
    """Those that have reported."""
    joined_at_s: float = -math.inf
    """When a replica last joined others."""
    shrunk: tuple[Shrunk, ...] = ()
    """Within the last `REGROW_S`."""


class Answer(NamedTuple):
    """What one look comes to."""

    replicas: float
    """As many as the load asks for; Serve rounds up after its factors, and applies delays and
    bounds."""
    memory: Memory
    changed: Scaled | None
    """The change of size since the last look."""


def look(pool: str, seen: Seen, aims: Aims, memory: Memory) -> Answer:
    """Say how many replicas a pool's calls ask for, and what has changed since the last look."""
    changed = _change(pool, seen, aims, memory)
    now = _observed(seen, memory, changed)
    if not now.replicas:
        # Nobody has reported yet: a host that starts is not an idle one.
        return Answer(seen.target, now, changed)
    if _unsettled(seen, aims, now):
        old = memory.wish if memory.target == seen.target else None
        return Answer(old.replicas if old else seen.target, now._replace(wish=old), changed)
    wish = _wish(seen, aims, memory, now)
    standing = None if _asks(wish.replicas) == seen.target else wish
    return Answer(wish.replicas, now._replace(wish=standing), changed)


def total_calls(calls: Iterable[Points], held: Iterable[Points]) -> list[tuple[float, float]]:
    """All of a pool's calls over time, as steps, from when every replica has reported.

    A value holds until the next one of the same replica.
    """
    calls, held = list(calls), list(held)
    begun = [points[0][0] for points in (*calls, *held) if points]
    if not begun:
        return []
    begin_s = max(begun)
    changes = sorted(
        (at_s, source, value)
        for source, points in enumerate((*calls, *held))
        for at_s, value in points
    )
    running = [0.0] * len(calls)
    waiting = [0.0] * len(held)
    ongoing = queued = 0.0
    steps: list[tuple[float, float]] = []
    for at_s, source, value in changes:
        if source < len(calls):
            ongoing += value - running[source]
            running[source] = value
        elif waiting[source - len(calls)] != value:
            waiting[source - len(calls)] = value
            queued = max(waiting)
        # What came before only says how things stood when the last one began to report.
        moment = max(at_s, begin_s)
        if steps and steps[-1][0] == moment:
            steps[-1] = (moment, ongoing + queued)
        else:
            steps.append((moment, ongoing + queued))
    return steps


def aggregated(
    steps: Points, now_s: float, period_s: float, how: Literal["mean", "max", "min"]
) -> float:
    """One number for the last `period_s` seconds of `steps`, which are not empty."""
    begin_s = max(steps[0][0], now_s - period_s)
    within = [(max(at_s, begin_s), value) for at_s, value in steps]
    # Of the steps before the window only the last one reaches into it.
    first = max(i for i, (at_s, _) in enumerate(within) if at_s == begin_s)
    within = within[first:]
    if how == "max":
        return max(value for _, value in within)
    if how == "min":
        return min(value for _, value in within)
    ends = [at_s for at_s, _ in within[1:]] + [max(now_s, within[-1][0])]
    length_s = ends[-1] - begin_s
    if length_s <= 0:  # the clock of the reporting node is ahead of this one
        return within[-1][1]
    area = sum(value * (end - at_s) for (at_s, value), end in zip(within, ends, strict=True))
    return area / length_s


def _observed(seen: Seen, memory: Memory, changed: Scaled | None) -> Memory:
    """What is remembered of who is there and who has gone."""
    shrunk = tuple(s for s in memory.shrunk if seen.now_s - s.at_s < REGROW_S)
    if changed and changed.after < changed.before:
        shrunk += (Shrunk(changed.at_s, changed.before),)
    replicas = frozenset(name for name, points in seen.calls.items() if points)
    since_s, joined_at_s = memory.reporting_since_s, memory.joined_at_s
    if not memory.replicas:
        since_s, joined_at_s = seen.now_s, -math.inf
    elif replicas - memory.replicas:
        joined_at_s = seen.now_s
    return Memory(seen.target, None, since_s, replicas, joined_at_s, shrunk)


def _unsettled(seen: Seen, aims: Aims, memory: Memory) -> bool:
    """Whether a replica joined and some other may still report calls that it has taken over."""
    settled_s = memory.joined_at_s + SETTLE_S
    latest = (points[-1][0] for points in seen.calls.values() if points)
    # One that has fallen silent is not waited for; what it said last goes on to count.
    return any(seen.now_s - aims.look_back_period_s < at_s < settled_s for at_s in latest)


def _wish(seen: Seen, aims: Aims, memory: Memory, now: Memory) -> Wish:
    """What the load asks for; `now` is the memory of this look."""
    steps = total_calls(seen.calls.values(), seen.held.values())
    period_s = min(aims.look_back_period_s, seen.now_s - now.joined_at_s - SETTLE_S)
    load = aggregated(steps, seen.now_s, period_s, aims.aggregation_function)
    replicas = _share(load, aims)
    regrown_after_s = None
    if _asks(replicas) > seen.target:
        # The look-back says that the pool shall grow. A load that is new is still far below its
        # own average there: what has lasted for the whole delay is sure, and saves further steps.
        lasting = aggregated(steps, seen.now_s, min(period_s, aims.upscale_delay_s), "min")
        if lasting > load:
            load, replicas = lasting, _share(lasting, aims)
        largest = max(now.shrunk, key=lambda s: s.before, default=None)
        if largest and largest.before >= _asks(replicas):
            if largest.before > _asks(replicas):
                regrown_after_s = seen.now_s - largest.at_s
            # All of them, also for Serve's factors: more calls never ask for less.
            replicas = float(largest.before)
    elif seen.now_s - now.reporting_since_s < aims.look_back_period_s:
        # The first reports are older than the calls that the replica was started for.
        replicas = max(replicas, min(1.0, seen.target))
    old = memory.wish if memory.target == seen.target else None
    grows = _asks(replicas) > seen.target
    same = old is not None and (_asks(old.replicas) > seen.target) == grows
    since_s = old.since_s if old and same else seen.now_s
    return Wish(load, replicas, since_s, seen.now_s, regrown_after_s)


def _share(load: float, aims: Aims) -> float:
    return round(load / aims.target_ongoing_requests, _STEP_DIGITS)


def _asks(replicas: float) -> int:
    return math.ceil(replicas)


def _change(pool: str, seen: Seen, aims: Aims, memory: Memory) -> Scaled | None:
    before, after = memory.target, seen.target
    if before is None or before == after:
        return None
    wish = memory.wish
    if wish is None or (_asks(wish.replicas) > before) != (after > before):
        at_s = seen.scaled_up_at_s if before == 0 and seen.scaled_up_at_s else seen.now_s
        return Scaled(pool, at_s, before, after)
    delay, delay_s = _delay(before, after, aims)
    own = math.ceil(_share(wish.load, aims))
    return Scaled(
        pool,
        wish.looked_at_s,
        before,
        after,
        load=wish.load,
        target=aims.target_ongoing_requests,
        wanted=own,
        waited_s=wish.looked_at_s - wish.since_s,
        delay=delay,
        delay_s=delay_s,
        limit=_limit(_asks(wish.replicas), after, aims),
        regrown_after_s=wish.regrown_after_s,
    )


def _delay(before: int, after: int, aims: Aims) -> tuple[str, float]:
    if after > before:
        return "upscale_delay_s", aims.upscale_delay_s
    if before == 1 and aims.downscale_to_zero_delay_s is not None:
        return "downscale_to_zero_delay_s", aims.downscale_to_zero_delay_s
    return "downscale_delay_s", aims.downscale_delay_s


def _limit(wanted: int, after: int, aims: Aims) -> str:
    if after == aims.max_replicas < wanted:
        return f"max_replicas {aims.max_replicas}"
    if after == aims.min_replicas > wanted:
        return f"min_replicas {aims.min_replicas}"
    return ""
