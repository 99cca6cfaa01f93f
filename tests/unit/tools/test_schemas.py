"""What types become when they are published, and what arguments become for a function."""

from __future__ import annotations

import datetime
import enum
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from thornback.cluster.validation import SchemaCheck
from thornback.tools import Header, problems, tool
from thornback.tools.definition import DefinitionError, Tool, tool_of
from thornback.tools.schemas import Misfit


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    """Where."""

    x: int
    label: str | None = None


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


@dataclass
class Range:
    low: float
    high: float = 1.0


class Row(TypedDict):
    id: int


SHAPE: Any = Field(default_factory=lambda: Range(0))


@tool
def everything(
    text: str,
    when: datetime.date,
    color: Color,
    point: Point,
    rows: list[Row],
    kind: Literal["only"] = "only",
    amount: Annotated[int, Field(gt=0, lt=10)] = 3,
    limit: int | None = None,
    within: Range | None = None,
    either: int | str | None = None,
    copy: bool = False,
    shape: Point | Range = SHAPE,
) -> dict[str, int]:
    """Take everything."""
    raise NotImplementedError


def input_of(declared: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(declared.input_schema)
    return schema


def keywords_in(node: Any) -> set[str]:
    if isinstance(node, list):
        return {k for item in node for k in keywords_in(item)}
    if not isinstance(node, dict):
        return set()
    properties = node.get("properties", {})
    below = {k: v for k, v in node.items() if k not in ("properties", "default", "enum")}
    return {*node, *keywords_in(list(properties.values())), *keywords_in(list(below.values()))}


def test_a_published_schema_has_nothing_that_a_model_provider_refuses() -> None:
    schema = input_of(tool_of(everything))
    assert schema["type"] == "object"
    assert keywords_in(schema) <= {
        "type", "properties", "required", "description", "default", "enum", "format", "items",
        "anyOf", "minimum", "maximum",
    }  # fmt: skip
    assert "null" not in json.dumps(schema)
    assert schema["required"] == ["text", "when", "color", "point", "rows"]


def test_every_parameter_is_described_nested_ones_too() -> None:
    def undescribed(node: Any) -> list[str]:
        if not isinstance(node, dict):
            return []
        here = [n for n, p in node.get("properties", {}).items() if "description" not in p]
        inner = [*node.get("properties", {}).values(), node.get("items"), *node.get("anyOf", [])]
        return here + [name for value in inner for name in undescribed(value)]

    assert undescribed(input_of(tool_of(everything))) == []


def test_an_optional_parameter_may_be_left_out_and_is_not_null() -> None:
    properties = input_of(tool_of(everything))["properties"]
    assert properties["limit"] == {"type": "integer", "description": "Limit"}
    assert properties["either"]["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert properties["point"]["properties"]["label"] == {"type": "string", "description": "Label"}
    assert properties["point"]["description"] == "Where."


def test_bounds_and_constants_are_said_in_the_words_that_all_providers_know() -> None:
    properties = input_of(tool_of(everything))["properties"]
    assert (properties["amount"]["minimum"], properties["amount"]["maximum"]) == (1, 9)
    assert properties["kind"]["enum"] == ["only"]


def test_a_recursive_type_keeps_its_references_and_works() -> None:
    @tool
    def plant(tree: Tree) -> Tree:
        """Plant."""
        raise NotImplementedError

    declared = tool_of(plant)
    assert list(input_of(declared)["$defs"]) == ["Tree"]
    check = SchemaCheck.compile(declared.input_schema)
    assert check.misfits({"tree": {"name": "a", "children": [{"name": "b"}]}}) == []
    assert check.misfits({"tree": {"name": "a", "children": [{"nam": "b"}]}})
    assert declared.output_schema is not None
    assert json.loads(declared.output_schema)["type"] == "object"


def test_a_schema_is_the_same_bytes_every_time() -> None:
    first = tool_of(everything)
    again = tool_of(tool(name="everything")(everything))
    assert (again.input_schema, again.output_schema) == (first.input_schema, first.output_schema)


def test_arguments_become_what_the_types_say() -> None:
    given = {
        "text": "t",
        "when": "2026-07-28",
        "color": "red",
        "point": {"x": 1},
        "rows": [{"id": 1}],
        "within": {"low": 0.5},
    }
    assert SchemaCheck.compile(tool_of(everything).input_schema).misfits(given) == []
    parsed = tool_of(everything).arguments.parse(json.dumps(given).encode())
    assert parsed["when"] == datetime.date(2026, 7, 28)
    assert parsed["color"] is Color.RED
    assert parsed["point"] == Point(x=1)
    assert parsed["within"] == Range(0.5)
    assert (parsed["limit"], parsed["copy"], parsed["amount"]) == (None, False, 3)
    assert parsed["shape"] == Range(0)


def test_null_for_an_optional_parameter_is_none_to_the_function() -> None:
    @tool
    def find(limit: int | None = None) -> None:
        """Find."""

    assert tool_of(find).arguments.parse(b'{"limit": null}') == {"limit": None}


def test_unknown_arguments_are_refused_with_the_nearest_name() -> None:
    @tool
    def find(limit: int = 1) -> None:
        """Find."""

    with pytest.raises(Misfit) as caught:
        tool_of(find).arguments.parse(b'{"limt": 2, "limit": "many"}')
    assert caught.value.lines == [
        "limit: Input should be a valid integer, unable to parse string as an integer",
        'limt: unknown property; did you mean "limit"?',
    ]


def test_many_misfits_of_arguments_are_counted_and_not_listed() -> None:
    @tool
    def add_up(numbers: list[int]) -> int:
        """Add up."""
        return sum(numbers)

    with pytest.raises(Misfit) as caught:
        tool_of(add_up).arguments.parse(json.dumps({"numbers": ["x"] * 50}).encode())
    assert len(caught.value.lines) == 11
    assert caught.value.lines[-1] == "and 40 more"


def test_a_parameter_that_allows_none_beside_another_default_is_a_problem() -> None:
    @tool
    def find(limit: Annotated[int | None, Field(description="Rows")] = 10) -> None:
        """Find."""

    assert "null" not in tool_of(find).input_schema.decode()
    assert problems(tool_of(find)) == [
        "find: parameter limit allows None but callers cannot send it, since it is optional: make "
        "None its default"
    ]


def test_a_required_parameter_may_be_null() -> None:
    @tool
    def find(limit: int | None) -> None:
        """Find."""

    limit = input_of(tool_of(find))["properties"]["limit"]
    assert limit["anyOf"] == [{"type": "integer"}, {"type": "null"}]


def test_a_parameter_of_any_type_is_a_problem() -> None:
    @tool
    def find(
        what: Any,
    ) -> None:
        """Find.

        Args:
            what: Something.
        """

    assert problems(tool_of(find)) == ["find: parameter what may be anything: give it a type"]


def test_a_default_that_json_cannot_say_is_not_published() -> None:
    @tool
    def find(ratio: float = float("nan")) -> None:
        """Find."""

    assert "default" not in input_of(tool_of(find))["properties"]["ratio"]
    assert tool_of(find).arguments.parse(b"{}")["ratio"] != 0


@pytest.mark.parametrize("annotation", [Annotated[str, Header("Region")], "optional"])
def test_a_header_annotation_is_published(annotation: Any) -> None:
    kind = Annotated[str | None, Header("Region")] if annotation == "optional" else annotation

    def route(region) -> None:  # type: ignore[no-untyped-def]
        """Route."""

    route.__annotations__["region"] = kind
    route.__defaults__ = (None,) if annotation == "optional" else None
    assert input_of(tool_of(tool(route)))["properties"]["region"]["x-mcp-header"] == "Region"


def test_a_header_that_mcp_does_not_allow_is_refused() -> None:
    def route(regions: Annotated[list[str], Header("Region")]) -> None:
        """Route."""

    with pytest.raises(DefinitionError, match="only permitted on integer/string/boolean"):
        tool(route)


@pytest.mark.parametrize(
    ("annotation", "wrapped"),
    [(int, True), (list[Row], True), (Point, False), (Range, False), (Row, False), (dict, False)],
)
def test_results_that_are_no_objects_are_wrapped(annotation: Any, wrapped: bool) -> None:
    def find():  # type: ignore[no-untyped-def]
        """Find."""

    find.__annotations__["return"] = annotation
    schema = json.loads(tool_of(tool(find)).output_schema or b"null")
    assert schema["type"] == "object"
    assert (list(schema.get("properties", {})) == ["result"]) is wrapped
