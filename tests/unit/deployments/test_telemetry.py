import asyncio
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thornback.deployments import telemetry
from thornback.deployments.telemetry import (
    LABELS,
    MAX_CODE_CHARS,
    MAX_CODES,
    OTHERS,
    QUEUED,
    SECONDS,
    TABLE,
    CallFacts,
    Distribution,
    Gauged,
    RaySink,
    Telemetry,
)

BOUNDED = {"tool", "version", "outcome", "code", "cluster", "pool", "state", "le"}
OK = CallFacts("reverse", "1.0.0", "ok", total_s=0.02, queue_s=0.004, run_s=0.015)


class FakeSink:
    """Adds up what it is given, as Ray's agents do."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.adds = 0
        self.fails = False
        self.tried = asyncio.Event()

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self.tried.set()
        if self.fails:
            raise OSError("no agent")
        assert value > 0
        self.adds += 1
        key = (name, *labels.values())
        self.values[key] = self.values.get(key, 0) + value

    def put(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self.values[name, *labels.values()] = value


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def observed(sink: FakeSink) -> Telemetry:
    return Telemetry(sink)


def test_every_row_is_ours_says_what_it_counts_and_has_bounded_labels() -> None:
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names)
    for metric in TABLE:
        assert re.fullmatch(r"thornback_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert set(metric.labels) <= BOUNDED
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert list(metric.bounds) == sorted(metric.bounds)


def test_every_call_is_counted_once_however_often_is_exported(
    sink: FakeSink, observed: Telemetry
) -> None:
    for _ in range(3):
        observed.observe(OK)
        observed.export()
        observed.export()
    assert sink.values["thornback_calls", "reverse", "1.0.0", "ok"] == 3
    assert sink.values["thornback_total_seconds_count", "reverse", "1.0.0", "ok"] == 3


def test_error_codes_that_an_author_makes_up_are_bounded(
    sink: FakeSink, observed: Telemetry
) -> None:
    for code in [f"mine.{n}" for n in range(MAX_CODES + 5)] + ["x" * (MAX_CODE_CHARS + 1)]:
        observed.observe(OK._replace(outcome="error", error=code))
    observed.export()
    codes = {key[3]: count for key, count in sink.values.items() if key[0] == "thornback_errors"}
    assert len(codes) == MAX_CODES + 1
    assert codes[OTHERS] == 6


def test_an_export_costs_nothing_where_nothing_happened(
    sink: FakeSink, observed: Telemetry
) -> None:
    observed.observe(OK)
    observed.export()
    adds = sink.adds
    observed.export()
    assert sink.adds == adds


def test_a_failed_call_counts_by_the_code_of_its_error(sink: FakeSink, observed: Telemetry) -> None:
    observed.observe(CallFacts("reverse", "1.0.0", "error", 1.0, error="pool.overloaded"))
    observed.export()
    assert sink.values["thornback_calls", "reverse", "1.0.0", "error"] == 1
    assert sink.values["thornback_errors", "reverse", "1.0.0", "pool.overloaded"] == 1
    assert ("thornback_queue_seconds_count", "reverse", "1.0.0", "error") not in sink.values


def test_times_are_told_apart_by_what_came_of_the_call(sink: FakeSink, observed: Telemetry) -> None:
    observed.observe(OK)
    for _ in range(3):
        observed.observe(OK._replace(outcome="error", error="tool.timeout", total_s=30.0))
    observed.export()
    tool = ("reverse", "1.0.0")
    for name, ok_s, error_s in (("total", 0.02, 90.0), ("run", 0.015, 0.045)):
        for outcome, calls, sum_s in (("ok", 1, ok_s), ("error", 3, error_s)):
            labels = (*tool, outcome)
            assert sink.values[f"thornback_{name}_seconds_count", *labels] == calls
            assert sink.values[f"thornback_{name}_seconds_sum", *labels] == pytest.approx(sum_s)
    assert sink.values["thornback_queue_seconds_bucket", *tool, "error", "0.005"] == 3
    assert ("thornback_total_seconds_bucket", *tool, "error", "0.025") not in sink.values


def test_bytes_batches_and_cold_starts_are_counted(sink: FakeSink, observed: Telemetry) -> None:
    call = OK._replace(request_bytes=10, result_bytes=30, batch_size=6, cold=True)
    for _ in range(2):
        observed.observe(call)
    observed.export()
    tool = ("reverse", "1.0.0")
    assert sink.values["thornback_request_bytes", *tool] == 20
    assert sink.values["thornback_result_bytes", *tool] == 60
    assert sink.values["thornback_cold_starts", *tool] == 2
    assert sink.values["thornback_batch_size_bucket", *tool, "8"] == 2
    assert ("thornback_batch_size_bucket", *tool, "4") not in sink.values


def test_buckets_are_cumulative_as_prometheus_reads_them(
    sink: FakeSink, observed: Telemetry
) -> None:
    for total_s in (0.001, 0.02, 0.02, 1000):
        observed.observe(OK._replace(total_s=total_s))
    observed.export()
    bucket = ("thornback_total_seconds_bucket", "reverse", "1.0.0", "ok")
    counts = [sink.values[*bucket, bound] for bound in ("0.001", "0.01", "0.025", "60", "+Inf")]
    assert counts == [1, 1, 3, 3, 4]


def test_tools_beyond_the_bound_are_counted_together(
    sink: FakeSink, observed: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "MAX_TOOLS", 2)
    for tool in ("a", "b", "c", "d", "a"):
        observed.observe(OK._replace(tool=tool))
    observed.export()
    calls = {key[1]: n for key, n in sink.values.items() if key[0] == "thornback_calls"}
    assert calls == {"a": 2, "b": 1, "(others)": 2}


def test_a_gauge_whose_subject_has_gone_falls_to_zero(sink: FakeSink, observed: Telemetry) -> None:
    waiting = [Gauged(QUEUED, ("reverse", "1.0.0"), 5)]
    observed.watch(lambda: waiting)
    observed.export()
    assert sink.values["thornback_queued", "reverse", "1.0.0"] == 5
    waiting.clear()
    observed.export()
    assert sink.values["thornback_queued", "reverse", "1.0.0"] == 0


def test_what_could_not_be_exported_is_exported_later(
    sink: FakeSink, observed: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "EXPORT_S", 0.0)
    sink.fails = True
    observed.observe(OK)

    async def scenario() -> None:
        exporting = asyncio.create_task(observed.keep_exporting())
        await sink.tried.wait()
        sink.fails = False
        sink.tried.clear()
        await sink.tried.wait()
        observed.observe(OK)
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exporting

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert sink.values["thornback_calls", "reverse", "1.0.0", "ok"] == 2


@given(st.lists(st.floats(0.0001, 50), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_value_that_it_stands_for(
    values: list[float], share: float
) -> None:
    seen = Distribution(SECONDS)
    for value in values:
        seen.add(value)
    ranked = sorted(values)
    exact = ranked[max(0, -int(-share * len(values) // 1) - 1)]
    quantile = seen.quantile(share)
    assert quantile is not None
    lower = max((b for b in (0.0, *SECONDS) if b < exact), default=0.0)
    upper = min(b for b in SECONDS if b >= exact)
    assert lower <= quantile <= upper + 1e-9


@pytest.mark.parametrize("value_s", [4, 7, 12, 18, 25, 40, 55, 100])
def test_calls_of_seconds_that_all_took_as_long_are_told_nearly_as_long(value_s: float) -> None:
    seen = Distribution(SECONDS)
    for _ in range(10):
        seen.add(value_s)
    for share in (0.5, 0.99):
        assert seen.quantile(share) == pytest.approx(value_s, rel=0.25)


def test_no_values_have_no_quantile() -> None:
    assert Distribution(SECONDS).quantile(0.5) is None


def test_everything_that_is_exported_is_a_metric_of_ray_with_its_labels() -> None:
    sink = RaySink()
    for name, labels in LABELS.items():
        values = dict.fromkeys(labels, "x")
        (sink.put if name in {m.name for m in TABLE if m.kind == "gauge"} else sink.add)(
            name, values, 1
        )
