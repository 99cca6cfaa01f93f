from pathlib import Path
from typing import Any

import pytest

from benchmarks.accounting import Process
from benchmarks.measuring import (
    INTERRUPTED,
    CountDiffers,
    Failure,
    Measured,
    NotHeld,
    Point,
    check_count,
    measure_each,
    medians,
    memory_per_connection,
    plan,
    rounds,
)
from benchmarks.servers import Server
from thornback.deployments.load import Load, WrongAnswers


class Counting:
    """A server whose tools have counted so many calls."""

    name = "counting"
    url = "http://nowhere"

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def ready(self) -> None:
        return

    def usage(self) -> list[Process]:
        return []

    def unique_bytes(self) -> dict[str, int]:
        return {}

    def replicas(self) -> set[int]:
        return set()

    def counted(self) -> int:
        return self._calls


def one(calls: int = 100, **changes: Any) -> Measured:
    values: dict[str, Any] = {
        "server": "cluster",
        "point": "c=1",
        "run": 0,
        "calls": calls,
        "seconds": 2.0,
        "latency_us": {"echo": {1000: calls}},
        "cpu_s": {"gateway": 0.03, "host": 0.02, "controller": 0.5},
        "unique_bytes": {"gateway": 60_000_000, "controller": 90_000_000},
    }
    return Measured(**{**values, **changes})


def test_no_server_is_always_the_first() -> None:
    assert list(rounds("ab", 3)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


LOADS = [Point(label=label, load=Load(url="")) for label in ("1", "2")]


def test_what_is_compared_is_measured_one_after_the_other() -> None:
    order = [
        f"{run}{point.label}{server}"
        for run, point, server in plan(LOADS, "ab", 2, changing_is_slow=False)
    ]
    assert order == ["01a", "01b", "11b", "11a", "02a", "02b", "12b", "12a"]


def test_a_server_that_takes_long_to_change_meets_all_loads_at_once() -> None:
    order = [
        f"{run}{point.label}{server}"
        for run, point, server in plan(LOADS, "ab", 2, changing_is_slow=True)
    ]
    assert order == ["01a", "02a", "01b", "02b", "11b", "12b", "11a", "12a"]


def test_a_table_shows_medians_and_no_run_decides_alone() -> None:
    assert medians([one(100), one(4), one(120)])["calls_per_s"] == 50.0


def test_the_cost_of_a_call_is_that_of_the_processes_on_its_way() -> None:
    figures = medians([one()])
    assert figures["cpu_ms_per_call"] == pytest.approx(0.5)
    assert figures["beside_percent"] == pytest.approx(25.0)
    assert figures["unique_mb"] == 60.0


def test_figures_of_one_workload_have_medians_too() -> None:
    runs = [one(extra={"items_per_s": rate}) for rate in (10.0, 30.0, 20.0)]
    assert medians(runs)["items_per_s"] == 20.0


def test_what_a_connection_takes_is_told_of_many() -> None:

    assert memory_per_connection(2000, 30_000_000) == {"kb_per_connection": 15.0}
    assert memory_per_connection(64, 30_000_000) == {}


def test_calls_that_the_tools_did_not_count_spoil_the_run() -> None:
    check_count(Counting(12), 2, 10)
    with pytest.raises(CountDiffers, match="counted 10 calls, 11 were answered"):
        check_count(Counting(12), 2, 11)


def test_a_measurement_can_be_written_down(tmp_path: Path) -> None:
    import msgspec

    written = msgspec.json.encode(one())
    assert msgspec.json.decode(written, type=Measured) == one()


def broken_in_its_second_run(server: Server, point: Point, run: int) -> Measured:
    if run == 1:
        raise WrongAnswers(0, 0, 16, "")
    return one(server=server.name, point=point.label, run=run)


def test_what_a_peer_cannot_do_is_told_and_the_others_are_measured() -> None:
    told: list[Measured | Failure] = []
    steps = [(run, LOADS[0], Counting(0)) for run in range(3)]
    measured, failures = measure_each(
        steps, broken_in_its_second_run, told.append, may_fail=lambda server: True
    )
    assert [m.run for m in measured] == [0, 2]
    why = "0 wrong answers, 0 requests without one, 16 broken connections"
    assert failures == [Failure("counting", "1", 1, why)]
    assert told == [measured[0], failures[0], measured[1]]


def test_what_was_measured_before_an_interruption_is_not_lost() -> None:
    def interrupted(server: Server, point: Point, run: int) -> Measured:
        if run == 1:
            raise KeyboardInterrupt
        return one(server=server.name, point=point.label, run=run)

    steps = [(run, LOADS[0], Counting(0)) for run in range(3)]
    measured, failures = measure_each(
        steps, interrupted, lambda done: None, may_fail=lambda server: False
    )
    assert [m.run for m in measured] == [0]
    assert failures == [Failure("counting", "1", 1, INTERRUPTED)]
    with pytest.raises(KeyboardInterrupt):  # there is nothing to show
        measure_each(steps[1:], interrupted, lambda done: None, may_fail=lambda server: False)


def test_what_ours_cannot_do_ends_it_with_the_name_of_server_and_load() -> None:
    steps = [(run, LOADS[0], Counting(0)) for run in range(3)]
    with pytest.raises(NotHeld, match=r"^counting, 1: 0 wrong .* 16 broken connections$"):
        measure_each(
            steps, broken_in_its_second_run, lambda done: None, may_fail=lambda server: False
        )
