import math

import pytest

from benchmarks.clients import Call
from benchmarks.counters import calls_in, grown
from benchmarks.crowds import busy, parted, running_in, share_s, spread
from benchmarks.scaling import PERIOD_S, decisions_up, ideal_replica_s, wave
from benchmarks.streaming import StreamCheck
from benchmarks.watching import at_once, changes, integral, mean, within

SEEN = [(0.0, 1.0), (10.0, 2.0), (11.0, 4.0), (40.0, 1.0)]


def call(pid: int, began_s: float, ended_s: float) -> Call:
    return Call(began_s, ended_s, pid, 1, began_s, ended_s)


def test_replica_seconds_are_the_area_under_the_steps() -> None:
    assert integral(SEEN) == 1 * 10 + 2 * 1 + 4 * 29
    assert mean([(0.0, 1.0), (5.0, 3.0), (10.0, 3.0)]) == 2


def test_replicas_that_come_one_after_the_other_are_one_change() -> None:
    assert changes(SEEN) == [(10.0, 1, 4), (40.0, 4, 1)]
    assert changes(SEEN, together_s=0.5) == [(10.0, 1, 2), (11.0, 2, 4), (40.0, 4, 1)]


def test_what_goes_up_and_down_at_once_is_two_changes() -> None:
    assert len(changes([(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)])) == 2


def test_what_is_seen_for_a_moment_is_no_change() -> None:
    assert changes([(0.0, 4.0), (5.0, 3.0), (5.3, 4.0), (20.0, 4.0)]) == []
    down = [(0.0, 4.0), (10.0, 2.0), (10.3, 3.0), (10.6, 2.0), (20.0, 2.0)]
    assert [change[1:] for change in changes(down)] == [(4, 2)]


def test_a_window_begins_with_what_held_before_it() -> None:
    assert within(SEEN, 5.0, 10.5) == [(5.0, 1.0), (10.0, 2.0), (10.5, 2.0)]


def test_intervals_are_counted_where_they_overlap() -> None:
    assert at_once([(0.0, 2.0), (1.0, 3.0)]) == [(0.0, 1.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]


def test_a_replica_that_never_ran_a_call_spoils_the_shares() -> None:
    found = busy([call(1, 0.0, 0.5), call(1, 0.0, 0.5)], replicas=[1, 2])
    assert found == {1: 1.0, 2: 0.0}
    assert spread(found.values()) == 1.0
    assert spread([0.8, 1.0]) == 1 - 0.8


def test_a_new_replica_has_its_share_when_it_runs_as_much_as_the_others() -> None:
    old = [call(1, 0.0, 10.0), call(1, 0.0, 10.0)]
    new = [call(2, 5.0, 10.0), call(2, 6.0, 10.0)]
    seen = running_in([*old, *new], before={1})
    assert seen == (
        [(0.0, 1.0), (0.0, 2.0), (10.0, 1.0), (10.0, 0.0)],
        [(5.0, 1.0), (6.0, 2.0), (10.0, 1.0), (10.0, 0.0)],
    )
    assert share_s(*seen, before=1, replicas=2) == 6.0


def test_a_new_replica_that_never_has_its_share_has_it_after_infinite_time() -> None:
    old = [call(1, 0.0, 10.0)] * 4
    assert share_s(*running_in([*old, call(2, 5.0, 9.0)], {1}), before=1, replicas=2) == math.inf
    assert share_s(*running_in(old, {1}), before=1, replicas=2) == math.inf


def test_only_what_the_stopped_one_had_begun_may_wait() -> None:
    had, late, elsewhere = call(1, 0.0, 9.0), call(1, 8.0, 9.0), call(2, 0.0, 9.0)
    assert parted([had, late, elsewhere], victim=1, stopped_s=5.0) == ([had], [late, elsewhere])


def test_a_wave_begins_at_one_and_is_at_its_crest_after_half_a_period() -> None:
    assert [wave(s, 32) for s in (0.0, PERIOD_S / 2, PERIOD_S)] == [1, 32, 1]


@pytest.mark.parametrize(("clients", "replicas"), [(0, 1), (9, 2), (99, 4)])
def test_an_ideal_pool_has_whole_replicas_within_its_bounds(clients: int, replicas: int) -> None:
    found = ideal_replica_s(lambda since_s: clients, 10, target=8, most=4)
    assert found == pytest.approx(10 * replicas)


def test_growing_beyond_the_first_replicas_is_a_decision_up() -> None:
    facts = [(5.0, 1, 3), (10.0, 0, 1), (11.0, 1, 4), (30.0, 4, 2)]
    found = [
        {"text": f"{a}→{b}", "facts": {"at_s": at_s, "before": a, "after": b}}
        for at_s, a, b in facts
    ]
    assert decisions_up({"pools": {"work": {"decisions": found}}}, "work", 10.0) == ["1→4"]


def test_metrics_of_a_gateway_that_ended_do_not_count() -> None:
    text = (
        'ray_thornback_calls_total{WorkerId="b",tool="echo",outcome="ok"} 7.0\n'
        'ray_thornback_calls_total{WorkerId="b",tool="echo",outcome="error"} 1.0\n'
        'ray_thornback_calls_total{WorkerId="b",tool="other",outcome="ok"} 5.0\n'
    )
    assert calls_in(text, "echo") == {"b": 8.0}
    assert grown({"a": 100.0, "b": 3.0}, calls_in(text, "echo")) == 5.0


def test_a_stream_is_checked_piece_by_piece() -> None:
    check = StreamCheck("ab.")
    said = b'data: {"message":"ab.0"}\n\ndata: {"message":"ab.1"}\n\ndata: {"isError":false}\n\n'
    for at in range(len(said)):
        check.take(said[at : at + 1])
    assert (check.items, check.is_whole) == (2, True)


def test_an_item_out_of_order_is_not_counted() -> None:
    check = StreamCheck("ab.")
    check.take(b'data: {"message":"ab.1"}\n\ndata: {"message":"ab.0"}\n\n')
    assert (check.items, check.is_whole) == (1, False)
