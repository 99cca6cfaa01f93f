"""What is seen of a server's replicas while it is under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from benchmarks.servers import Server

EVERY_S = 0.25
TOGETHER_S = 5.0
"""Replicas that come or go within so many seconds of each other, in one direction, are one change:
their processes start one after the other."""
LASTING_S = 1.0
"""What is seen for less does not count: a process that starts or ends goes by other names for a
moment, and a replica of Serve's has not come and gone in that time."""

Seen = list[tuple[float, float]]
"""Moments, and a figure at each; it holds until the next."""


class Watch:
    """Looks at something again and again, in a thread."""

    def __init__(self) -> None:
        self.replicas: Seen = []
        """How many there were, at moments of `time.monotonic`."""

    def look(self, server: Server) -> None:
        self.replicas.append((time.monotonic(), float(len(server.replicas()))))


@contextmanager
def watching(server: Server) -> Iterator[Watch]:
    """Watch a server's replicas while the block runs."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.wait(EVERY_S):
            watch.look(server)

    watch.look(server)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.look(server)


def integral(seen: Seen) -> float:
    """The area under steps: of replicas at moments, replica-seconds."""
    return sum(value * (until - since) for (since, value), (until, _) in pairwise(seen))


def changes(seen: Seen, together_s: float = TOGETHER_S) -> list[tuple[float, int, int]]:
    """The changes of a figure: when each began, from what and to what it went."""
    found: list[tuple[float, int, int]] = []
    last_s = float("-inf")
    for (_, before), (now_s, after) in pairwise(_lasting(seen)):
        if after == before:
            continue
        goes_on = (
            found
            and now_s - last_s <= together_s
            and (after > before) == (found[-1][2] > found[-1][1])
        )
        if goes_on:
            found[-1] = (found[-1][0], found[-1][1], int(after))
        else:
            found.append((now_s, int(before), int(after)))
        last_s = now_s
    return found


def _lasting(seen: Seen) -> Seen:
    """The steps of a figure, without those that are over at once."""
    steps = seen[:1] + [now for before, now in pairwise(seen) if now[1] != before[1]]
    ends_s = [since for since, _ in steps[1:]] + [seen[-1][0] if seen else 0.0]
    last = len(steps) - 1
    return [
        step
        for place, (step, end_s) in enumerate(zip(steps, ends_s, strict=True))
        if place == last or end_s - step[0] >= LASTING_S
    ]


def within(seen: Seen, from_s: float, until_s: float) -> Seen:
    """The steps between two moments, with one at each end."""
    before = [value for moment, value in seen if moment <= from_s]
    inside = [(moment, value) for moment, value in seen if from_s < moment < until_s]
    first = before[-1] if before else (inside[0][1] if inside else 0.0)
    return [(from_s, first), *inside, (until_s, inside[-1][1] if inside else first)]


def mean(seen: Seen) -> float:
    """The mean over time."""
    return integral(seen) / (seen[-1][0] - seen[0][0])


def at_once(intervals: Sequence[tuple[float, float]]) -> Seen:
    """How many of these intervals there are, at each moment when that changes."""
    edges = sorted([(since, 1) for since, _ in intervals] + [(until, -1) for _, until in intervals])
    seen: Seen = []
    number = 0
    for moment, step in edges:
        number += step
        seen.append((moment, float(number)))
    return seen
