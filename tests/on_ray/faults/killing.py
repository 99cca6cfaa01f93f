"""One process dies under load: which one, what that may cost, and what it did cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.on_ray.faults.history import (
    AFTER_KILL_S,
    Fault,
    Operation,
    Outcome,
    complaints,
    longest_gap_s,
)
from tests.on_ray.faults.hurt_cluster import HurtCluster, kill
from tests.on_ray.faults.load import calling, until

REGISTRY = "ray::RegistryActor"
WHOLE_S = 10.0
"""After this the service is whole again: every client answered, as many processes as before."""
GIVE_UP_S = 60.0
"""Longest wait for that."""
FRONT_OUTAGE_S = 8.0
"""Longest time without a front door."""
AFTERWARDS = 10
"""Right answers that each client must get once all is whole."""


class Victim(NamedTuple):
    """What dies, and what that may cost."""

    name: str
    pids: Callable[[HurtCluster], set[int]]
    """The processes that do this work now."""
    allowed: frozenset[Outcome] = frozenset()
    """How calls may fail."""
    each: int | None = 0
    """Calls that one client may lose; None: all that begin while it is felt."""


class FrontDoor(Victim):
    """HAProxy: there is one, and while there is none nobody is answered."""


VICTIMS = {
    victim.name: victim
    for victim in (
        Victim("registry", lambda hurt: hurt.named(REGISTRY)),
        Victim("tool host", lambda hurt: hurt.pids("effects"), frozenset({"told"}), each=1),
        # HAProxy says nothing, and closes, where the client's connection has had an answer before:
        # such a client can tell that it must decide itself whether to send the call again.
        Victim("gateway", lambda hurt: hurt.pids("gateway"), frozenset({"front", "cut"}), each=1),
        FrontDoor(
            "front door", lambda hurt: hurt.named("haproxy"), frozenset({"cut", "front"}), each=None
        ),
    )
}


class Round(NamedTuple):
    """What a death came to."""

    operations: list[Operation]
    fault: Fault
    whole_s: float
    """Seconds until there were as many processes as before."""
    starved_s: float
    """Of these, how long the new process waited for a CPU: what a busy machine adds."""
    complaints: list[str]

    @property
    def answered_s(self) -> float:
        """Seconds until every client had a right answer again."""
        return longest_gap_s(self.operations, self.fault)

    def __str__(self) -> str:
        failed = [o for o in self.operations if o.outcome != "right"]
        kinds = Counter(f"{o.outcome} {o.detail}" for o in failed)
        latest_s = max((o.began_s for o in failed), default=self.fault.at_s) - self.fault.at_s
        slowest = max(self.operations, key=lambda o: o.took_s)
        return (
            f"{len(self.operations)} calls, {len(failed)} failed {dict(kinds) or ''}"
            f" (the last begun {latest_s:+.3f} s from the kill),"
            f" all clients answered again after {self.answered_s:.2f} s,"
            f" slowest call {slowest.took_s:.2f} s, whole after {self.whole_s:.1f} s,"
            f" of which the new process waited {self.starved_s:.1f} s for a CPU"
        )


async def kill_under_load(hurt: HurtCluster, victim: Victim) -> Round:
    """Kill while the clients call, until all is whole and every client was answered again."""
    before = victim.pids(hurt)
    fronts = hurt.fronts()
    is_front = isinstance(victim, FrontDoor)
    # After a reload an older HAProxy goes on until it has answered what it took.
    dying = before if is_front else {min(before)}

    def is_whole() -> bool:
        if is_front:
            return bool(hurt.fronts() - fronts)
        return len(victim.pids(hurt) - dying) == len(before)

    async with calling(hurt.front(), "effect") as load:
        fault = Fault(
            time.monotonic(),
            victim.allowed,
            felt_s=FRONT_OUTAGE_S if is_front else AFTER_KILL_S,
            each=victim.each,
        )
        kill(*dying)
        whole_s = await until(is_whole, GIVE_UP_S) - fault.at_s
        starved_s = max(map(_starved_s, victim.pids(hurt) - before), default=0.0)
        await load.each_answered(AFTERWARDS)
    found = complaints(load.operations, hurt.effects_of(load), fault)
    done = Round(load.operations, fault, whole_s, starved_s, found)
    if whole_s > WHOLE_S:
        found.append(f"whole only after {whole_s:.1f} s")
    if done.answered_s > (FRONT_OUTAGE_S if is_front else WHOLE_S):
        found.append(f"answered again only after {done.answered_s:.1f} s")
    return done


def _starved_s(pid: int) -> float:
    """Seconds that the main thread of a process was ready to run and had no CPU."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0
