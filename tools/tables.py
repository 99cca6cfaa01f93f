"""`table_profile`: what is in a dataset, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from thornback.tools import ToolContext, ToolFailure, queries, tool
from thornback.tools.datasets import dataset as dataset_named
from thornback.tools.queries import quoted

QUERY_TIMEOUT_S = 60.0
MAX_COLUMNS = 200
EXAMPLES = 5
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
MOMENTS = ("DATE", "TIMESTAMP", "TIME")


@dataclass
class Example:
    """A value and how often it occurs."""

    value: Any
    rows: int


@dataclass
class ColumnProfile:
    """One column. Quantiles are there for numbers and dates, means for numbers."""

    name: str
    type: str
    """DuckDB's name, as `sql_query` sees the column."""
    nulls: int
    distinct: int
    """Distinct values that are not null."""
    examples: list[Example]
    """The most frequent values, most frequent first."""
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, Any] = field(default_factory=dict)
    """`min`, `p25`, `median`, `p75`, `max`."""


@dataclass
class TableProfile:
    """A dataset and its columns."""

    dataset: str
    rows: int
    columns: list[ColumnProfile]


@tool(
    title="Table profile",
    read_only=True,
    idempotent=True,
    open_world=False,
    timeout_s=120,
    tags=["data"],
)
def table_profile(
    dataset: str,
    ctx: ToolContext,
    columns: Annotated[list[str], Field(max_length=MAX_COLUMNS)] | None = None,
) -> TableProfile:
    """Describe the columns of a dataset: types, nulls, distinct values, quantiles, examples.

    Use it before sql_query, plot_chart or train_evaluate on a dataset that you do not know yet:
    it shows what the columns are called, what their values look like and where values are
    missing. `SHOW TABLES` in sql_query lists the datasets. Figures are exact, over all rows;
    progress is reported per column.

    Args:
        dataset: Name of the dataset.
        columns: The columns to describe; leave it out for all of them (at most 200).

    Returns:
        The number of rows, and for each column its type as SQL sees it, nulls, distinct values
        and the five most frequent values with their counts; for numbers and dates also min,
        quartiles and max, for numbers also mean and standard deviation.
    """
    dataset_named(dataset)
    types = queries.columns_of(dataset, ctx)
    chosen = _chosen(columns, types)
    rows = _ask(f"SELECT count(*) FROM {quoted(dataset)}", ctx).rows[0][0]
    profiles = []
    for number, name in enumerate(chosen, start=1):
        profile = _profile(dataset, name, types[name], rows, ctx)
        profiles.append(profile)
        ctx.partial(profile)
        ctx.progress(number, len(chosen), name)
    return TableProfile(dataset, rows, profiles)


def _chosen(columns: list[str] | None, types: dict[str, str]) -> list[str]:
    if unknown := [name for name in columns or () if name not in types]:
        raise ToolFailure(f"no column {unknown[0]!r}; there are {', '.join(types)}")
    chosen = list(dict.fromkeys(columns)) if columns else list(types)
    if len(chosen) > MAX_COLUMNS:
        raise ToolFailure(f"{len(chosen)} columns: name at most {MAX_COLUMNS} of them")
    return chosen


def _profile(dataset: str, name: str, kind: str, rows: int, ctx: ToolContext) -> ColumnProfile:
    column, table = quoted(name), quoted(dataset)
    measures = {"filled": f"count({column})", "distinct": f"count(DISTINCT {column})"}
    is_number, is_moment = kind.lstrip("U").startswith(NUMBERS), kind.startswith(MOMENTS)
    if is_number:
        measures |= {"mean": f"avg({column})", "std": f"stddev_samp({column}::DOUBLE)"}
    if is_number or is_moment:
        exact = "cont" if is_number else "disc"
        measures |= {
            "min": f"min({column})",
            **{
                label: f"quantile_{exact}({column}, {fraction})"
                for label, fraction in (("p25", 0.25), ("median", 0.5), ("p75", 0.75))
            },
            "max": f"max({column})",
        }
    measured = _ask(f"SELECT {', '.join(measures.values())} FROM {table}", ctx).rows[0]
    figures = dict(zip(measures, measured, strict=True))
    shown = column if is_number or kind == "BOOLEAN" else f"left({column}::VARCHAR, 80)"
    frequent = _ask(
        f"SELECT {shown}, count(*) FROM {table} WHERE {column} IS NOT NULL "
        f"GROUP BY {column} ORDER BY 2 DESC, {column} LIMIT {EXAMPLES}",
        ctx,
    )
    return ColumnProfile(
        name=name,
        type=kind,
        nulls=rows - figures["filled"],
        distinct=figures["distinct"],
        examples=[Example(value, count) for value, count in frequent.rows],
        mean=figures.get("mean"),
        std=figures.get("std"),
        quantiles={
            label: figures[label]
            for label in ("min", "p25", "median", "p75", "max")
            if figures.get(label) is not None
        },
    )


def _ask(sql: str, ctx: ToolContext) -> queries.Answer:
    return queries.ask(sql, queries.Limits(1000, QUERY_TIMEOUT_S), ctx)
