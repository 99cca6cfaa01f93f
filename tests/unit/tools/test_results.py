"""What a returned value becomes on the wire."""

from __future__ import annotations

import base64
import datetime
import enum
import json
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from thornback.cluster.errors import InvalidResult, ResultTooLarge
from thornback.tools import Audio, EmbeddedResource, Image, ResourceLink, ToolResult
from thornback.tools.results import call_tool_result, is_content, readable
from thornback.tools.schemas import Returns, published, returns_of


class Size(BaseModel):
    width: float
    unit: str | None = None


@dataclass
class Range:
    low: int


class Color(enum.Enum):
    RED = "red"


def result_of(value: Any, annotation: Any = None, limit: int = 10_000) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(call_tool_result("t", value, returns_of(annotation), limit))
    return result


def text_of(result: dict[str, Any]) -> str:
    (block,) = result["content"]
    assert block["type"] == "text"
    return str(block["text"])


@pytest.mark.parametrize(
    ("value", "annotation", "structured", "text"),
    [
        ("hi", str, {"result": "hi"}, "hi"),
        (3, int, {"result": 3}, "3"),
        (2.5, float, {"result": 2.5}, "2.5"),
        (True, bool, {"result": True}, "true"),
        ([1, 2], list[int], {"result": [1, 2]}, "[1,2]"),
        ({"a": [1]}, dict[str, list[int]], {"a": [1]}, '{"a":[1]}'),
        (Size(width=1), Size, {"width": 1.0, "unit": None}, '{"width":1.0,"unit":null}'),
        ({"width": 1}, Size, {"width": 1}, '{"width":1}'),
        (Range(1), Range, {"low": 1}, '{"low":1}'),
        (Color.RED, Color, {"result": "red"}, "red"),
        (datetime.date(2026, 7, 28), datetime.date, {"result": "2026-07-28"}, "2026-07-28"),
        (None, int | None, {"result": None}, "done"),
        (["x"], Any, {"result": ["x"]}, '["x"]'),
        ({"x": Range(1)}, Any, {"x": {"low": 1}}, '{"x":{"low":1}}'),
    ],
)
def test_a_value_has_structured_content_and_a_cheap_text(
    value: Any, annotation: Any, structured: dict[str, Any], text: str
) -> None:
    result = result_of(value, annotation)
    assert result["structuredContent"] == structured
    assert text_of(result) == text


def test_nothing_has_a_text_and_no_structure() -> None:
    assert result_of(None) == {"content": [{"type": "text", "text": "done"}]}


def test_a_table_is_read_as_csv() -> None:
    rows = [{"id": 1, "name": None, "note": 'a "b", c'}, {"id": 2, "name": "", "note": "x\ny"}]
    assert readable(rows) == 'id,name,note\n1,,"a ""b"", c"\n2,"","x\ny"'


@pytest.mark.parametrize("value", [[], [{}], [{"a": 1}, {"b": 1}], [{"a": [1]}], [{"a": 1}, 2]])
def test_what_is_no_table_is_read_as_json(value: Any) -> None:
    assert json.loads(readable(value)) == value


PNG = base64.b64encode(b"png").decode()


@pytest.mark.parametrize(
    ("value", "block"),
    [
        (Image(b"png"), {"type": "image", "data": PNG, "mimeType": "image/png"}),
        (Audio(b"png"), {"type": "audio", "data": PNG, "mimeType": "audio/wav"}),
        (
            EmbeddedResource("a:b", "text"),
            {
                "type": "resource",
                "resource": {"uri": "a:b", "mimeType": "text/plain", "text": "text"},
            },
        ),
        (
            b"png",
            {
                "type": "resource",
                "resource": {
                    "uri": "tool:t/result",
                    "mimeType": "application/octet-stream",
                    "blob": PNG,
                },
            },
        ),
        (
            ResourceLink("a:b", "b", size_bytes=3),
            {"type": "resource_link", "uri": "a:b", "name": "b", "size": 3},
        ),
    ],
)
def test_content_stands_for_itself(value: Any, block: dict[str, Any]) -> None:
    assert result_of(value) == {"content": [block]}


def test_a_list_with_content_is_a_list_of_blocks() -> None:
    blocks = result_of(["see:", Image(b"png"), {"a": 1}])["content"]
    assert [block["type"] for block in blocks] == ["text", "image", "text"]
    assert blocks[2]["text"] == '{"a":1}'


def test_a_tool_may_choose_text_and_structure_itself() -> None:
    result = result_of(ToolResult("short", {"n": Range(1)}, {"example/x": 1}))
    assert result == {
        "content": [{"type": "text", "text": "short"}],
        "structuredContent": {"n": {"low": 1}},
        "_meta": {"example/x": 1},
    }


SCHEMA = published({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
WRITTEN = Returns(None, SCHEMA, wraps=False)


@pytest.mark.parametrize(
    ("value", "returns", "misfit"),
    [
        ("three", returns_of(int), "result: expected"),
        (Size.model_construct(width="wide"), returns_of(Size), "width: expected"),
        ({"a": [1.0, float("nan")]}, returns_of(Any), r"result\.a\[1\]: nan is not a JSON number"),
        (float("inf"), returns_of(float), "inf is not a JSON number"),
        (2**64, returns_of(int), "more than 64 bits; return it as a string"),
        (object(), returns_of(Any), "object has no JSON form"),
        ({"blob": b"\xff"}, returns_of(Any), "result: "),
        ([1], WRITTEN, "expected object"),
        (ToolResult("text"), WRITTEN, "expected object"),
        (ToolResult("text", {"m": 1}), WRITTEN, '"n" is missing'),
    ],
)
def test_a_result_that_does_not_fit_is_a_bug_that_says_where(
    value: Any, returns: Returns, misfit: str
) -> None:
    with pytest.raises(InvalidResult, match=misfit):
        call_tool_result("t", value, returns, 10_000)


def test_a_result_above_the_limit_says_both_sizes() -> None:
    with pytest.raises(ResultTooLarge, match="may return 100; ask for less") as refused:
        result_of("x" * 100, str, limit=100)
    assert refused.value.size_bytes > 200


class NumPyScalar:
    def tolist(self) -> int:
        return 7


def test_numpy_values_are_returned_as_the_numbers_they_are() -> None:
    assert result_of({"n": NumPyScalar()}, Any)["structuredContent"] == {"n": 7}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Image, True),
        (list[str | Image], True),
        (bytes, True),
        (ToolResult | None, True),
        (str, False),
        (dict[str, int], False),
    ],
)
def test_types_of_content_are_told_apart(annotation: Any, expected: bool) -> None:
    assert is_content(annotation) is expected
