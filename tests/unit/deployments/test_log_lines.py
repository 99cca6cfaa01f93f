import json
from datetime import UTC

import pytest

from thornback.deployments.log_lines import log_line, shown_lines


def lines_of(**fields: object) -> list[str]:
    return shown_lines(json.dumps({"time": 1_800_000_000.0, **fields}, separators=(",", ":")), UTC)


def line_of(**fields: object) -> str:
    (line,) = lines_of(**fields)
    return line


def test_an_answered_call_is_one_line() -> None:
    record = {"method": "tools/call", "name": "sql_query", "principal": "lab", "duration_ms": 12.4}
    assert line_of(**record) == "08:00:00  sql_query  ok  12 ms  lab"


def test_a_failed_call_shows_its_code() -> None:
    record = {"method": "tools/call", "name": "slow", "error": "tool.timeout", "duration_ms": 30100}
    assert line_of(**record) == "08:00:00  slow  tool.timeout  30.1 s"


def test_a_refused_request_shows_its_status() -> None:
    record = {"status": 401, "error": "http.refused"}
    assert line_of(**record) == "08:00:00  (not understood)  HTTP 401  http.refused  0 ms"


def test_other_methods_are_named() -> None:
    assert line_of(method="tools/list") == "08:00:00  tools/list  ok  0 ms"


@pytest.mark.parametrize(
    "line", ["", "Traceback (most recent call last):", '{"a": 1}', "[1]", '{"time":"now"}']
)
def test_what_is_no_record_is_shown_as_it_is(line: str) -> None:
    assert log_line(line) is None
    assert shown_lines(line) == [line]


def test_a_record_is_found_behind_a_formatters_prefix() -> None:
    found = log_line('INFO 2026-11-23 gateway -- {"time":1.5,"name":"x"}')
    assert found is not None
    assert (found.time, found.name) == (1.5, "x")


def test_the_id_of_its_request_ends_a_line() -> None:
    asked = {"method": "tools/list", "request_id": "req_1"}
    assert line_of(**asked) == "08:00:00  tools/list  ok  0 ms  req_1"
    printed = {"logger": "stdout", "level": "info", "message": "hello", "tool": "greet"}
    assert line_of(**printed, request_id="req_1") == "08:00:00  greet  hello  req_1"
    assert line_of(**printed, request_ids=["a", "b", "c"]).endswith("hello  a  and 2 more")


def test_a_line_of_several_requests_names_the_one_that_was_asked_for() -> None:
    line = '{"time":1800000000,"logger":"stdout","message":"hello","request_ids":["a","b","c"]}'
    assert shown_lines(line, UTC, ["b", "x"]) == ["08:00:00  hello  b  and 2 more"]
    assert shown_lines(line, UTC, ["x"]) == ["08:00:00  hello  a  and 2 more"]


def test_a_record_says_its_level_and_logger_and_its_traceback_below() -> None:
    record = {"logger": "mine", "level": "error", "message": "failed", "traceback": "a\n  b"}
    assert lines_of(**record) == ["08:00:00  ERROR mine: failed", "    a", "      b"]


def test_a_terminal_finds_nothing_to_obey_in_what_a_tool_said() -> None:
    printed = {"logger": "stdout", "level": "info", "message": "\x1b[2Jcleared", "tool": "t"}
    assert line_of(**printed) == "08:00:00  t  \N{REPLACEMENT CHARACTER}[2Jcleared"


def test_a_line_is_about_its_requests_and_the_error_that_it_tells_of() -> None:
    line = log_line('{"time":1,"logger":"x","request_ids":["a","b"],"message":"failed (err_1)"}')
    assert line is not None
    assert [line.names(each) for each in ("a", "b", "err_1", "c", "failed")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_a_line_is_of_the_tool_that_was_called_or_spoke() -> None:
    called = log_line('{"time":1,"method":"tools/call","name":"greet"}')
    spoke = log_line('{"time":1,"logger":"stdout","tool":"greet","message":"x"}')
    named = log_line('{"time":1,"method":"prompts/get","name":"greet"}')
    assert called is not None
    assert spoke is not None
    assert named is not None
    assert [each.is_of_tool("greet") for each in (called, spoke, named)] == [True, True, False]
