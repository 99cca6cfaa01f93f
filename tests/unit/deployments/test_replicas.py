"""Which replica a call goes to, and what becomes of it when one fails or says nothing."""

import pytest

from tests.fakes import FakeClock
from thornback.cluster.messages import HostState
from thornback.deployments.replicas import (
    Fate,
    Fault,
    Replica,
    State,
    choose,
    fate_after_fault,
    fate_when_late,
)


def replica(
    name: str,
    running: int = 0,
    slots: int = 4,
    node: str = "here",
    clock: FakeClock | None = None,
    busy_s: float = 0.0,
) -> Replica:
    now = (clock or FakeClock()).monotonic
    return Replica(HostState(name, node, slots, slots - running, running), now, busy_s)


def chosen(*replicas: Replica) -> str | None:
    best = choose(replicas, "here")
    return None if best is None else best.replica_id


def test_a_call_goes_where_there_are_the_fewest_calls_for_each_slot() -> None:
    assert chosen(replica("small", 1, 2), replica("large", 3, 16)) == "large"


def test_calls_on_the_way_count_as_calls_there() -> None:
    busy = replica("busy")
    busy.took(2)
    assert chosen(busy, replica("idle", 1)) == "idle"


def test_of_equals_the_one_on_this_node_is_first() -> None:
    assert chosen(replica("far", node="there"), replica("near")) == "near"
    assert chosen(replica("far", node="there"), replica("near", 1)) == "far"


def test_of_equals_on_one_node_the_one_that_has_worked_least_is_first() -> None:
    clock = FakeClock()
    long, short = replica("long", clock=clock), replica("short", clock=clock)
    for one, work_s in ((short, 0.005), (long, 0.5), (short, 0.005)):
        one.took(1)
        clock.advance(work_s)
        one.took(-1)
    short.chosen = 1  # the latest
    assert chosen(long, short) == "short"
    assert long.busy_s == pytest.approx(0.5)
    assert chosen(replica("new", busy_s=short.busy_s), short) == "new"


def test_of_equals_on_one_node_the_one_that_had_to_wait_longest_is_first() -> None:
    first, second = replica("first"), replica("second")
    first.chosen = 2
    second.chosen = 1
    assert chosen(first, second) == "second"


def test_a_replica_without_room_or_on_probation_is_given_nothing() -> None:
    full, silent = replica("full", 4), replica("silent")
    silent.on_probation = True
    assert chosen(full, silent) is None


def test_a_replica_that_reports_is_on_probation_no_more() -> None:
    silent = replica("silent")
    silent.on_probation = True
    silent.hear(silent.state)
    assert chosen(silent) == "silent"


@pytest.mark.parametrize(
    ("state", "fault", "fate"),
    [
        ("queued", "lost", "elsewhere"),
        ("queued", "refused", "elsewhere"),
        ("sent", "refused", "elsewhere"),
        ("sent", "lost", "lost"),
        ("acknowledged", "lost", "lost"),
        ("acknowledged", "refused", "lost"),
    ],
)
def test_what_the_death_of_a_replica_means_for_a_call(
    state: State, fault: Fault, fate: Fate
) -> None:
    assert fate_after_fault(state, fault) == fate


@pytest.mark.parametrize(
    ("state", "repeatable", "others", "fate"),
    [
        ("queued", False, False, "elsewhere"),
        ("sent", True, True, "lost"),
        ("sent", True, False, "wait"),
        ("sent", False, True, "wait"),
        ("acknowledged", True, True, "wait"),
    ],
)
def test_what_the_silence_of_a_replica_means_for_a_call(
    state: State, repeatable: bool, others: bool, fate: Fate
) -> None:
    assert fate_when_late(state, repeatable=repeatable, others=others) == fate
