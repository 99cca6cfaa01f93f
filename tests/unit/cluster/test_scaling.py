import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thornback.cluster.scaling import (
    Aims,
    Memory,
    Scaled,
    Seen,
    Shrunk,
    aggregated,
    look,
    total_calls,
)

AIMS = Aims(
    target_ongoing_requests=8,
    look_back_period_s=4,
    aggregation_function="mean",
    upscale_delay_s=1,
    downscale_delay_s=30,
    downscale_to_zero_delay_s=None,
    min_replicas=0,
    max_replicas=10,
)
LONG_AGO = Memory(target=2, reporting_since_s=-100, replicas=frozenset("abcd"))
POINTS = st.lists(
    st.tuples(st.floats(0, 10), st.integers(0, 1000).map(float)), min_size=1, max_size=6
).map(sorted)


def seen(*calls: float, held: float = 0, target: int = 2, now_s: float = 4) -> Seen:
    """Replicas that report the same since four seconds."""
    points = {name: [(now_s - 4, value)] for name, value in zip("abcd", calls, strict=False)}
    return Seen(now_s, target, points, {name: [(now_s - 4, held)] for name in points})


def test_as_many_replicas_as_have_room_for_what_runs_and_waits() -> None:
    assert look("text", seen(8, 9, held=20), AIMS, LONG_AGO).replicas == 37 / 8


def test_what_gateways_hold_counts_once_however_many_hosts_report_it() -> None:
    assert total_calls([[(0, 1)], [(0, 1)]], [[(0, 5)], [(0, 7)]]) == [(0, 9)]


def test_a_value_counts_until_the_next_one_and_from_when_all_have_reported() -> None:
    first, second = [(0.0, 4.0), (2.0, 6.0)], [(1.0, 10.0), (3.0, 0.0)]
    assert total_calls([first, second], []) == [(1.0, 14.0), (2.0, 16.0), (3.0, 6.0)]


def test_the_mean_weighs_a_value_by_how_long_it_held() -> None:
    assert aggregated([(0, 10), (3, 50)], 4, 4, "mean") == 20


@pytest.mark.parametrize(("how", "number"), [("mean", 14), ("max", 20), ("min", 2)])
def test_a_window_begins_with_the_value_that_held_then(how: str, number: float) -> None:
    steps = [(0.0, 99.0), (1.0, 20.0), (4.0, 2.0), (5.0, 14.0)]
    window: float = aggregated(steps, 6, 4, how)  # type: ignore[arg-type]
    assert window == number


def test_a_report_from_a_clock_that_is_ahead_counts_as_now() -> None:
    assert aggregated([(10, 3)], 4, 4, "mean") == 3


def test_a_pool_without_reports_keeps_its_size() -> None:
    answer = look("text", Seen(4, 3, {}, {}), AIMS, LONG_AGO)
    assert (answer.replicas, answer.memory.wish) == (3, None)


def test_a_replica_that_was_just_started_is_not_taken_for_an_idle_one() -> None:
    fresh = look("text", seen(0, target=1), AIMS, Memory(1))
    assert fresh.replicas == 1
    assert look("text", seen(0, target=1, now_s=9), AIMS, fresh.memory).replicas == 0


def test_a_load_that_is_new_is_taken_at_what_lasted_for_the_whole_delay() -> None:
    risen = Seen(4, 1, {"a": [(0, 1), (2.5, 64)]}, {})
    assert look("text", risen, AIMS, LONG_AGO).replicas == 64 / 8
    spiked = Seen(4, 1, {"a": [(0, 1), (2.5, 64), (3.5, 12)]}, {})
    assert look("text", spiked, AIMS, LONG_AGO).replicas == (2.5 + 64 + 6) / 4 / 8


def test_calls_that_a_new_replica_took_over_do_not_count_twice() -> None:
    stale = {"a": [(6.0, 16.0)], "b": [(8.0, 8.0)]}
    joined = look("text", Seen(8.2, 2, stale, {}), AIMS, LONG_AGO._replace(replicas=frozenset("a")))
    assert joined.replicas == 2
    half_told = {"a": [(6.0, 16.0), (10.1, 8.0)], "b": [(8.0, 8.0)]}
    assert look("text", Seen(10.3, 2, half_told, {}), AIMS, joined.memory).replicas == 2
    told = {"a": [(6.0, 16.0), (10.1, 8.0), (11, 9.0)], "b": [(8.0, 8.0), (10.5, 8.0)]}
    assert look("text", Seen(12, 2, told, {}), AIMS, joined.memory).replicas == 17 / 8


def test_a_replica_that_fell_silent_counts_with_what_it_said_last() -> None:
    silent = {"a": [(1.0, 16.0)], "b": [(8.0, 8.0), (11.0, 8.0)]}
    memory = LONG_AGO._replace(joined_at_s=8)
    assert look("text", Seen(12, 2, silent, {}), AIMS, memory).replicas == 3


def test_a_pool_that_grows_soon_after_it_shrank_takes_back_its_size() -> None:
    shrunk = LONG_AGO._replace(target=1, shrunk=(Shrunk(-30, 6), Shrunk(-10, 3)))
    assert look("text", seen(9, target=1), AIMS, shrunk).replicas == 6
    assert look("text", seen(9, target=1, now_s=29), AIMS, shrunk).replicas == 6
    assert look("text", seen(9, target=1, now_s=31), AIMS, shrunk).replicas == 3
    assert look("text", seen(8, target=1), AIMS, shrunk).replicas == 1


def test_a_change_is_told_with_the_facts_of_the_look_that_led_to_it() -> None:
    first = look("text", seen(17, 20), AIMS, LONG_AGO)
    second = look("text", seen(17, 20, now_s=5), AIMS, first.memory)
    after = look("text", seen(17, 20, target=5, now_s=5.1), AIMS, second.memory)
    assert after.changed is not None
    assert (after.changed.at_s, after.changed.load) == (5, 37)
    assert str(after.changed) == (
        "text 2→5: 37 running + queued, target 8; waited 1.0 s of upscale_delay_s 1"
    )
    assert first.changed is None
    assert look("text", seen(17, 20, target=5, now_s=5.2), AIMS, after.memory).changed is None


@pytest.mark.parametrize(
    ("aims", "before", "calls", "after", "sentence"),
    [
        (AIMS._replace(max_replicas=3), 2, [37], 3,
         "text 2→3: 37 running + queued, target 8, which asks for 5 (max_replicas 3); "
         "waited 2.0 s of upscale_delay_s 1"),
        (AIMS._replace(min_replicas=2), 5, [3], 2,
         "text 5→2: 3 running + queued, target 8, which asks for 1 (min_replicas 2); "
         "waited 2.0 s of downscale_delay_s 30"),
        (AIMS, 2, [37], 3,
         "text 2→3: 37 running + queued, target 8, which asks for 5; "
         "waited 2.0 s of upscale_delay_s 1"),
        (AIMS, 1, [0], 0,
         "text 1→0: 0 running + queued, target 8; waited 2.0 s of downscale_delay_s 30"),
        (AIMS._replace(downscale_to_zero_delay_s=2), 1, [0], 0,
         "text 1→0: 0 running + queued, target 8; waited 2.0 s of downscale_to_zero_delay_s 2"),
        (AIMS, 2, [16], 7, "text 2→7: not by load"),
        (AIMS, 0, [], 1, "text 0→1: a call waits, from zero without delay"),
    ],
)  # fmt: skip
def test_a_change_says_what_limited_or_delayed_it(
    aims: Aims, before: int, calls: list[float], after: int, sentence: str
) -> None:
    memory = LONG_AGO._replace(target=before)
    for now_s in (4, 5, 6):
        memory = look("text", seen(*calls, target=before, now_s=now_s), aims, memory).memory
    changed = look("text", seen(*calls, target=after, now_s=6.1), aims, memory).changed
    assert str(changed) == sentence


def test_a_change_that_gives_a_size_back_says_so() -> None:
    memory = LONG_AGO._replace(target=1, shrunk=(Shrunk(-20, 4),))
    memory = look("text", seen(9, target=1), AIMS, memory).memory
    changed = look("text", seen(9, target=4), AIMS, memory).changed
    assert str(changed).startswith(
        "text 1→4: 9 running + queued, target 8, which asks for 2; it had 4 until 24 s ago; "
    )


def test_a_change_of_mind_begins_the_wait_anew() -> None:
    memory = look("text", seen(37), AIMS, LONG_AGO).memory
    memory = look("text", seen(1, now_s=5), AIMS, memory).memory
    assert memory.wish is not None
    assert memory.wish.since_s == 5
    assert look("text", seen(16, now_s=6), AIMS, memory).memory.wish is None


def test_an_event_survives_being_kept() -> None:
    event = Scaled("text", 1.5, 2, 5, load=37, target=8, wanted=5, delay="upscale_delay_s")
    assert msgspec.json.decode(msgspec.json.encode(event), type=Scaled) == event


@given(st.lists(POINTS, max_size=4), st.lists(POINTS, max_size=4), st.integers(0, 20))
@example([[(0.0, 1.0)]], [], 0)  # grows, and takes back the size that it had
def test_the_total_never_falls_below_what_runs_nor_rises_above_all_reports(
    calls: list[list[tuple[float, float]]], held: list[list[tuple[float, float]]], target: int
) -> None:
    highest = sum(max(value for _, value in points) for points in (*calls, *held))
    for _, total in total_calls(calls, held):
        assert 0 <= total <= highest
    named = [dict(zip("abcd", each, strict=False)) for each in (calls, held)]
    answer = look("p", Seen(10, target, *named), AIMS, LONG_AGO)
    assert 0 <= answer.replicas <= max(highest / 8, target, LONG_AGO.target, 1)


@given(POINTS, st.sampled_from(["mean", "max", "min"]), st.floats(0.1, 20))
def test_an_aggregate_lies_between_the_least_and_the_most(
    points: list[tuple[float, float]], how: str, period_s: float
) -> None:
    steps = total_calls([points], [])
    number: float = aggregated(steps, 10, period_s, how)  # type: ignore[arg-type]
    values = [value for _, value in steps]
    assert min(values) - 1e-6 <= number <= max(values) + 1e-6


@given(POINTS, st.integers(1, 100), st.integers(0, 8))
@example([(0.0, 1.0)], 8, 0)  # has the size that it lately had, asked for or not
def test_more_calls_never_ask_for_fewer_replicas(
    points: list[tuple[float, float]], more: int, target: int
) -> None:
    risen = [(at_s, value + more) for at_s, value in points]
    few = look("p", Seen(10, target, {"a": points}, {}), AIMS, LONG_AGO).replicas
    many = look("p", Seen(10, target, {"a": risen}, {}), AIMS, LONG_AGO).replicas
    assert many >= few
