"""Which replica a call goes to, and what it means when one does not answer: decisions, no I/O.

Loads are counted in calls and taken from the replicas' own reports, so that the calls of other
gateways are in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from thornback.cluster.messages import HostState

State = Literal["queued", "sent", "acknowledged", "done"]
Fault = Literal["refused", "lost"]
"""How a send failed: nobody took it, or the replica that may have taken it is gone."""
Fate = Literal["elsewhere", "lost", "wait"]
"""What becomes of a call: it goes to another replica, fails as `ReplicaLost`, or waits on."""


class Replica:
    """What a gateway knows of one replica."""

    def __init__(self, state: HostState, now: Callable[[], float], busy_s: float = 0.0) -> None:
        """
        Args:
            now: Seconds on a clock that never goes back.
            busy_s: What it is taken to have worked before it was known.
        """
        self.replica_id = state.replica_id
        self.node_id = state.node_id
        self.state = state
        """Its latest report."""
        self._now = now
        self._calls = 0
        self._busy_s = busy_s
        self._since_s = now()
        self.on_the_way = 0
        """Those of them that it has neither admitted nor refused."""
        self.on_probation = False
        """Whether it left a send unanswered and has not been heard of since."""
        self.chosen = 0
        """Grows with each choice: when it was last given a call."""

    @property
    def calls(self) -> int:
        """Calls of this gateway that it was given and that are not over."""
        return self._calls

    @calls.setter
    def calls(self, calls: int) -> None:
        now_s = self._now()
        self._busy_s += self._calls * (now_s - self._since_s)
        self._calls, self._since_s = calls, now_s

    @property
    def busy_s(self) -> float:
        """Seconds that this gateway's calls took there until the last of them came or went, added
        up also where they ran side by side."""
        return self._busy_s

    def took(self, calls: int) -> None:
        """It was given calls; a negative number: they were taken back."""
        self.calls += calls
        self.on_the_way += calls

    def hear(self, state: HostState) -> None:
        """It reported, and so it is well."""
        self.state = state
        self.on_probation = False

    @property
    def room(self) -> int:
        """Calls that it can still be given."""
        return self.state.free - self.on_the_way

    @property
    def load(self) -> float:
        """Calls there and on the way, for each slot."""
        return (self.state.running + self.on_the_way) / max(1, self.state.slots)


def choose(replicas: Iterable[Replica], node_id: str) -> Replica | None:
    """The replica that the next call goes to; None where none has room.

    The one with the fewest calls for each slot; of equals one on this node; of those the one that
    has worked least, so that long calls among short ones do not all meet the same; of those the one
    that was chosen longest ago.

    Args:
        node_id: The node of this gateway.
    """
    best: Replica | None = None
    for replica in replicas:
        if replica.on_probation or replica.room <= 0:
            continue
        if best is None or _order(replica, node_id) < _order(best, node_id):
            best = replica
    return best


def _order(replica: Replica, node_id: str) -> tuple[float, bool, float, int]:
    return replica.load, replica.node_id != node_id, replica.busy_s, replica.chosen


def fate_after_fault(state: State, fault: Fault) -> Fate:
    """What becomes of a call when the stream that carried it failed.

    A call that is still queued goes elsewhere. One that was sent counts as acknowledged, because
    its effects may have begun before the replica died, unless nobody took the send at all.
    """
    if state == "queued" or (state == "sent" and fault == "refused"):
        return "elsewhere"
    return "lost"


def fate_when_late(state: State, *, repeatable: bool, others: bool) -> Fate:
    """What becomes of a call whose send was not answered within the acknowledgement timeout.

    Args:
        repeatable: Whether running the call twice is as good as once.
        others: Whether another replica could run it.
    """
    if state == "queued":
        return "elsewhere"
    # The replica may only be slow, and run the call yet: one that must not run twice waits for it.
    return "lost" if state == "sent" and repeatable and others else "wait"
