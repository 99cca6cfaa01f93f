"""Decisions of the routing engine, as pure functions: facts in, verdict out.

No clock, no I/O and no state; `deployments/routing.py` does what is decided here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from thornback.cluster.errors import ReplicaLost, Unavailable

RETRY_PAUSE_S = 0.05
"""Pause before the second attempt; it doubles with each further one."""
MIN_REMAINING_S = 0.1
"""An attempt with less time than this would only end in a timeout."""


class Retry(msgspec.Struct, frozen=True):
    """Send the call again after `pause_s` seconds."""

    pause_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """Answer with the failure of the last attempt."""

    why: Literal["not repeatable", "attempts used up", "no time left", "would fail again"]


Verdict = Retry | GiveUp


def may_have_run(failure: Unavailable) -> bool:
    """Whether the tool may have taken effect although the call failed.

    A host that died after it was sent the call may have run it (`ReplicaLost`); every other
    `Unavailable` is raised before a host admits the call.
    """
    return isinstance(failure, ReplicaLost)


def retry_verdict(
    failure: Unavailable,
    *,
    repeatable: bool,
    attempts: int,
    max_attempts: int,
    remaining_s: float,
) -> Verdict:
    """Whether a call whose attempt ended in `failure` may be sent again.

    Args:
        failure: What the last attempt ended in.
        repeatable: Whether running the tool twice is as good as once.
        attempts: Attempts made, the failed one included: 1, 2, ...
        max_attempts: Attempts that the tool's call policy allows.
        remaining_s: Seconds until the call's deadline.
    """
    if not may_have_run(failure):
        # Infeasible, broken, no replica or no room before the deadline, a full queue: the same
        # question now gets the same answer.
        return GiveUp("would fail again")
    if not repeatable:
        return GiveUp("not repeatable")
    if attempts >= max_attempts:
        return GiveUp("attempts used up")
    pause_s = RETRY_PAUSE_S * 2.0 ** (attempts - 1)
    if remaining_s - pause_s < MIN_REMAINING_S:
        return GiveUp("no time left")
    return Retry(pause_s)
