"""What a replica runs and for which gateway, and how much more each gateway may send it.

Counts calls, never messages. Pure bookkeeping: it reads the clock that it is given, starts nothing
and tells nobody. Gateways do not know of each other; where several want the same few slots, the
shares that are worked out here keep the first of them from taking every slot that falls free.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import NamedTuple

from thornback.deployments.clock import Clock

SILENCE_S = 3.0
"""Seconds after which a gateway that says nothing is taken to hold no calls: three heartbeats."""


class Load(NamedTuple):
    """What a replica has to do, for a policy that decides how many replicas there shall be."""

    running: float
    """Slots in use here, on average since the load was told last: calls that came together also end
    together, and what is in use at one moment says little of the next."""
    held: dict[str, int]
    """Calls that wait for the pool in each gateway, by its name. Every replica of the pool is told
    the same number, so that it counts once for the pool."""


class Wish(NamedTuple):
    """A gateway that would send calls."""

    running: int
    """Calls of it that run here."""
    served: int
    """Grows with each call that was admitted: of two gateways, who was served last has more."""
    held: int
    """Calls that it would send."""


class CallBook:
    """The calls of one replica."""

    def __init__(self, clock: Clock, slots: int) -> None:
        self.slots = slots
        """Calls that may run at a time."""
        self._strays = 0
        self._clock = clock
        self._running: dict[str, int] = {}
        """Calls that run, by gateway."""
        self._held: dict[str, tuple[int, float]] = {}
        """Calls that wait in each gateway, and when it said so."""
        self._served: dict[str, int] = {}
        self._admitted = 0
        self._total = 0
        self._told_at = self._summed_at = clock.monotonic()
        """When the load was told last, and until when slot seconds are summed since."""
        self._slot_s = 0.0

    @property
    def in_use(self) -> int:
        """Slots in use."""
        return self._total + self._strays

    def hear(self, gateway: str, held: int) -> None:
        """A gateway said how many calls wait in it."""
        if held:
            self._held[gateway] = (held, self._clock.monotonic())
        else:
            self._held.pop(gateway, None)
            self._forget(gateway)

    def admit(self, gateway: str) -> bool:
        """Take a slot, if there is one."""
        if self.in_use >= self.slots:
            return False
        now = self._sum()
        if not self._admitted:  # before its first call a replica was not idle, it was not asked
            self._told_at = now
        self._total += 1
        self._admitted += 1
        self._running[gateway] = self._running.get(gateway, 0) + 1
        self._served[gateway] = self._admitted
        return True

    def done(self, gateway: str) -> None:
        """A call that was admitted is over."""
        self._sum()
        self._total -= 1
        self._running[gateway] -= 1
        if not self._running[gateway]:
            del self._running[gateway]
            self._forget(gateway)

    def stray(self, threads: int) -> None:
        """So many slots are taken from now on by threads that outlived their calls."""
        if threads != self._strays:
            self._sum()
            self._strays = threads

    def free_for(self, gateway: str) -> int:
        """Calls that a gateway may send now."""
        free = max(0, self.slots - self.in_use)
        if not free or self._held.keys() <= {gateway}:
            return free
        wishes = {name: self._wish(name, held) for name, held in self._waiting().items()}
        wishes[gateway] = self._wish(gateway, free)
        return shares(free, wishes)[gateway]

    def load(self) -> Load:
        """What there was to do since this was asked last."""
        now = self._sum()
        seconds, slot_s = now - self._told_at, self._slot_s
        self._told_at, self._slot_s = now, 0.0
        return Load(slot_s / seconds if seconds > 0 else self.in_use, self._waiting())

    def _sum(self) -> float:
        """Sum slot seconds until now, before something changes; gives the moment."""
        now = self._clock.monotonic()
        self._slot_s += self.in_use * (now - self._summed_at)
        self._summed_at = now
        return now

    def _forget(self, gateway: str) -> None:
        if gateway not in self._running and gateway not in self._held:
            self._served.pop(gateway, None)

    def _wish(self, gateway: str, held: int) -> Wish:
        return Wish(self._running.get(gateway, 0), self._served.get(gateway, 0), held)

    def _waiting(self) -> dict[str, int]:
        silent_since = self._clock.monotonic() - SILENCE_S
        for name in [n for n, (_, at) in self._held.items() if at < silent_since]:
            del self._held[name]
            self._forget(name)
        return {name: held for name, (held, _) in self._held.items()}


def shares(free: int, wishes: Mapping[str, Wish]) -> dict[str, int]:
    """How free slots are shared among gateways that would send calls.

    One slot at a time to whoever runs the fewest calls; of equals, to whoever was served longest
    ago. Nobody is given more than it holds.
    """
    given = dict.fromkeys(wishes, 0)
    turns = [(wish.running, wish.served, name) for name, wish in wishes.items() if wish.held]
    heapq.heapify(turns)
    while free and turns:
        running, served, name = heapq.heappop(turns)
        given[name] += 1
        free -= 1
        if given[name] < wishes[name].held:
            heapq.heappush(turns, (running + 1, served, name))
    return given
