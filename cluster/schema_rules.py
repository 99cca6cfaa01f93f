"""What a schema must be before it is published: valid, bounded, and complete in itself.

Schemas come from authors, from other programs and from pools with environments of their own; every
gateway compiles them and every client reads them. Nothing is fetched: a schema that points beyond
itself is refused before a library could follow it.
"""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec

from thornback.cluster.errors import shown

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DATA = ("const", "default", "enum", "example", "examples")
"""Keywords whose values are data; what looks like a reference in them is none."""


def schema_fault(schema: bytes, *, of_object: bool) -> str | None:
    """Why this JSON Schema cannot be published; None where it can.

    Args:
        schema: JSON. 2020-12 unless its `$schema` names another published draft (2026-07-28,
            basic, "JSON Schema Usage").
        of_object: Whether it must describe an object, as arguments are and results need not be.
    """
    if len(schema) > MAX_SCHEMA_BYTES:
        return f"{len(schema)} bytes, and {MAX_SCHEMA_BYTES} are allowed"
    try:
        document = msgspec.json.decode(schema)
    except msgspec.DecodeError as e:
        return f"not JSON: {e}"
    except RecursionError:
        return f"deeper than {MAX_SCHEMA_DEPTH} levels"
    if not isinstance(document, dict):
        return "not an object"
    if of_object and document.get("type") != "object":
        return 'must have "type": "object" on top'
    return _reach_fault(document) or _draft_fault(document)


def _reach_fault(document: dict[str, Any]) -> str | None:
    # Without recursion, for the depth of the document is not known yet.
    waiting: list[tuple[Any, int, bool]] = [(document, 1, False)]
    while waiting:
        node, depth, is_data = waiting.pop()
        if depth > MAX_SCHEMA_DEPTH:
            return f"deeper than {MAX_SCHEMA_DEPTH} levels"
        if isinstance(node, list):
            waiting += [(x, depth + 1, is_data) for x in node if isinstance(x, dict | list)]
        else:
            outside = None if is_data else _outside_reference(node)
            if outside is not None:
                return outside
            waiting += [
                (value, depth + 1, is_data or key in _DATA)
                for key, value in node.items()
                if isinstance(value, dict | list)
            ]
    return None


def _outside_reference(node: dict[str, Any]) -> str | None:
    for keyword in _REFERENCES:
        target = node.get(keyword)
        if isinstance(target, str) and not target.startswith("#"):
            return f"{keyword} points outside of the schema: {shown(target)!r}"
    return None


def _draft_fault(document: dict[str, Any]) -> str | None:
    dialect = document.get("$schema", "https://json-schema.org/draft/2020-12/schema")
    try:
        jsonschema_rs.validator_for({**document, "$schema": dialect}, offline=True)
    except jsonschema_rs.ValidationError as e:
        path = "/".join(str(step) for step in e.instance_path)
        return f"not a valid schema at /{path}: {e.message}"
    except (jsonschema_rs.ReferencingError, ValueError) as e:
        return f"not a valid schema: {e}"
    return None
