"""Retry only what is safe to repeat, while there is time for it."""

import pytest

from thornback.cluster.errors import (
    NoReplica,
    Overloaded,
    PoolBroken,
    PoolBusy,
    PoolInfeasible,
    ReplicaLost,
    Unavailable,
)
from thornback.cluster.policies import (
    GiveUp,
    Retry,
    Verdict,
    may_have_run,
    retry_verdict,
)

LOST = ReplicaLost("sql", "sql_query")
NEVER_STARTED = [
    Overloaded("sql", 1.0),
    PoolBusy("sql", 1.0),
    NoReplica("sql", "starting", 1.0),
    PoolInfeasible("sql", "1 GPU", "0 GPU"),
    PoolBroken("sql", "mine", "ImportError: x"),
]


def verdict(
    failure: Unavailable = LOST,
    repeatable: bool = True,
    attempts: int = 1,
    remaining_s: float = 10.0,
) -> Verdict:
    return retry_verdict(
        failure,
        repeatable=repeatable,
        attempts=attempts,
        max_attempts=2,
        remaining_s=remaining_s,
    )


def test_a_repeatable_call_whose_replica_died_is_sent_again() -> None:
    assert isinstance(verdict(), Retry)


def test_a_call_that_may_have_taken_effect_is_not_repeated() -> None:
    assert verdict(repeatable=False) == GiveUp("not repeatable")


def test_attempts_are_bounded_by_the_policy_of_the_tool() -> None:
    assert verdict(attempts=2) == GiveUp("attempts used up")


def test_an_attempt_that_could_only_time_out_is_not_made() -> None:
    assert verdict(remaining_s=0.1) == GiveUp("no time left")


@pytest.mark.parametrize("failure", NEVER_STARTED, ids=lambda f: f.code)
def test_what_would_fail_again_is_answered_at_once(failure: Unavailable) -> None:
    assert verdict(failure) == GiveUp("would fail again")


def test_only_a_lost_replica_leaves_doubt_whether_the_tool_ran() -> None:
    assert may_have_run(LOST)
    assert not any(may_have_run(failure) for failure in NEVER_STARTED)


def test_each_further_attempt_waits_longer() -> None:
    pauses = [
        retry_verdict(LOST, repeatable=True, attempts=n, max_attempts=9, remaining_s=60.0)
        for n in (1, 2, 3)
    ]
    assert pauses == [Retry(0.05), Retry(0.1), Retry(0.2)]
