"""The size of pools, as Ray's metrics are told."""

from collections.abc import Mapping

from thornback.deployments.pool_gauges import PoolGauges


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


def test_a_pool_is_shown_by_what_runs_and_what_shall() -> None:
    sink = FakeSink()
    gauges = PoolGauges(sink)
    gauges.show("text", running=1, target=3, decided_at_s=1_800_000_000.5)
    assert sink.values == {
        ("thornback_replicas", "text", "running"): 1,
        ("thornback_replicas", "text", "starting"): 2,
        ("thornback_replicas", "text", "stopping"): 0,
        ("thornback_target_replicas", "text"): 3,
        ("thornback_last_decision_seconds", "text"): 1_800_000_000.5,
    }


def test_only_what_has_changed_is_told() -> None:
    sink = FakeSink()
    gauges = PoolGauges(sink)
    gauges.show("text", running=1, target=1, decided_at_s=None)
    sink.told.clear()
    gauges.show("text", running=1, target=1, decided_at_s=None)
    assert sink.told == []
    gauges.show("text", running=1, target=0, decided_at_s=None)
    assert set(sink.told) == {
        ("thornback_replicas", "text", "stopping"),
        ("thornback_target_replicas", "text"),
    }


def test_a_gauge_that_cannot_be_set_is_tried_once_and_hurts_nobody() -> None:
    sink = FakeSink(works=False)
    gauges = PoolGauges(sink)
    gauges.show("text", running=1, target=1, decided_at_s=None)
    gauges.show("text", running=1, target=1, decided_at_s=None)
    assert len(sink.told) == 4
