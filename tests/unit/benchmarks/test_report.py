import json
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report
from benchmarks.bars import Judged
from benchmarks.measuring import Failure, Measured, Point
from thornback.deployments.load import Load

POINTS = [
    Point(label="c=1", load=Load(url="")),
    Point(label="c=64", load=Load(url=""), ideal_per_s=400),
]


def one(server: str, point: str, calls: int, run: int = 0, **more: Any) -> Measured:
    return Measured(
        server=server,
        point=point,
        run=run,
        calls=calls,
        seconds=1.0,
        latency_us={"echo": {1500: calls}},
        cpu_s={"gateway": 0.2, "host": 0.1, "gcs": 0.05},
        unique_bytes={"gateway": 50_000_000},
        **more,
    )


MEASURED = [
    one("bare", "c=1", 100),
    one("cluster", "c=1", 50),
    one("bare", "c=64", 200),
    *(one("cluster", "c=64", calls, run) for run, calls in enumerate((500, 100, 700))),
]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_each_row_compares_with_the_first_server_of_its_load() -> None:
    head, _, *found = rows(report.table(POINTS, MEASURED))
    assert head[:5] == ["load", "server", "times", "added ms", "calls/s"]
    assert [row[:5] for row in found] == [
        ["c=1", "bare", "1.00", "+0.00", "100"],
        ["c=1", "cluster", "0.50", "+0.00", "50"],
        ["c=64 (ideal 400/s)", "bare", "1.00", "+0.00", "200"],
        ["c=64 (ideal 400/s)", "cluster", "2.50", "+0.00", "500"],
    ]


def test_where_the_first_server_failed_nothing_is_compared() -> None:
    *_, last = rows(
        report.table(POINTS, [m for m in MEASURED if (m.server, m.point) != ("bare", "c=64")])
    )
    assert last[:5] == ["c=64 (ideal 400/s)", "cluster", "", "", "500"]


def test_what_failed_stands_under_the_table() -> None:
    failures = [Failure("fastmcp", "c=64", run, f"{16 + run} broken") for run in (0, 2)]
    found = report.text(POINTS, MEASURED, (), failures, runs=3, warm_up_s=1)
    assert "no figures of it:\n  c=64, fastmcp, 2 times: 16 broken\n" in found
    assert "Failed" not in report.text(POINTS, MEASURED, runs=3, warm_up_s=1)


def test_what_the_way_adds_is_the_difference_of_the_middle_latencies() -> None:
    slow = msgspec.structs.replace(one("cluster", "c=1", 9), latency_us={"echo": {2750: 9}})
    found = rows(report.table(POINTS[:1], [one("bare", "c=1", 9), slow]))
    assert found[-1][3] == "+1.25"


def test_a_figure_that_one_load_has_gets_a_column_that_is_empty_elsewhere() -> None:
    streamed = [one("bare", "c=1", 10), one("bare", "c=64", 10, extra={"items_per_s": 12345.0})]
    head, _, *found = rows(report.table(POINTS, streamed))
    assert (head[-1], *(row[-1] for row in found)) == ("items/s", "", "12345")


def test_cpu_is_shown_role_by_role() -> None:
    lines = report.cpu_table(POINTS, MEASURED).splitlines()
    assert lines[0] == "c=1, bare: gateway 2000, host 1000; beside: gcs 500"
    assert len(lines) == 4 + 3
    assert lines[-1] == "  gcs: Ray's control store"


def test_the_difference_of_two_configs_is_whole() -> None:
    local = {"name": "local", "gateway": {"host": "::1", "port": 8000}, "datasets": {"a": "b"}}
    ours = {"name": "benchmark", "gateway": {"host": "::1", "port": 1}, "pools": {"p": {"n": 0}}}
    assert report.config_difference(local, ours) == [
        ("name", "local", "benchmark"),
        ("gateway.port", 8000, 1),
        ("datasets.a", "b", None),
        ("pools.p.n", None, 0),
    ]


def test_equal_configs_do_not_differ() -> None:
    assert report.config_difference({"a": {"b": [1]}}, {"a": {"b": [1]}}) == []


def test_what_is_left_behind_holds_every_measurement_and_a_plot(tmp_path: Path) -> None:
    report.write_results(tmp_path, "echo", "| table |", POINTS, MEASURED)
    raw = json.loads((tmp_path / "echo.json").read_text("utf-8"))
    assert [m["calls"] for m in raw["measured"]] == [100, 50, 200, 500, 100, 700]
    assert raw["measured"][0]["latency_us"] == {"echo": {"1500": 100}}
    assert (tmp_path / "echo.md").read_text("utf-8") == "| table |\n"
    assert "cluster" in (tmp_path / "echo.svg").read_text("utf-8")


def test_bars_are_printed_and_kept(tmp_path: Path) -> None:
    bars = [Judged("growth", 12.5, "at most 64 MB", "met", "12.5 MB")]
    text = report.text(POINTS, MEASURED, bars, runs=1, warm_up_s=0)
    assert "| growth | 12.5 MB | at most 64 MB | met |" in text
    report.write_results(tmp_path, "echo", text, POINTS, MEASURED, bars)
    raw = json.loads((tmp_path / "echo.json").read_text("utf-8"))
    assert raw["bars"][0]["verdict"] == "met"


def test_what_changed_with_time_is_plotted_over_it(tmp_path: Path) -> None:
    seen = {"replicas": [(0.0, 1.0), (5.0, 4.0)], "clients": [(0.0, 8.0), (5.0, 64.0)]}
    report.write_results(tmp_path, "step", "", POINTS, [one("cluster", "c=1", 9, series=seen)])
    plotted = (tmp_path / "step.svg").read_text("utf-8")
    assert "step: c=1, cluster" in plotted
    assert "clients" in plotted
