from typing import Any

import msgspec
import pytest

from thornback.cluster.catalog import ToolSpec
from thornback.deployments.example_call import example_call


def spec(name: str, **properties: Any) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ToolSpec(
        name=name,
        version="1.0.0",
        description="d",
        input_schema=msgspec.Raw(msgspec.json.encode(schema)),
        pool="p",
    )


TABLE = spec("table", rows={"type": "array"})


def test_sql_is_what_shows_most() -> None:
    assert example_call([TABLE, spec("sql_query")]) == "thornback call sql_query 'sql=SHOW TABLES'"


@pytest.mark.parametrize(
    ("parameter", "word"),
    [({"type": "string"}, "x=hello"), ({"enum": ["mean", "sum"]}, "x=mean")],
)
def test_plain_arguments_are_made_up(parameter: dict[str, Any], word: str) -> None:
    assert example_call([TABLE, spec("t", x=parameter)]) == f"thornback call t {word}"


def test_a_tool_that_needs_more_is_shown_instead() -> None:
    assert example_call([TABLE]) == "thornback tools table"
    dated = spec("d", day={"type": "string", "format": "date"})
    assert example_call([dated]) == "thornback tools d"


def test_without_a_tool_the_list_is_shown() -> None:
    assert example_call([]) == "thornback tools"
