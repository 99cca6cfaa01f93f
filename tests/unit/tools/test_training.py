"""`train_evaluate`: real signal is found, no signal is said, leaks are pointed at."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import threadpoolctl

from thornback.tools import ToolFailure, queries, training
from thornback.tools.context import CallCancelled

from .conftest import Recorded

Register = Callable[..., None]


@pytest.fixture
def noise(tmp_path: Path, register: Register) -> None:
    rows = [f"{i * 7919 % 1000},{i * 104729 % 2},{i}" for i in range(60)]
    (tmp_path / "noise.csv").write_text("x,y,id\n" + "\n".join(rows) + "\n")
    register(noise=f"{tmp_path}/noise.csv")


def test_species_are_told_apart_by_their_bills(shipped: None, call: Recorded) -> None:
    features = ["bill_length_mm", "bill_depth_mm", "island"]
    found = training.train_evaluate("penguins", "species", call.ctx, features=features, folds=2)
    accuracy = {model.model: model.metrics["accuracy"].mean for model in found.models}
    assert found.task == "classification"
    assert accuracy["dummy"] < 0.5 < 0.9 < accuracy[found.best_model]
    assert found.importances[0].feature == "bill_length_mm"
    assert found.rows == 344


def test_a_number_with_many_values_is_a_regression(shipped: None, call: Recorded) -> None:
    features = ["temp_min", "date"]
    found = training.train_evaluate("weather", "temp_max", call.ctx, features=features, folds=2)
    r2 = {model.model: model.metrics["r2"].mean for model in found.models}
    assert found.task == "regression"
    assert r2["dummy"] < 0.01 < 0.6 < r2["gradient_boosting"]


def test_each_fit_is_reported_and_the_last_report_is_the_end(shipped: None, call: Recorded) -> None:
    training.train_evaluate("penguins", "sex", call.ctx, features=["body_mass_g"], folds=2)
    reported = [msgspec.json.decode(part.value) for part in call.partials]
    assert [(one["fold"], one["model"]) for one in reported] == [
        (fold, model) for fold in (1, 2) for model in training.MODEL_NAMES
    ]
    assert call.progress[-1].progress == call.progress[-1].total


def test_the_same_call_gives_the_same_figures(shipped: None) -> None:
    first, second = (
        training.train_evaluate(
            "penguins", "species", Recorded().ctx, folds=2, features=["bill_length_mm", "sex"]
        )
        for _ in range(2)
    )
    assert first == second


def test_cancelling_stops_before_the_next_fit(shipped: None, call: Recorded) -> None:
    report = call.ctx.partial
    call.ctx.partial = lambda *a, **k: (report(*a, **k), call.ctx.cancel())[0]  # type: ignore
    with pytest.raises(CallCancelled):
        training.train_evaluate("penguins", "species", call.ctx)
    assert len(call.partials) == 1


def test_a_feature_that_gives_the_target_away_is_pointed_at(
    tmp_path: Path, register: Register, call: Recorded
) -> None:
    rows = [f"{i % 2},{i % 2 * 5 + 1},{i * 31 % 17}" for i in range(80)]
    (tmp_path / "leak.csv").write_text("bought,invoice,visits\n" + "\n".join(rows) + "\n")
    register(leak=f"{tmp_path}/leak.csv")
    found = training.train_evaluate("leak", "bought", call.ctx, folds=2)
    assert any(hint.startswith("invoice alone reaches") for hint in found.hints)


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["same"] * 30, "VARCHAR", "it is the same in all rows"),
        ([f"name {i}" for i in range(60)], "VARCHAR", "it is a text with 60 distinct values"),
    ],
)
def test_columns_that_cannot_help_are_left_out_with_the_reason(
    values: list[str], kind: str, why: str
) -> None:
    rows = [[i % 2, i, value] for i, value in enumerate(values)]
    answer = queries.Answer(["y", "x", "text"], ["BIGINT", "BIGINT", kind], rows)
    table = training.prepare(answer, "classification")
    assert table.features == ["x"]
    assert table.hints == [f"text was left out: {why}"]


@pytest.mark.parametrize(
    ("target", "arguments", "says"),
    [
        ("spezies", {}, "no column 'spezies'; there are species"),
        ("species", {"features": ["species"]}, "cannot be a feature"),
        ("species", {"task": "regression"}, "only numbers can be"),
        ("body_mass_g", {"task": "classification"}, "94 distinct values"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    shipped: None, call: Recorded, target: str, arguments: dict[str, object], says: str
) -> None:
    with pytest.raises(ToolFailure, match=says):
        training.train_evaluate("penguins", target, call.ctx, **arguments)  # type: ignore[arg-type]


def test_too_few_rows_for_the_folds_are_refused(noise: None, call: Recorded) -> None:
    with pytest.raises(ToolFailure, match="rows are too few for 20 folds"):
        training.train_evaluate("noise", "y", call.ctx, folds=20, max_rows=20)


def test_fitting_takes_the_threads_of_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (1, 2):
        monkeypatch.setenv("THORNBACK_THREADS", str(threads))
        with training._own_threads():
            pools = threadpoolctl.threadpool_info()
        assert {pool["num_threads"] for pool in pools if pool["user_api"] == "openmp"} == {threads}
