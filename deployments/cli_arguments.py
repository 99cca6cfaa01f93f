"""From `key=value` words on the command line to the arguments of a tool: pure.

The tool's input schema says how a word is read; where it says nothing a value is JSON if it parses
as JSON, and text otherwise. Whether the arguments are valid is for the cluster to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

ReadFile = Callable[[str], str]


def arguments_of(words: Sequence[str], schema: dict[str, Any], read: ReadFile) -> dict[str, Any]:
    """The arguments that `words` spell.

    Args:
        words: `key=value`; `key=@file` takes the value from a file; an array may be JSON, or the
            same key again for each item.
        schema: The tool's input schema; `{}` where it is not known.
        read: From the name of a file to its text.

    Raises:
        ValueError: a word cannot be read; the message says which and what was expected.
    """
    properties = schema.get("properties", {})
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is neither key=value nor a JSON object")
        if text.startswith("@"):
            text = read(text[1:])
        types = _types_in(properties.get(key, {}))
        if "array" in types and not text.lstrip().startswith("["):
            item = _value(key, text, _types_in(properties[key].get("items", {})))
            earlier = arguments.setdefault(key, [])
            if not isinstance(earlier, list):
                raise ValueError(f"{key} is given twice")
            earlier.append(item)
        elif key in arguments:
            raise ValueError(f"{key} is given twice")
        else:
            arguments[key] = _value(key, text, types)
    return arguments


def _types_in(schema: Any) -> set[str]:
    """Names of the JSON types that a schema allows; empty where it does not say."""
    if not isinstance(schema, dict):
        return set()
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else set(named)
    for alternative in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        types |= _types_in(alternative)
    if not types and "enum" in schema:
        types = {"string"} if all(isinstance(v, str) for v in schema["enum"]) else set()
    return types


def _value(key: str, text: str, types: set[str]) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = None if types == {"null"} else text
        if not types or "string" in types:
            return text
    if not types or _fits(value, types):
        return value
    if "string" in types:
        return text
    raise ValueError(f"{key}: expected {' or '.join(sorted(types))}, given {text[:40]!r}")


def _fits(value: Any, types: set[str]) -> bool:
    if value is None:
        return "null" in types
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int):
        return bool(types & {"integer", "number"})
    if isinstance(value, float):
        return "number" in types
    # A text in quotes stays as it was typed: the shell has already taken the user's own quotes.
    return isinstance(value, dict | list) and (
        "object" if isinstance(value, dict) else "array"
    ) in (types)
