import json
from datetime import UTC

import pytest

from thornback.deployments.access_lines import access_line


def line_of(**fields: object) -> str | None:
    return access_line(json.dumps({"time": 1_800_000_000.0, **fields}), UTC)


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


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", '{"a": 1}', "[1]"])
def test_what_is_no_record_is_left_to_the_caller(line: str) -> None:
    assert access_line(line) is None
