"""A call of a tool to try, made from its schema: pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import msgspec

from thornback.cluster.catalog import ToolSpec

FAVOURITE = {"sql_query": ["sql=SHOW TABLES"]}
"""What shows more of a tool that ships than its schema can know."""
_VALUES = {"string": "hello", "integer": "1", "number": "1", "boolean": "true"}


def example_call(tools: Iterable[ToolSpec]) -> str:
    """A command line to try: the call of a tool whose arguments can be made up, else its page."""
    specs = sorted(tools, key=lambda spec: spec.name not in FAVOURITE)
    for spec in specs:
        words = FAVOURITE.get(spec.name, _made_up(msgspec.json.decode(spec.input_schema)))
        if words is not None:
            return shlex.join(["thornback", "call", spec.name, *words])
    return shlex.join(["thornback", "tools", *(spec.name for spec in specs[:1])])


def _made_up(schema: dict[str, Any]) -> list[str] | None:
    """A word for each required parameter; None where one needs more than a plain value."""
    words = []
    for name in schema.get("required", []):
        value = _value(schema.get("properties", {}).get(name))
        if value is None:
            return None
        words.append(f"{name}={value}")
    return words


def _value(parameter: Any) -> str | None:
    if not isinstance(parameter, dict) or {"pattern", "format", "minimum"} & parameter.keys():
        return None
    choices = parameter.get("enum") or [_VALUES.get(str(parameter.get("type")))]
    return None if choices[0] is None else str(choices[0])
