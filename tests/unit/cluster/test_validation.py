"""What a caller reads when arguments do not fit."""

import json
from typing import Any

import pytest

from thornback.cluster.validation import MAX_LINE_CHARS, MAX_MISFITS, SchemaCheck, nearest

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "maxLength": 5},
        "limit": {"type": "integer", "minimum": 1},
        "mode": {"enum": ["fast", "slow"]},
        "when": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "filters": {"type": "array", "items": {"$ref": "#/$defs/Filter"}},
    },
    "required": ["query"],
    "additionalProperties": False,
    "$defs": {
        "Filter": {
            "type": "object",
            "properties": {"column": {"type": "string"}},
            "additionalProperties": False,
        }
    },
}


def misfits(value: Any, schema: dict[str, Any] = SCHEMA) -> list[str]:
    return SchemaCheck.compile(json.dumps(schema).encode()).misfits(value)


def test_what_fits_has_no_misfits() -> None:
    assert misfits({"query": "ab", "limit": 3, "filters": [{"column": "x"}]}) == []


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"query": 7}, "query: expected string, given 7 (number)"),
        ({"query": "", "limit": 0}, "limit: expected at least 1, given 0 (number)"),
        ({"query": "", "mode": "fats"}, 'mode: expected one of "fast", "slow", given "fats"'),
        ({"query": "", "when": "x"}, 'when: expected integer or null, given "x" (string)'),
        ({"query": "abcdef"}, 'query: expected at most 5 characters, given "abcdef" (string)'),
        ({}, '(top): required property "query" is missing'),
        ([], "(top): expected object, given array of 0 items"),
    ],
)
def test_a_line_names_path_expected_and_given(value: Any, line: str) -> None:
    (found,) = misfits(value)
    assert found.startswith(line)


def test_a_misspelt_property_is_answered_with_the_nearest_valid_one() -> None:
    found = misfits({"qurey": "x"})
    assert '(top): unknown property "qurey"; did you mean "query"?' in found
    assert any("required property" in line and '"qurey"' in line for line in found)


def test_a_property_like_no_other_is_answered_with_the_valid_ones() -> None:
    (line,) = misfits({"query": "", "zzzzz": 1})
    assert line.endswith('expected one of "query", "limit", "mode", "when", "filters"')


def test_a_misspelt_property_behind_a_reference_is_found_by_its_path() -> None:
    (line,) = misfits({"query": "", "filters": [{"colum": "x"}]})
    assert line == 'filters[0]: unknown property "colum"; did you mean "column"?'


def test_many_misfits_are_counted_and_not_listed() -> None:
    lines = misfits(["x"] * 50, {"type": "array", "items": {"type": "integer"}})
    assert len(lines) == MAX_MISFITS + 1
    assert lines[-1] == "and 40 more"


def test_of_a_large_value_the_first_misfit_is_told() -> None:
    lines = misfits(["x"] * 300_000, {"type": "array", "items": {"type": "integer"}})
    expected = '[0]: expected integer, given "x" (string)'
    assert lines == [expected, "it is too large to look for more"]


def test_a_large_value_below_branches_is_not_explained() -> None:
    numbers = {"type": "array", "items": {"type": "integer"}}
    lines = misfits(["x"] * 300_000, {"anyOf": [numbers, {"type": "null"}]})
    assert lines == ["(top): something in it does not fit, and it is too large to say what"]


def test_a_line_stays_one_short_line_whatever_was_given() -> None:
    value = {"query": "", "a\n" * 500: 1, "mode": "x\n\x1b[31m" * 100}
    for line in misfits(value):
        assert len(line) <= MAX_LINE_CHARS
        assert line.isprintable()


def test_a_pattern_that_would_backtrack_for_ever_is_a_misfit() -> None:
    schema = {"type": "string", "pattern": "^(a|aa)+$(?=x)"}
    assert len(misfits("a" * 40 + "b", schema)) == 1


@pytest.mark.parametrize(
    "schema",
    [b"{", b"3", b'{"type": "objekt"}', b'{"$ref": "#/nope"}', b'{"$ref": "http://x.example/a"}'],
)
def test_what_is_no_schema_of_its_own_does_not_compile(schema: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a JSON Schema|Expecting"):
        SchemaCheck.compile(schema)


def test_the_nearest_name_is_near_or_none() -> None:
    assert nearest("sql_qurey", ["text_embed", "sql_query"]) == "sql_query"
    assert nearest("sql_qurey", ["text_embed", "plot_chart"]) is None
    assert nearest("x" * 10_000, ["x" * 9_999]) is None
