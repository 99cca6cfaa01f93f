"""What is published passes the converters of the model providers' own client libraries.

"Without change" means: each converter takes the published schema as it is, and what it makes says
the same. Some changes are the providers' own and happen to every schema: strict modes of OpenAI and
Anthropic close objects (`additionalProperties: false`); OpenAI's makes every property required, so
that its models give optional ones too; Google's dialect writes types in capitals and knows fewer
bounds. The cluster checks every bound, whether the model knew of it or not.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
from typing import Any

import anthropic
import google.genai.types as genai
import mcp_types
import msgspec
import pytest
from anthropic.lib.tools.mcp import async_mcp_tool
from google.genai._mcp_utils import agent_platform_to_gemini_tool, mcp_to_gemini_tool
from openai.lib._pydantic import _ensure_strict_json_schema

import thornback.tools
from thornback.tools import Tool, problems, tools_of

WRITTEN_TO_BE_REFUSED = {"json_schema_2020_12_tool"}
"""What the conformance suite wants listed and no model is meant to call."""


def shipped_tools() -> list[Tool]:
    modules = sorted(m.name for m in pkgutil.iter_modules(thornback.tools.__path__))
    return [
        declared
        for module in modules
        for declared in tools_of(importlib.import_module(f"thornback.tools.{module}"))
        if declared.name not in WRITTEN_TO_BE_REFUSED
    ]


TOOLS = shipped_tools()
every_tool = pytest.mark.parametrize("shipped", TOOLS, ids=lambda shipped: shipped.name)


def schema_of(shipped: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.decode(shipped.input_schema)
    return schema


def listed(shipped: Tool) -> mcp_types.Tool:
    return mcp_types.Tool(
        name=shipped.name, description=shipped.description, input_schema=schema_of(shipped)
    )


def closed(node: Any, *, all_required: bool) -> Any:
    """The schema with the changes that strict modes make to every schema, and no others."""
    if isinstance(node, list):
        return [closed(item, all_required=all_required) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {
        key: value
        if key in ("default", "enum", "required")
        else {k: closed(v, all_required=all_required) for k, v in value.items()}
        if key == "properties"
        else closed(value, all_required=all_required)
        for key, value in node.items()
    }
    if changed.get("type") == "object":
        changed.setdefault("additionalProperties", False)
        if all_required and "properties" in changed:
            changed["required"] = list(changed["properties"])
    return changed


def test_the_shipped_tools_are_found() -> None:
    assert {"text_stats", "test_simple_text"} <= {shipped.name for shipped in TOOLS}


@every_tool
def test_every_parameter_of_a_shipped_tool_is_described_by_its_author(shipped: Tool) -> None:
    assert problems(shipped) == []


@every_tool
def test_openai_strict_changes_nothing_but_what_strict_always_changes(shipped: Tool) -> None:
    schema = schema_of(shipped)
    strict = _ensure_strict_json_schema(copy.deepcopy(schema), path=(), root=copy.deepcopy(schema))
    assert strict == closed(schema, all_required=True)


@every_tool
def test_google_takes_the_schema_as_it_is_where_it_takes_json_schema(shipped: Tool) -> None:
    (declaration,) = agent_platform_to_gemini_tool(listed(shipped)).function_declarations or []
    assert declaration.parameters_json_schema == schema_of(shipped)


@every_tool
def test_google_keeps_all_that_its_own_dialect_knows(shipped: Tool) -> None:
    (declaration,) = mcp_to_gemini_tool(listed(shipped)).function_declarations or []
    assert (declaration.name, declaration.description) == (shipped.name, shipped.description)
    assert declaration.parameters is not None
    assert lost(schema_of(shipped), declaration.parameters) == []


GOOGLE_DROPS = {
    # Outside of its dialect, which the cluster checks all the same.
    "x-mcp-header",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "additionalProperties",
    # Known to its dialect, but its MCP converter (3.4) looks for them in snake_case.
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
}


def lost(schema: dict[str, Any], converted: genai.Schema, path: str = "$") -> list[str]:
    """Paths of the keywords of `schema` that did not arrive as they are."""
    found = []
    for keyword, value in schema.items():
        arrived = getattr(converted, {"anyOf": "any_of"}.get(keyword, keyword), None)
        here = f"{path}.{keyword}"
        if keyword == "properties":
            found += [lost(v, (arrived or {})[k], f"{here}.{k}") for k, v in value.items()]
        elif keyword == "items" and value:
            found.append([here] if arrived is None else lost(value, arrived, here))
        elif keyword == "anyOf":
            found += [lost(v, a, here) for v, a in zip(value, arrived or [], strict=True)]
        elif keyword == "type":
            found.append([] if arrived == value.upper() else [here])
        elif keyword not in GOOGLE_DROPS and value and arrived != value:
            found.append([here])
    return [line for lines in found for line in lines]


@every_tool
def test_anthropic_takes_the_schema_as_it_is(shipped: Tool) -> None:
    session: Any = None  # used by calls only
    converted = async_mcp_tool(listed(shipped), session).to_dict()
    assert converted["name"] == shipped.name
    assert converted["description"] == shipped.description
    assert converted["input_schema"] == schema_of(shipped)


@every_tool
def test_anthropic_strict_keeps_the_structure_and_says_the_bounds_in_words(shipped: Tool) -> None:
    strict = anthropic.transform_schema(schema_of(shipped))
    assert shape(strict) == shape(closed(schema_of(shipped), all_required=False))


def shape(node: Any) -> Any:
    """A schema without its bounds and descriptions."""
    if isinstance(node, list):
        return [shape(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = ("type", "properties", "required", "items", "anyOf", "enum", "additionalProperties")
    structure = {
        key: {name: shape(value) for name, value in node[key].items()}
        if key == "properties"
        else shape(node[key])
        for key in kept
        if key in node
    }
    if "enum" in structure:  # the type of the values says the same
        structure.pop("type", None)
    return structure
