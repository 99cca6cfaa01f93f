"""Each option of Serve's autoscaling under our policy, with Serve's own autoscaler around it."""

import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.autoscaler import PretendedPool, autoscaling_config_of, clocked, sent_events, sine
from thornback.cluster.scaling import Scaled
from thornback.deployments import pool_gauges
from thornback.deployments.autoscaling import autoscaling_stats
from thornback.deployments.serve_config import UNSHOWN_POLICY

Pretended = type[PretendedPool]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return clocked(monkeypatch)


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[Scaled]:
    return sent_events(monkeypatch)


def steady(calls: float) -> Callable[[float], float]:
    return lambda _: calls


def step(at_s: float, calls: float, first: float = 1) -> Callable[[float], float]:
    """`first` calls, and from `at_s` on `calls`."""
    return lambda elapsed_s: calls if elapsed_s >= at_s else first


def burst(begin_s: float, end_s: float, calls: float) -> Callable[[float], float]:
    return lambda elapsed_s: calls if begin_s <= elapsed_s < end_s else 1


# --- each option ----------------------------------------------------------------------------------


def test_max_replicas_is_where_growth_ends(pretended: Pretended) -> None:
    assert pretended(steady(1000), min_replicas=1, max_replicas=5).run(20).target == 5


def test_min_replicas_is_where_shrinking_ends(pretended: Pretended) -> None:
    pool = pretended(step(20, 0, first=64), min_replicas=2)
    assert (pool.target, pool.run(20).target, pool.run(100).target) == (2, 4, 2)


def test_initial_replicas_is_where_a_pool_begins(pretended: Pretended) -> None:
    pool = pretended(steady(1), initial_replicas=3)
    assert (pool.target, pool.run(60).target) == (3, 1)


@pytest.mark.parametrize(("target", "replicas"), [(8, 5), (16, 3), (37, 1), (36, 2)])
def test_target_ongoing_requests_are_calls_for_each_replica(
    pretended: Pretended, target: float, replicas: int
) -> None:
    pool = pretended(steady(37), min_replicas=1, max_replicas=10, target_ongoing_requests=target)
    assert pool.run(60).target == replicas


@pytest.mark.parametrize(("interval_s", "at_most_s"), [(1, 4), (6, 9)])
def test_metrics_interval_is_how_often_the_load_is_learnt(
    pretended: Pretended, interval_s: float, at_most_s: float
) -> None:
    pool = pretended(
        step(6.5, 1000), min_replicas=1, metrics_interval_s=interval_s, look_back_period_s=8
    )
    (change,) = pool.run(30).changes
    assert at_most_s - 3 <= change.at_s - 6.5 <= at_most_s


@pytest.mark.parametrize(("look_back_s", "sizes"), [(4, [2, 1]), (20, [])])
def test_look_back_period_is_what_a_burst_is_averaged_over(
    pretended: Pretended, look_back_s: float, sizes: list[int]
) -> None:
    pool = pretended(
        burst(30, 34, 32),
        min_replicas=1,
        look_back_period_s=look_back_s,
        upscale_delay_s=2,
    )
    assert pool.run(90).sizes() == sizes


@pytest.mark.parametrize(("how", "sizes"), [("mean", [2]), ("max", [3]), ("min", [])])
def test_aggregation_function_is_what_is_made_of_the_look_back(
    pretended: Pretended, how: str, sizes: list[int]
) -> None:
    pool = pretended(
        lambda elapsed_s: 44 if elapsed_s > 10 and elapsed_s % 4 < 2 else 4,
        min_replicas=1,
        upscale_delay_s=3,
        look_back_period_s=8,
        aggregation_function=how,
    )
    assert pool.run(40).sizes() == sizes


@pytest.mark.parametrize("delay_s", [0, 1, 7.5])
def test_upscale_delay_is_waited_for(
    pretended: Pretended, told: list[Scaled], delay_s: float
) -> None:
    quick = pretended(step(10, 64), min_replicas=1, upscale_delay_s=0).run(30).changes[0].at_s
    (change,) = [
        c
        for c in pretended(step(10, 64), min_replicas=1, upscale_delay_s=delay_s).run(30).changes
        if c.after == 4
    ]
    assert change.at_s - quick >= delay_s - 0.01
    assert told[-1].waited_s == pytest.approx(delay_s, abs=0.15)


@pytest.mark.parametrize("delay_s", [5, 12, 30])
def test_downscale_delay_is_waited_for(pretended: Pretended, delay_s: float) -> None:
    pool = pretended(step(20, 1, first=64), min_replicas=1, downscale_delay_s=delay_s).run(60)
    up, down = pool.changes
    assert (up.after, down.after) == (4, 1)
    # The mean falls below what four replicas are for within the look-back.
    assert delay_s <= down.at_s - 20 <= delay_s + 5


@pytest.mark.parametrize(("to_zero_s", "expected_s"), [(None, 10), (3, 3), (20, 20), (0, 0)])
def test_downscale_to_zero_delay_is_for_the_last_replica_alone(
    pretended: Pretended, to_zero_s: float | None, expected_s: float
) -> None:
    pool = pretended(
        step(20, 0, first=40), downscale_delay_s=10, downscale_to_zero_delay_s=to_zero_s
    )
    *_, down, last = pool.run(80).changes
    assert (down.after, last.before, last.after) == (1, 1, 0)
    assert down.at_s - 20 >= 10
    assert expected_s <= last.at_s - down.at_s <= expected_s + 0.5


@pytest.mark.parametrize(("factor", "sizes"), [(None, [9]), (0.5, [5, 7, 8, 9]), (2, [17])])
def test_upscaling_factor_is_how_much_of_the_way_up_one_step_goes(
    pretended: Pretended, factor: float | None, sizes: list[int]
) -> None:
    pool = pretended(
        step(10, 144),
        min_replicas=1,
        max_replicas=40,
        starts_in_s=0,
        upscaling_factor=factor,
    )
    assert pool.run(40).sizes() == sizes


@pytest.mark.parametrize(("factor", "sizes"), [(None, [9, 1]), (0.5, [9, 5, 3, 2, 1])])
def test_downscaling_factor_is_how_much_of_the_way_down_one_step_goes(
    pretended: Pretended, factor: float | None, sizes: list[int]
) -> None:
    pool = pretended(
        step(10, 1, first=144),
        min_replicas=1,
        max_replicas=40,
        downscale_delay_s=6,
        downscaling_factor=factor,
    )
    assert pool.run(60).sizes() == sizes


def test_the_defaults_are_the_ones_of_the_design() -> None:
    config = autoscaling_config_of({})
    delays = (config.upscale_delay_s, config.downscale_delay_s, config.downscale_to_zero_delay_s)
    assert (config.metrics_interval_s, config.look_back_period_s, delays) == (1, 4, (1, 30, None))


# --- as a whole -----------------------------------------------------------------------------------


def test_from_zero_a_call_starts_one_replica_and_its_report_takes_the_pool_to_its_size(
    pretended: Pretended, told: list[Scaled]
) -> None:
    first, second = pretended(step(5, 64, first=0)).run(30).changes
    assert (first.after, second.before, second.after) == (1, 1, 4)
    assert first.at_s - 5 <= 0.2
    # It runs after 4 s, reports within the interval, and the delay is 1 s.
    assert second.at_s - first.at_s <= 6.3
    assert [str(event).partition(";")[0] for event in told] == [
        "text 0→1: a call waits, from zero without delay",
        "text 1→4: 64 running + queued, target 16",
    ]


def test_a_step_of_the_load_is_one_decision(pretended: Pretended, told: list[Scaled]) -> None:
    (change,) = pretended(step(10.3, 64), min_replicas=1).run(38).changes
    assert (change.before, change.after) == (1, 4)
    assert change.at_s - 10.3 < 4
    (event,) = told
    assert event.load == 64


def test_a_call_that_waits_for_the_first_replica_outlives_an_impatient_delay(
    pretended: Pretended,
) -> None:
    impatient = pretended(step(5, 20, first=0), downscale_to_zero_delay_s=0)
    assert impatient.run(60).sizes() == [1, 2]


def test_the_pool_forgets_no_size_while_nobody_reports(pretended: Pretended) -> None:
    pool = pretended(steady(64), initial_replicas=3, starts_in_s=1000).run(30)
    assert (pool.running, pool.target) == (3, 4)


@pytest.mark.parametrize("calls", [1, 15.6, 31.8, 48])
def test_a_load_that_trembles_makes_no_pool_flap(pretended: Pretended, calls: float) -> None:
    def trembling(elapsed_s: float) -> float:
        return calls * (1 + 0.2 * math.sin(elapsed_s * 7.3) * math.cos(elapsed_s * 2.9))

    settled = pretended(trembling, min_replicas=1).run(60)
    before = len(settled.changes)
    assert len(settled.run(150).changes) - before <= 2


@pytest.mark.parametrize(
    ("mean", "swing", "max_replicas"),
    [(32, 32, 4), (40, 24, 4), (64, 64, 8), (48, 16, 8)],
)
def test_a_load_that_swings_changes_the_pool_at_most_twice_a_period(
    pretended: Pretended, mean: float, swing: float, max_replicas: int
) -> None:
    pool = pretended(sine(mean, swing), max_replicas=max_replicas).run(60)
    known = len(pool.changes)
    pool.run(300)
    assert len(pool.changes) - known <= 2 * 5


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    loads=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    low=st.integers(0, 3),
    spread=st.integers(1, 6),
    factors=st.sampled_from([None, 0.3, 1.0, 3.0]),
)
def test_no_load_takes_a_pool_out_of_its_bounds(
    pretended: Pretended, loads: list[int], low: int, spread: int, factors: float | None
) -> None:
    pool = pretended(
        lambda elapsed_s: loads[int(elapsed_s / 5) % len(loads)],
        min_replicas=low,
        max_replicas=low + spread,
        downscale_delay_s=2,
        upscaling_factor=factors,
        downscaling_factor=factors,
    )
    sizes = pool.run(30).sizes()
    assert all(low <= size <= low + spread for size in sizes)


def test_what_a_host_reports_are_numbers_as_serve_asks_for() -> None:
    stats = autoscaling_stats(3, {"a": 5, "b": 6})
    assert stats == {"thornback_calls": 3.0, "thornback_held": 11.0}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, bool]]:
    """Application, what runs, what shall, and whether that was decided now."""
    shown: list[tuple[str, int, int, bool]] = []

    class Gauges:
        def show(
            self, application: str, running: int, target: int, decided_at_s: float | None
        ) -> None:
            shown.append((application, running, target, decided_at_s is not None))

    monkeypatch.setattr(pool_gauges, "_of_this_process", Gauges)
    return shown


def test_the_size_of_a_pool_is_shown_as_it_changes(
    pretended: Pretended, shown: list[tuple[str, int, int, bool]]
) -> None:
    pretended(steady(64), min_replicas=1, target_ongoing_requests=32).run(30)
    assert shown[0] == ("thornback.local.text", 1, 1, False)
    assert ("thornback.local.text", 1, 2, True) in shown
    assert shown[-1] == ("thornback.local.text", 2, 2, False)


def test_where_metrics_are_off_a_pool_scales_as_ever_and_nothing_is_shown(
    pretended: Pretended, shown: list[tuple[str, int, int, bool]]
) -> None:
    pool = pretended(steady(64), min_replicas=1, target_ongoing_requests=32, policy=UNSHOWN_POLICY)
    assert (pool.run(30).sizes(), shown) == ([2], [])
