"""`plot_chart`: each kind draws, and what cannot be drawn says why."""

import struct
from typing import Any

import pytest

from thornback.tools import Image, ToolFailure, charts

from .conftest import Recorded


def drawn(**arguments: Any) -> tuple[Image, str]:
    (image, text) = charts.plot_chart(ctx=Recorded().ctx, **arguments).content  # type: ignore[misc]
    assert isinstance(image, Image)
    return image, str(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "scatter", "x": "bill_length_mm", "y": "body_mass_g", "group": "species"},
        {"kind": "bar", "x": "island", "group": "sex"},
        {"kind": "bar", "x": "species", "y": "body_mass_g", "aggregate": "mean"},
        {"kind": "histogram", "x": "body_mass_g", "bins": 7},
        {"kind": "box", "x": "species", "y": "body_mass_g"},
        {"kind": "line", "x": "year", "y": "body_mass_g", "aggregate": "median"},
    ],
    ids=lambda arguments: "-".join(map(str, arguments.values())),
)
def test_every_kind_is_a_png_of_the_size_promised(shipped: None, arguments: dict[str, Any]) -> None:
    image, text = drawn(dataset="penguins", **arguments)
    assert image.data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", image.data[16:24]) == (880, 495)
    assert len(image.data) < 200_000
    assert text.startswith(f"{arguments['kind']} chart, ")


def test_a_query_can_be_drawn_and_its_dates_are_dates(shipped: None) -> None:
    sql = "SELECT date_trunc('month', date) AS month, avg(temp_max) AS t FROM weather GROUP BY ALL;"
    _, text = drawn(kind="line", sql=sql, x="month", y="t")
    assert text == "line chart, 48 points"


def test_different_data_make_different_pictures(shipped: None) -> None:
    one, _ = drawn(kind="histogram", dataset="penguins", x="body_mass_g")
    other, _ = drawn(kind="histogram", dataset="penguins", x="flipper_length_mm")
    assert one != other


def test_a_dollar_sign_in_a_title_is_not_a_formula(shipped: None) -> None:
    drawn(kind="histogram", dataset="penguins", x="year", title="cost in $ and $\\frac{1$")


@pytest.mark.parametrize("kind", ["bar", "line", "box"])
def test_a_text_without_end_is_a_short_label(shipped: None, kind: str) -> None:
    drawn(kind=kind, x="x", y="y", sql="SELECT repeat('x', 800000) AS x, 1 AS y")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "bar", "x": "species"}, "give either dataset or sql"),
        ({"kind": "line", "dataset": "penguins", "x": "year"}, "a line chart needs y"),
        ({"kind": "bar", "dataset": "penguins", "x": "bill_length_mm"}, "draw at most 50"),
        ({"kind": "histogram", "dataset": "penguins", "x": "island"}, "x must be a number"),
        ({"kind": "scatter", "dataset": "penguins", "x": "year", "y": "sex"}, "y must be a number"),
        ({"kind": "bar", "dataset": "penguins", "x": "spezies"}, '"spezies" not found'),
        ({"kind": "bar", "sql": "SELECT 1 AS a WHERE false", "x": "a"}, "nothing to draw"),
        ({"kind": "line", "sql": "FROM range(30000)", "x": "range", "y": "range"}, "20000 points"),
        ({"kind": "line", "sql": "FROM range(50), range(20) g(g)", "x": "range", "y": "g",
          "group": "g"}, "at most 10"),
        ({"kind": "bar", "sql": "FROM read_text('/etc/passwd')", "x": "content"}, "not allowed"),
        ({"kind": "line", "sql": "SELECT i::VARCHAR AS x, i AS y FROM range(99) t(i)", "x": "x",
          "y": "y"}, "99 different texts"),
        ({"kind": "bar", "sql": "SELECT [1] AS x", "x": "x"}, "a number, a text or a date"),
        ({"kind": "bar", "sql": "SELECT DATE '20000-01-01' AS x", "x": "x"}, "years 1 to 9999"),
        ({"kind": "line", "sql": "SELECT DATE '0001-01-01' + i::INT * 999999 AS x, i AS y "
          "FROM range(4) t(i)", "x": "x", "y": "y"}, "too far off"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_says_why(shipped: None, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ToolFailure, match=says):
        drawn(**arguments)
