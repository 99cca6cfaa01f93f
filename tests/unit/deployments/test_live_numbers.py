from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from thornback.deployments.live_numbers import (
    WINDOW_S,
    GatewaySums,
    ToolRow,
    ToolSums,
    Window,
    pool_rows,
    sums_of,
)
from thornback.deployments.telemetry import QUEUED, RUNNING, CallFacts, Gauged, Telemetry


class NoSink:
    def add(self, *_: Any) -> None: ...

    def put(self, *_: Any) -> None: ...


class Gateway:
    """A gateway that counts calls and is asked for its sums."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._telemetry = Telemetry(NoSink())
        self.now: list[Gauged] = []

    def ran(self, calls: int, *, total_s: float = 0.02, error: str = "", tool: str = "t") -> None:
        outcome = "error" if error else "ok"
        for _ in range(calls):
            self._telemetry.observe(CallFacts(tool, "1.0.0", outcome, total_s, error=error))

    @property
    def sums(self) -> GatewaySums:
        # As they cross to the process that asks.
        sums = sums_of(self._name, self._telemetry.tools, self.now)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(sums), type=GatewaySums)


@pytest.fixture
def gateways() -> list[Gateway]:
    return [Gateway("a"), Gateway("b")]


def looked(window: Window, at_s: float, gateways: Sequence[Gateway]) -> list[ToolRow]:
    window.add(at_s, [gateway.sums for gateway in gateways])
    return window.rows()


def test_rates_are_what_all_gateways_counted_between_two_looks(gateways: list[Gateway]) -> None:
    window = Window()
    for gateway in gateways:
        gateway.ran(1000)
    (first,) = looked(window, 10, gateways)
    assert (first.calls_per_s, first.p50_ms, window.length_s) == (0, None, 0)
    gateways[0].ran(30)
    gateways[1].ran(10, error="tool.bug")
    (row,) = looked(window, 12, gateways)
    assert (row.calls_per_s, row.errors_per_s) == (20, 5)


def test_quantiles_are_of_the_last_seconds_and_not_of_what_was_before(
    gateways: list[Gateway],
) -> None:
    window = Window()
    gateways[0].ran(10_000, total_s=20)
    looked(window, 0, gateways)
    gateways[0].ran(98, total_s=0.003)
    gateways[1].ran(2, total_s=0.8)
    (row,) = looked(window, 1, gateways)
    assert row.p50_ms is not None
    assert row.p99_ms is not None
    assert 2.5 <= row.p50_ms <= 5
    assert 500 <= row.p99_ms <= 1000


def test_quantiles_are_of_all_calls_whatever_came_of_them(gateways: list[Gateway]) -> None:
    window = Window()
    looked(window, 0, gateways)
    gateways[0].ran(90, total_s=0.003)
    gateways[0].ran(10, total_s=12, error="tool.timeout")
    (row,) = looked(window, 1, gateways)
    assert row.p50_ms is not None
    assert row.p99_ms is not None
    assert 2.5 <= row.p50_ms <= 5
    assert 10_000 <= row.p99_ms <= 15_000
    assert (row.calls_per_s, row.errors_per_s) == (100, 10)


def test_a_gateway_of_a_version_with_other_buckets_has_rates_and_no_quantiles() -> None:
    window = Window()
    for second, calls in enumerate((0, 10)):
        sums = ToolSums("t", "1.0.0", calls, 0, [calls] * 3, 0, 0)
        window.add(second, [GatewaySums("old", [sums])])
    (row,) = window.rows()
    assert (row.calls_per_s, row.p50_ms, row.p99_ms) == (10, None, None)


def test_what_happened_before_the_window_is_forgotten(gateways: list[Gateway]) -> None:
    window = Window()
    looked(window, 0, gateways)
    gateways[0].ran(500)
    looked(window, 1, gateways)
    for second in range(2, 7):
        (row,) = looked(window, second, gateways)
    assert (row.calls_per_s, row.p99_ms) == (0, None)
    assert window.length_s == WINDOW_S


def test_a_gateway_that_comes_or_was_silent_brings_no_burst(gateways: list[Gateway]) -> None:
    window, (one, other) = Window(), gateways
    other.ran(1000)
    one.ran(1)
    looked(window, 0, [one])
    (row,) = looked(window, 1, [one, other])
    assert row.calls_per_s == 0
    other.ran(10)
    (row,) = looked(window, 2, [one, other])
    assert row.calls_per_s == 10


def test_a_gateway_that_is_gone_is_forgotten(gateways: list[Gateway]) -> None:
    window = Window()
    for gateway in gateways:
        gateway.now = [Gauged(RUNNING, ("t", "1.0.0"), 3)]
    looked(window, 0, gateways)
    (row,) = looked(window, WINDOW_S + 1, gateways[:1])
    assert row.running == 3


def test_what_runs_and_waits_is_summed_also_of_a_tool_that_has_finished_no_call(
    gateways: list[Gateway],
) -> None:
    for gateway in gateways:
        gateway.now = [Gauged(RUNNING, ("t", "1.0.0"), 2), Gauged(QUEUED, ("t", "1.0.0"), 5)]
    (row,) = looked(Window(), 0, gateways)
    assert row == ToolRow("t", "1.0.0", 0, 0, None, None, 4, 10)


def test_a_gateway_that_does_not_count_says_so_and_what_runs() -> None:
    sums = sums_of("a", None, [Gauged(RUNNING, ("t", "1.0.0"), 2)])
    assert not sums.counts
    window = Window()
    window.add(0, [sums])
    window.add(1, [sums])
    (row,) = window.rows()
    assert (row.running, row.calls_per_s, row.p99_ms) == (2, 0, None)


def test_the_busiest_tool_comes_first(gateways: list[Gateway]) -> None:
    window = Window()
    for tool in ("a", "b"):
        gateways[0].ran(1, tool=tool)
    looked(window, 0, gateways)
    gateways[0].ran(5, tool="b")
    assert [row.tool for row in looked(window, 1, gateways)] == ["b", "a"]


def test_a_tool_that_was_never_called_before_counts_from_nothing(gateways: list[Gateway]) -> None:
    window = Window()
    looked(window, 0, gateways)
    gateways[0].ran(4)
    (row,) = looked(window, 2, gateways)
    assert row.calls_per_s == 2


def test_pools_show_what_runs_of_what_shall() -> None:
    def application(target: int, *states: str) -> dict[str, Any]:
        replicas = [{"state": state} for state in states]
        return {"deployments": {"X": {"target_num_replicas": target, "replicas": replicas}}}

    details = {
        "applications": {
            "thornback.lab.sql": application(3, "RUNNING", "STARTING", "STARTING"),
            "thornback.lab.gateway": application(1, "RUNNING"),
            "thornback.lab.idle": application(0),
            "theirs": application(1, "RUNNING"),
        }
    }
    rows = {row.pool: row for row in pool_rows(details, "thornback.lab", "gateway")}
    assert rows.keys() == {"idle", "sql"}
    assert (rows["sql"].running, rows["sql"].target) == (1, 3)
    assert rows["sql"].states == {"RUNNING": 1, "STARTING": 2}
    assert (rows["idle"].running, rows["idle"].target) == (0, 0)
