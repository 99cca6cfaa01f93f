"""The size of pools, as Ray's metrics are told."""

from collections.abc import Mapping

import pytest

from tests.fakes import FakeClock
from thornback.deployments.pool_gauges import GONE_S, PoolGauges


class FakeSink:
    """Keeps what it is told."""

    def __init__(self, works: bool = True) -> None:
        self.told: list[tuple[str, ...]] = []
        self.values: dict[tuple[str, ...], float] = {}
        self._works = works

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        raise NotImplementedError

    def put(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self.told.append((name, *labels.values()))
        if not self._works:
            raise OSError("no agent")
        self.values[self.told[-1]] = value


TEXT, OTHER = "thornback.lab.text", "thornback.other.text"


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gauges(sink: FakeSink, clock: FakeClock) -> PoolGauges:
    return PoolGauges(sink, clock)


def test_a_pool_is_shown_by_what_runs_and_what_shall(sink: FakeSink, gauges: PoolGauges) -> None:
    gauges.show(TEXT, running=1, target=3, decided_at_s=1_800_000_000.5)
    assert sink.values == {
        ("thornback_replicas", "lab", "text", "running"): 1,
        ("thornback_replicas", "lab", "text", "starting"): 2,
        ("thornback_replicas", "lab", "text", "stopping"): 0,
        ("thornback_target_replicas", "lab", "text"): 3,
        ("thornback_last_decision_seconds", "lab", "text"): 1_800_000_000.5,
    }


def test_pools_of_one_name_in_two_clusters_of_a_ray_are_told_apart(
    sink: FakeSink, gauges: PoolGauges
) -> None:
    gauges.show(TEXT, running=1, target=1, decided_at_s=None)
    gauges.show(OTHER, running=4, target=4, decided_at_s=None)
    assert sink.values["thornback_target_replicas", "lab", "text"] == 1
    assert sink.values["thornback_target_replicas", "other", "text"] == 4


def test_only_what_has_changed_is_told(sink: FakeSink, gauges: PoolGauges) -> None:
    gauges.show(TEXT, running=1, target=1, decided_at_s=None)
    sink.told.clear()
    gauges.show(TEXT, running=1, target=1, decided_at_s=None)
    assert sink.told == []
    gauges.show(TEXT, running=1, target=0, decided_at_s=None)
    assert set(sink.told) == {
        ("thornback_replicas", "lab", "text", "stopping"),
        ("thornback_target_replicas", "lab", "text"),
    }


def test_a_pool_that_is_shown_no_more_falls_to_zero_and_comes_back(
    sink: FakeSink, gauges: PoolGauges, clock: FakeClock
) -> None:
    gauges.show(TEXT, running=2, target=2, decided_at_s=1_800_000_000.5)
    gauges.show(OTHER, running=3, target=3, decided_at_s=None)
    clock.advance(GONE_S)
    gauges.show(OTHER, running=3, target=3, decided_at_s=None)
    clock.advance(1)
    gauges.forget_gone()
    assert {value for (_, cluster, *_), value in sink.values.items() if cluster == "lab"} == {0}
    assert sink.values["thornback_target_replicas", "other", "text"] == 3
    sink.told.clear()
    gauges.forget_gone()
    assert sink.told == []
    gauges.show(TEXT, running=2, target=2, decided_at_s=None)
    assert sink.values["thornback_replicas", "lab", "text", "running"] == 2


def test_a_pool_whose_controller_was_busy_for_a_while_stays(
    sink: FakeSink, gauges: PoolGauges, clock: FakeClock
) -> None:
    gauges.show(TEXT, running=2, target=2, decided_at_s=None)
    clock.advance(GONE_S)
    gauges.forget_gone()
    assert sink.values["thornback_replicas", "lab", "text", "running"] == 2


def test_a_gauge_that_cannot_be_set_is_tried_once_and_hurts_nobody(clock: FakeClock) -> None:
    sink = FakeSink(works=False)
    gauges = PoolGauges(sink, clock)
    gauges.show(TEXT, running=1, target=1, decided_at_s=None)
    gauges.show(TEXT, running=1, target=1, decided_at_s=None)
    assert len(sink.told) == 4
