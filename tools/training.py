"""`train_evaluate`: how well a dataset predicts one of its columns.

Rows come through `queries.py`, so that a column here is what `sql_query` shows. Preparing the
columns, fitting and scoring are functions of arrays; the tool itself only arranges and reports.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from thornback.tools import ToolContext, ToolFailure, queries, tool
from thornback.tools.datasets import dataset as dataset_named
from thornback.tools.queries import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

# Only looked for: importing scikit-learn takes seconds, which the first call pays and not `up`.
if importlib.util.find_spec("sklearn") is None:
    raise ImportError('train_evaluate needs scikit-learn: pip install "thornback[learn]"')

QUERY_TIMEOUT_S = 60.0
MAX_BYTES = 64 * 1024 * 1024
MAX_ROWS = 50_000
MAX_CLASSES = 50
MAX_CATEGORIES = 50
"""Texts with more distinct values are left out: they are names rather than categories."""
MAX_FEATURES = 200
IMPORTANCE_ROWS = 2000
SUSPICIOUS = 0.98
"""A single feature that alone scores so well is reported."""
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")

Task = Literal["classification", "regression"]
Scores = dict[str, float]


@dataclass
class Score:
    """One metric over all folds."""

    mean: float
    std: float


@dataclass
class ModelResult:
    """One model's metrics on the folds that it was not fitted on."""

    model: str
    metrics: dict[str, Score]


@dataclass
class Importance:
    """How much the best model's main metric drops when a feature is shuffled."""

    feature: str
    drop: float


@dataclass
class FoldScores:
    """One model on one fold; sent ahead while the rest runs."""

    fold: int
    model: str
    metrics: Scores


@dataclass
class Evaluation:
    """What `train_evaluate` found."""

    dataset: str
    target: str
    task: Task
    rows: int
    folds: int
    features: list[str]
    main_metric: str
    """The one that decides `best_model`: higher is better."""
    best_model: str
    models: list[ModelResult]
    importances: list[Importance]
    """Of the best model, most important first; at most ten."""
    hints: list[str]
    """What to look at before believing the figures."""


@dataclass
class Table:
    """Features and target as arrays."""

    features: list[str]
    categorical: list[bool]
    """For each feature whether its numbers are codes of categories."""
    x: Matrix
    """(rows, features); NaN where a value is missing."""
    y: Any
    """(rows,): numbers, or class labels as strings."""
    hints: list[str] = field(default_factory=list)


@tool(
    title="Train and evaluate",
    read_only=True,
    idempotent=True,
    open_world=False,
    timeout_s=600,
    tags=["data", "learning"],
)
def train_evaluate(
    dataset: str,
    target: str,
    ctx: ToolContext,
    task: Literal["auto", "classification", "regression"] = "auto",
    features: Annotated[list[str], Field(min_length=1, max_length=MAX_FEATURES)] | None = None,
    folds: Annotated[int, Field(ge=2, le=20)] = 5,
    max_rows: Annotated[int, Field(ge=20, le=MAX_ROWS)] = 20_000,
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
) -> Evaluation:
    """Find out how well the columns of a dataset predict one of them, by cross-validation.

    Use it to tell whether there is signal for a prediction, which columns carry it, and whether
    a simple model is enough. It compares a model that always guesses the same (dummy), a linear
    model and gradient-boosted trees, all with default settings; nothing is tuned and no model is
    kept. It takes seconds to minutes, reports progress per fold, and can be cancelled between
    fits. Look at `hints` before you believe a very good score.

    Args:
        dataset: Name of a registered dataset.
        target: Column to predict; rows without it are left out.
        task: auto means regression for numbers with more than 20 distinct values, else
            classification.
        features: Columns to predict from; left out, all but the target. Texts with more than 50
            distinct values are not used.
        folds: Parts of the cross-validation, 2 to 20.
        max_rows: A larger dataset is sampled to so many rows, at most 50,000.
        seed: Decides the sample and the folds: the same call gives the same figures.

    Returns:
        For each model the mean and standard deviation of its metrics over the folds (accuracy,
        balanced accuracy and macro F1; or R2, MAE and RMSE), the best model, the ten most
        important features, and hints about leaks and small groups.
    """
    dataset_named(dataset)
    types = queries.columns_of(dataset, ctx)
    chosen = _chosen(types, target, features)
    answer = queries.ask(
        f"SELECT {', '.join(map(quoted, [target, *chosen]))} FROM {quoted(dataset)} "
        f"WHERE {quoted(target)} IS NOT NULL "
        f"USING SAMPLE reservoir({max_rows} ROWS) REPEATABLE ({seed})",
        queries.Limits(max_rows, QUERY_TIMEOUT_S, MAX_BYTES),
        ctx,
    )
    if answer.truncated:
        raise ToolFailure("the rows are larger than 64 MB: name fewer features or rows")
    decided = decide_task(task, types[target], answer.column(target))
    table = prepare(answer, decided)
    _check_folds(table, decided, folds)
    with _own_threads():
        evaluation = _cross_validated(table, decided, folds, seed, ctx)
    evaluation.dataset, evaluation.target = dataset, target
    return evaluation


def _own_threads() -> AbstractContextManager[Any]:
    """Inside, fitting takes as many threads as this pool may.

    OpenMP's threads wait by spinning: with more of them than free cores, fitting takes minutes.
    """
    import sklearn.ensemble  # noqa: F401 -- only libraries that are loaded are limited
    import threadpoolctl

    limits: AbstractContextManager[Any] = threadpoolctl.threadpool_limits(
        int(os.environ.get("THORNBACK_THREADS", "1"))
    )
    return limits


def decide_task(
    task: Literal["auto", "classification", "regression"], kind: str, values: list[Any]
) -> Task:
    """Classification or regression.

    Raises:
        ToolFailure: if the target does not suit the task.
    """
    is_number = kind.lstrip("U").startswith(NUMBERS)
    distinct = len({str(value) for value in values})
    if task == "auto":
        task = "regression" if is_number and distinct > 20 else "classification"
    if task == "regression" and not is_number:
        raise ToolFailure(f"the target is {kind}: only numbers can be a regression's target")
    if task == "classification" and distinct > MAX_CLASSES:
        raise ToolFailure(f"the target has {distinct} distinct values, at most {MAX_CLASSES} work")
    if distinct < 2:
        raise ToolFailure("the target has fewer than two distinct values: nothing to predict")
    return task


def prepare(answer: queries.Answer, task: Task) -> Table:
    """Arrays from the rows: the target is the first column, the others are features.

    Numbers stay, dates become seconds, texts become codes; columns that cannot help are left out
    with a hint.

    Raises:
        ToolFailure: if no feature is left.
    """
    import numpy as np

    values = [row[0] for row in answer.rows]
    y = (
        np.array(values, dtype=float)
        if task == "regression"
        else np.array([str(v) for v in values])
    )
    names: list[str] = []
    categorical: list[bool] = []
    columns: list[Any] = []
    hints: list[str] = []
    for index, (name, kind) in enumerate(zip(answer.columns, answer.types, strict=True)):
        if index == 0:
            continue
        column, is_category, hint = _encoded([row[index] for row in answer.rows], kind)
        if column is None:
            hints.append(f"{name} was left out: {hint}")
            continue
        names.append(name)
        categorical.append(is_category)
        columns.append(column)
    if not names:
        raise ToolFailure("no column is left to predict from: " + "; ".join(hints))
    return Table(names, categorical, np.column_stack(columns).astype(float), y, hints)


def _encoded(values: list[Any], kind: str) -> tuple[Any, bool, str]:
    """A column as floats, whether they are codes of categories; or None and why not."""
    import numpy as np

    given = [value for value in values if value is not None]
    distinct = sorted({str(value) for value in given})
    if len(distinct) < 2:
        return None, False, "it is the same in all rows"
    if kind.startswith(("DATE", "TIMESTAMP")):
        moments = [
            np.nan
            if value is None
            else datetime.datetime.fromisoformat(value).replace(tzinfo=datetime.UTC).timestamp()
            for value in values
        ]
        return np.array(moments), False, ""
    if kind.lstrip("U").startswith(NUMBERS) or kind == "BOOLEAN":
        return np.array([np.nan if value is None else float(value) for value in values]), False, ""
    if len(distinct) > MAX_CATEGORIES:
        return None, False, f"it is a text with {len(distinct)} distinct values"
    codes = {value: float(code) for code, value in enumerate(distinct)}
    return np.array([np.nan if v is None else codes[str(v)] for v in values]), True, ""


def _chosen(types: dict[str, str], target: str, features: list[str] | None) -> list[str]:
    wanted = list(dict.fromkeys(features)) if features else [n for n in types if n != target]
    if unknown := [name for name in (target, *wanted) if name not in types]:
        raise ToolFailure(f"no column {unknown[0]!r}; there are {', '.join(types)}")
    if target in wanted:
        raise ToolFailure(f"{target} is the target and cannot be a feature")
    if not wanted or len(wanted) > MAX_FEATURES:
        raise ToolFailure(f"{len(wanted)} features: name 1 to {MAX_FEATURES}")
    return wanted


def _check_folds(table: Table, task: Task, folds: int) -> None:
    import numpy as np

    if len(table.y) < folds * 2:
        raise ToolFailure(f"{len(table.y)} rows are too few for {folds} folds")
    if task == "classification":
        labels, counts = np.unique(table.y, return_counts=True)
        if counts.max() < folds:
            raise ToolFailure(f"no class has {folds} rows: use fewer folds")
        if counts.min() < folds:
            rare = labels[counts.argmin()]
            table.hints.append(
                f"class {rare} has only {counts.min()} rows: some folds have none of it"
            )


def _cross_validated(
    table: Table, task: Task, folds: int, seed: int, ctx: ToolContext
) -> Evaluation:
    found: dict[str, list[Scores]] = {}
    total = len(MODEL_NAMES) * folds + 1
    splits = list(_splits(table, task, folds, seed))
    for fold, (train, test) in enumerate(splits, start=1):
        for name in MODEL_NAMES:
            ctx.check()
            model = _model(name, table, task, seed).fit(table.x[train], table.y[train])
            scores = _scores(task, table.y[test], model.predict(table.x[test]))
            found.setdefault(name, []).append(scores)
            ctx.partial(FoldScores(fold, name, scores))
            done = sum(map(len, found.values()))
            ctx.progress(done, total, f"fold {fold} of {folds}: {name}")
    metric = "balanced_accuracy" if task == "classification" else "r2"
    best = max(found, key=lambda name: sum(scores[metric] for scores in found[name]))
    train, test = splits[-1]
    importances = _importances(table, task, best, train, test, seed) if best != "dummy" else []
    ctx.check()
    hints = [*table.hints, *_leaks(table, task, train, test, seed)]
    if best == "dummy":
        hints.append("no model beats guessing: these features do not predict the target")
    ctx.progress(total, total, "done")
    return Evaluation(
        dataset="",
        target="",
        task=task,
        rows=len(table.y),
        folds=folds,
        features=table.features,
        main_metric=metric,
        best_model=best,
        models=[ModelResult(name, _over_folds(scores)) for name, scores in found.items()],
        importances=importances,
        hints=hints,
    )


MODEL_NAMES = ("dummy", "linear", "gradient_boosting")


def _splits(table: Table, task: Task, folds: int, seed: int) -> Iterator[tuple[Any, Any]]:
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = StratifiedKFold if task == "classification" else KFold
    yield from kind(folds, shuffle=True, random_state=seed).split(table.x, table.y)


def _model(name: str, table: Table, task: Task, seed: int) -> Any:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    is_classification = task == "classification"
    if name == "dummy":
        return DummyClassifier(strategy="prior") if is_classification else DummyRegressor()
    if name == "linear":
        linear = LogisticRegression(max_iter=1000) if is_classification else Ridge()
        return make_pipeline(_linear_columns(table), linear)
    trees = HistGradientBoostingClassifier if is_classification else HistGradientBoostingRegressor
    return trees(categorical_features=table.categorical, random_state=seed)


def _linear_columns(table: Table) -> Any:
    """Numbers filled and scaled, categories as zeros and ones."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categories = [i for i, is_category in enumerate(table.categorical) if is_category]
    numbers = [i for i, is_category in enumerate(table.categorical) if not is_category]
    # A column without any value in one fold must keep its place.
    impute = SimpleImputer(strategy="median", keep_empty_features=True)
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(impute, StandardScaler()), numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
        ]
    )


def _scores(task: Task, truth: Any, predicted: Any) -> Scores:
    from sklearn import metrics

    if task == "regression":
        return {
            "r2": float(metrics.r2_score(truth, predicted)),
            "mae": float(metrics.mean_absolute_error(truth, predicted)),
            "rmse": float(metrics.root_mean_squared_error(truth, predicted)),
        }
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(truth, predicted)),
        "macro_f1": float(metrics.f1_score(truth, predicted, average="macro", zero_division=0)),
    }


def _over_folds(scores: list[Scores]) -> dict[str, Score]:
    import numpy as np

    return {
        metric: Score(
            round(float(np.mean([one[metric] for one in scores])), 4),
            round(float(np.std([one[metric] for one in scores])), 4),
        )
        for metric in scores[0]
    }


def _importances(
    table: Table, task: Task, name: str, train: Any, test: Any, seed: int
) -> list[Importance]:
    from sklearn.inspection import permutation_importance

    model = _model(name, table, task, seed).fit(table.x[train], table.y[train])
    some = test[:IMPORTANCE_ROWS]
    scoring = "balanced_accuracy" if task == "classification" else "r2"
    drops = permutation_importance(
        model, table.x[some], table.y[some], scoring=scoring, n_repeats=3, random_state=seed
    ).importances_mean
    ranked = sorted(zip(table.features, drops, strict=True), key=lambda pair: -pair[1])
    return [Importance(feature, round(float(drop), 4)) for feature, drop in ranked[:10]]


def _leaks(table: Table, task: Task, train: Any, test: Any, seed: int) -> list[str]:
    """Features that alone nearly give the target away: often known only after the fact."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    trees = DecisionTreeClassifier if task == "classification" else DecisionTreeRegressor
    metric = "balanced_accuracy" if task == "classification" else "r2"
    hints = []
    for index, feature in enumerate(table.features):
        one = table.x[:, [index]]
        model = trees(max_depth=8, random_state=seed).fit(one[train], table.y[train])
        score = _scores(task, table.y[test], model.predict(one[test]))[metric]
        if score >= SUSPICIOUS:
            hints.append(
                f"{feature} alone reaches {metric} {score:.2f}: is it known before the target?"
            )
    return hints
