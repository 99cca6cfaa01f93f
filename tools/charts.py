"""`plot_chart`: a picture of a dataset or of a query's result."""

from __future__ import annotations

import datetime
import importlib.util
import io
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from thornback.tools import Image, ToolContext, ToolFailure, ToolResult, queries, tool
from thornback.tools.datasets import dataset as dataset_named
from thornback.tools.queries import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

if importlib.util.find_spec("matplotlib") is None:
    raise ImportError('plot_chart needs matplotlib: pip install "thornback[data]"')

QUERY_TIMEOUT_S = 20.0
MAX_POINTS = 20_000
MAX_BYTES = 4 * 1024 * 1024
MAX_SERIES = 10
MAX_BARS = 50
MAX_TITLE_CHARS = 200
MAX_LABEL_CHARS = 60
"""Laying out a text takes time with its length, and what draws cannot be stopped."""
WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 8.0, 4.5, 110
"""880 x 495 pixels: sharp enough for a model, and a tenth of a megabyte."""

Kind = Literal["line", "bar", "scatter", "histogram", "box"]
Aggregate = Literal["none", "count", "sum", "mean", "median", "min", "max"]
Series = dict[str, tuple[list[Any], list[Any]]]
"""x and y values by the name of the series; one series without a name is called ''."""


@tool(
    title="Plot chart",
    read_only=True,
    idempotent=True,
    open_world=False,
    timeout_s=60,
    tags=["data"],
)
def plot_chart(
    kind: Kind,
    x: str,
    ctx: ToolContext,
    y: str | None = None,
    dataset: str | None = None,
    sql: Annotated[str, Field(max_length=20_000)] | None = None,
    group: str | None = None,
    aggregate: Aggregate = "none",
    bins: Annotated[int, Field(ge=2, le=200)] = 20,
    title: Annotated[str, Field(max_length=MAX_TITLE_CHARS)] | None = None,
) -> ToolResult:
    """Draw a chart of a dataset, or of the result of an SQL query, as a PNG image.

    Use it to show a trend (line), compare categories (bar), relate two numbers (scatter), or
    show a distribution (histogram; box per category). Give either `dataset` or `sql`; with `sql`
    you can filter and compute columns first, in the dialect of sql_query. At most 20,000 points,
    50 bars and 10 series are drawn; more is an error that says so.

    Args:
        kind: line and scatter need x and y; bar needs x, and y unless it counts rows; histogram
            needs a numeric x; box needs a category x and a numeric y.
        x: Column for the horizontal axis.
        y: Column for the vertical axis.
        dataset: Name of a registered dataset.
        sql: One read-only query whose columns are drawn instead of a dataset's.
        group: Column whose values become separate, coloured series.
        aggregate: How the y of rows with the same x (and group) become one: none draws each row.
            A bar chart without y counts rows.
        bins: Number of bars of a histogram.
        title: Heading; left out, the chart is headed by what it shows.

    Returns:
        The image, and a line that says how many points it shows.
    """
    source = _source(dataset, sql)
    if y is None and kind == "bar" and aggregate == "none":
        aggregate = "count"
    if y is None and kind in ("line", "scatter", "box") and aggregate != "count":
        raise ToolFailure(f"a {kind} chart needs y")
    answer = queries.ask(
        _query(source, kind, x, y, group, aggregate),
        queries.Limits(MAX_POINTS, QUERY_TIMEOUT_S, MAX_BYTES),
        ctx,
    )
    if answer.truncated:
        raise ToolFailure(f"more than {MAX_POINTS} points: aggregate or filter with sql")
    if not answer.rows:
        raise ToolFailure("there is nothing to draw: no row has a value in these columns")
    ctx.progress(1, 2, f"{len(answer.rows)} points")
    series = _series(answer)
    label = y if aggregate == "none" else f"{aggregate} of {y}" if y else "rows"
    try:
        png = draw(kind, series, x, label or "rows", group, bins, title or _title(kind, x, label))
    except (ValueError, OverflowError) as error:  # matplotlib's, of values that no axis can hold
        raise ToolFailure("these values lie too far apart, or too far off, to be drawn") from error
    ctx.progress(2, 2)
    return ToolResult([Image(png), f"{kind} chart, {len(answer.rows)} points"])


def draw(
    kind: Kind,
    series: Series,
    x_label: str,
    y_label: str,
    group: str | None,
    bins: int,
    title: str,
) -> bytes:
    """The PNG of a chart.

    Raises:
        ToolFailure: if the values do not suit the kind of chart.
    """
    # Without pyplot: its global state is not for threads.
    from matplotlib.figure import Figure

    if len(series) > MAX_SERIES:
        raise ToolFailure(f"{len(series)} groups: draw at most {MAX_SERIES}, filter with sql")
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_literal(title, MAX_TITLE_CHARS))
    axes.set_xlabel(_literal(x_label))
    axes.set_ylabel("rows" if kind == "histogram" else _literal(y_label))
    axes.grid(visible=True, axis="both" if kind == "scatter" else "y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _DRAWERS[kind](axes, series, bins)
    if len(series) > 1:
        axes.legend(title=_literal(group or ""), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _line(axes: Axes, series: Series, bins: int) -> None:
    for name, (xs, ys) in series.items():
        axes.plot(_places(xs), _numbers(ys, "y"), label=_literal(name), linewidth=1.6)
    _slant_long_labels(axes, series)


def _scatter(axes: Axes, series: Series, bins: int) -> None:
    for name, (xs, ys) in series.items():
        axes.scatter(_places(xs), _numbers(ys, "y"), label=_literal(name), s=16, alpha=0.7)
    _slant_long_labels(axes, series)


def _bar(axes: Axes, series: Series, bins: int) -> None:
    places = {value: None for xs, _ in series.values() for value in xs}
    labels = list(places)
    if len(labels) > MAX_BARS:
        raise ToolFailure(f"{len(labels)} bars: draw at most {MAX_BARS}; aggregate with sql")
    width = 0.8 / len(series)
    for number, (name, (xs, ys)) in enumerate(series.items()):
        offset = (number - (len(series) - 1) / 2) * width
        positions = [labels.index(value) + offset for value in xs]
        axes.bar(positions, _numbers(ys, "y"), width, label=_literal(name))
    axes.set_xticks(range(len(labels)), [_literal(str(label)) for label in labels])
    axes.set_xlim(-0.6, len(labels) - 0.4)
    _slant_long_labels(axes, series)


def _histogram(axes: Axes, series: Series, bins: int) -> None:
    values = [_numbers(xs, "x") for xs, _ in series.values()]
    axes.hist(values, bins=bins, label=[_literal(name) for name in series], histtype="bar")


def _box(axes: Axes, series: Series, bins: int) -> None:
    if len(series) > 1:
        raise ToolFailure("a box chart has no groups: its categories are x")
    categories: dict[str, list[float]] = {}
    for xs, ys in series.values():
        for category, number in zip(xs, _numbers(ys, "y"), strict=True):
            categories.setdefault(str(category), []).append(number)
    if len(categories) > MAX_BARS:
        raise ToolFailure(f"{len(categories)} boxes: draw at most {MAX_BARS}; filter with sql")
    axes.boxplot(
        list(categories.values()), tick_labels=[_literal(name) for name in categories], widths=0.6
    )


_DRAWERS = {"line": _line, "bar": _bar, "scatter": _scatter, "histogram": _histogram, "box": _box}


def _source(dataset: str | None, sql: str | None) -> str:
    if (dataset is None) == (sql is None):
        raise ToolFailure("give either dataset or sql, and not both")
    if sql is not None:
        return f"(\n{sql.strip().rstrip(';')}\n)"
    assert dataset is not None
    return quoted(dataset_named(dataset).name)


def _query(
    source: str, kind: Kind, x: str, y: str | None, group: str | None, aggregate: Aggregate
) -> str:
    """The query for the points: columns x, y and group, without nulls."""
    xs, series = quoted(x), f"{quoted(group)}::VARCHAR" if group else "''"
    if kind == "histogram":
        return f"SELECT {xs}, NULL, {series} FROM {source} WHERE {xs} IS NOT NULL"
    if aggregate == "none":
        ys = quoted(y or x)
        order = "ORDER BY 1" if kind == "line" else ""
        given = f"{xs} IS NOT NULL AND {ys} IS NOT NULL"
        return f"SELECT {xs}, {ys}, {series} FROM {source} WHERE {given} {order}"
    measure = {"mean": "avg"}.get(aggregate, aggregate)
    ys = f"{measure}({quoted(y) if y else '*'})"
    return (
        f"SELECT {xs}, {ys}, {series} FROM {source} WHERE {xs} IS NOT NULL "
        "GROUP BY 1, 3 ORDER BY 1, 3"
    )


def _series(answer: queries.Answer) -> Series:
    is_moment = answer.types[0].startswith(("DATE", "TIMESTAMP"))
    series: Series = {}
    for x, y, name in answer.rows:
        xs, ys = series.setdefault("(none)" if name is None else str(name), ([], []))
        xs.append(_moment(x) if is_moment else _plain(x))
        ys.append(y)
    return dict(sorted(series.items()))


def _moment(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ToolFailure(f"x holds {text}, and only the years 1 to 9999 can be drawn") from None


def _plain(value: Any) -> Any:
    if isinstance(value, list | dict):
        raise ToolFailure("x must be a number, a text or a date; take a part of it with sql")
    return value


def _numbers(values: list[Any], axis: str) -> list[float]:
    for value in values:
        if isinstance(value, (bool, str, datetime.datetime)):
            raise ToolFailure(f"{axis} must be a number, and {value!s} is not; cast it with sql")
    return values


def _places(xs: list[Any]) -> list[Any]:
    """Where on the horizontal axis; each text is a place, and has its label there."""
    texts = {x for x in xs if isinstance(x, str)}
    if len(texts) > MAX_BARS:
        raise ToolFailure(f"{len(texts)} different texts on x: at most {MAX_BARS} can be drawn")
    return [_literal(x) if isinstance(x, str) else x for x in xs]


def _slant_long_labels(axes: Axes, series: Series) -> None:
    values = [value for xs, _ in series.values() for value in xs]
    if values and isinstance(values[0], (str, datetime.datetime)):
        distinct = {str(value) for value in values}
        if len(distinct) > 8 or max(map(len, distinct)) > 12:
            axes.tick_params("x", labelrotation=35)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")


def _title(kind: Kind, x: str, label: str | None) -> str:
    return f"{x}: distribution" if kind == "histogram" else f"{label} by {x}"


def _literal(text: str, longest: int = MAX_LABEL_CHARS) -> str:
    """A text that matplotlib shows as it is, cut if it is long: `$` would begin a formula."""
    if len(text) > longest:
        text = text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return text.replace("$", r"\$")
