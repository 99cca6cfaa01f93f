import re
from typing import Any

import pytest

from benchmarks.bars import Bar, NotMeasured, Results, judged, table
from benchmarks.measuring import Measured
from benchmarks.workloads import WORKLOADS


def one(server: str, calls: int, run: int = 0, p99_us: int = 1000, **extra: float) -> Measured:
    return Measured(
        server=server,
        point="c=64",
        run=run,
        calls=calls,
        seconds=1.0,
        latency_us={"echo": {p99_us: calls}},
        cpu_s={"gateway": 0.1},
        unique_bytes={},
        extra=extra,
    )


def verdict(measured: list[Measured], **limits: Any) -> str:
    bar = Bar(what="x", figure=lambda r: r.median("calls_per_s", "c=64", "cluster"), **limits)
    return judged([bar], measured)[0].verdict


def test_ratios_are_taken_within_a_run_and_the_middle_one_counts() -> None:
    measured = [
        *(one("bare", calls, run) for run, calls in enumerate((100, 10, 1))),
        *(one("cluster", calls, run) for run, calls in enumerate((200, 30, 10))),
    ]
    results = Results(measured)
    assert results.ratio("calls_per_s", ("c=64", "cluster"), ("c=64", "bare")) == 3
    assert results.difference("p99_ms", ("c=64", "cluster"), ("c=64", "bare")) == 0


@pytest.mark.parametrize(
    ("calls", "limits", "said"),
    [
        (10, {"least": 10}, "met"),
        (9, {"least": 10}, "NOT MET"),
        (10, {"most": 10}, "met"),
        (11, {"most": 10}, "NOT MET"),
        (11, {}, "-"),
    ],
)
def test_a_bar_is_met_or_not(calls: int, limits: dict[str, float], said: str) -> None:
    assert verdict([one("cluster", calls)], **limits) == said


def test_what_was_left_out_is_said_to_be_not_measured() -> None:
    assert verdict([one("bare", 5)], least=1) == "not measured"
    with pytest.raises(NotMeasured):
        Results([one("bare", 1)]).ratio("calls_per_s", ("c=64", "cluster"), ("c=64", "bare"))


def test_a_figure_that_only_one_workload_has_can_have_a_bar() -> None:
    bar = Bar(
        what="growth", figure=lambda r: r.median("grown_mb", "c=64", "cluster"), most=64, unit=" MB"
    )
    found = judged([bar], [one("cluster", 1, grown_mb=12.5)])
    assert table(found).splitlines()[2] == "| growth | 12.50 MB | at most 64 MB | met |"


def test_a_profile_wins_only_if_every_run_of_it_beats_every_run_of_the_others() -> None:
    (bar,) = (b for b in WORKLOADS["profiles"].bars if "every run of `throughput`" in b.what)
    slow = [
        Measured(**{**_fields(one(name, 1, run, p99_us=us)), "point": "c=1"})
        for name, times in {
            "latency": (900, 1000),
            "balanced": (1100,),
            "throughput": (1300,),
        }.items()
        for run, us in enumerate(times)
    ]
    (found,) = judged([bar], slow)
    assert found.verdict == "met"
    assert found.measured == pytest.approx(0.3)
    tied = [m for m in slow if m.server != "throughput"]
    tied.append(Measured(**{**_fields(one("throughput", 1, 0, p99_us=950)), "point": "c=1"}))
    assert judged([bar], tied)[0].verdict == "NOT MET"


def _fields(measured: Measured) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in measured.__struct_fields__}


def test_every_bar_names_loads_and_servers_that_its_workload_has() -> None:
    """A misspelt name would be `not measured` for ever."""
    for name, workload in WORKLOADS.items():
        servers = [*workload.peers, *workload.variants]
        figures = set(re.findall(r'"(\w+)":', _report_source())) | {"counters_off_by"}
        measured = [
            Measured(
                server=server,
                point=point.label,
                run=0,
                calls=10,
                seconds=1.0,
                latency_us={"echo": {1000: 10}},
                cpu_s={"gateway": 0.1},
                unique_bytes={"gateway": 1},
                extra=dict.fromkeys(figures, 1.0),
            )
            for server in servers
            for point in workload.points
        ]
        for found in judged(workload.bars, measured):
            assert found.verdict != "not measured", (name, found.what)


def _report_source() -> str:
    from pathlib import Path

    from benchmarks import report

    return Path(report.__file__).read_text("utf-8").partition("COLUMNS = {")[2].partition("\n}")[0]
