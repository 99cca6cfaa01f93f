"""The tools that the official conformance suite calls; ordinary tools, known to nothing else.

What each must do is the suite's (`@modelcontextprotocol/conformance` 0.2.0-alpha.12, server
scenarios); their prompts and resources are entries of `configs/conformance.yaml`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import Annotated, Any

import msgspec

from thornback.tools import (
    Audio,
    EmbeddedResource,
    Header,
    Image,
    MissingCapability,
    ToolContext,
    ToolFailure,
    tool,
)
from thornback.tools.input_requests import Request, elicitation, roots, sampling

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJg"
    "gg=="
)
SILENCE = base64.b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=")
STEP_S = 0.05
CHANGING_TOOL = "changing_tool"
CHANGING_PROMPT = "changing_prompt"

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
CONFIRM = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
COLOR = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}


# --- contents -------------------------------------------------------------------------------------


@tool
async def test_simple_text() -> str:
    """Return a simple text."""
    return "This is a simple text response for testing."


@tool
async def test_image_content() -> Image:
    """Return a picture of one pixel."""
    return Image(PIXEL)


@tool
async def test_audio_content() -> Audio:
    """Return a sound of one sample."""
    return Audio(SILENCE)


@tool
async def test_embedded_resource() -> EmbeddedResource:
    """Return a resource inside the result."""
    content = "This is an embedded resource content."
    return EmbeddedResource("test://embedded-resource", content, "text/plain")


@tool
async def test_multiple_content_types() -> list[str | Image | EmbeddedResource]:
    """Return a text, a picture and a resource."""
    data = '{"test":"data","value":123}'
    return [
        "Multiple content types test:",
        Image(PIXEL),
        EmbeddedResource("test://mixed-content-resource", data, "application/json"),
    ]


@tool
async def test_error_handling() -> str:
    """Fail, as a tool may."""
    raise ToolFailure("This tool intentionally returns an error for testing")


# --- what is said during a call -------------------------------------------------------------------


@tool
async def test_tool_with_logging(ctx: ToolContext) -> str:
    """Send three log messages."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        ctx.log("info", message)
        await asyncio.sleep(STEP_S)
    return "Sent three log messages."


@tool
async def test_logging_tool(ctx: ToolContext) -> str:
    """Send a log message, where the client asked for such."""
    ctx.log("info", "A log message")
    return "Sent a log message to whoever asked for it."


@tool
async def test_tool_with_progress(ctx: ToolContext) -> str:
    """Report progress three times."""
    for percent in (0, 50, 100):
        ctx.progress(percent, 100)
        await asyncio.sleep(STEP_S)
    return "Reported progress three times."


# --- what is asked of the client ------------------------------------------------------------------


@tool
async def test_sampling(prompt: str, ctx: ToolContext) -> str:
    """Ask the client's model.

    Args:
        prompt: What to ask it.
    """
    answer = ctx.ask({"sampling": sampling(prompt, 100)})["sampling"]
    return f"LLM response: {_text_of(answer)}"


@tool
async def test_elicitation(message: str, ctx: ToolContext) -> str:
    """Ask the user for a name and an address.

    Args:
        message: What the user reads.
    """
    return f"User response: {json.dumps(ctx.elicit(message, {'username': str, 'email': str}))}"


@tool
async def test_elicitation_sep1034_defaults(ctx: ToolContext) -> str:
    """Ask the user with a form that has a default for each type."""
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    }
    filled = ctx.elicit("Please check the defaults", _form(properties))
    return f"Elicitation completed: {json.dumps(filled)}"


@tool
async def test_elicitation_sep1330_enums(ctx: ToolContext) -> str:
    """Ask the user with a form that has every kind of choice."""
    plain = {"type": "string", "enum": ["option1", "option2", "option3"]}
    titled = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]
    properties = {
        "untitledSingle": plain,
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": plain},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    filled = ctx.elicit("Please choose", _form(properties))
    return f"Elicitation completed: {json.dumps(filled)}"


@tool
async def test_streaming_elicitation(ctx: ToolContext) -> str:
    """Report progress, then ask the user for a name."""
    ctx.progress(1, 2)
    return f"Hello, {_name_in(ctx.elicit('What is your name?', NAME, key='q'))}!"


@tool
async def test_missing_capability(ctx: ToolContext) -> str:
    """Work only for clients that offer their model."""
    if "sampling" not in ctx.capabilities:
        raise MissingCapability({"sampling": {}})
    return "The client offers its model."


@tool
async def test_input_required_result_elicitation(ctx: ToolContext) -> str:
    """Greet the user by the name that the user enters."""
    return f"Hello, {_name_in(ctx.elicit('What is your name?', NAME, key='user_name'))}!"


@tool
async def test_input_required_result_sampling(ctx: ToolContext) -> str:
    """Return what the client's model says."""
    requests = {"capital_question": sampling("What is the capital of France?", 100)}
    return _text_of(ctx.ask(requests)["capital_question"])


@tool
async def test_input_required_result_list_roots(ctx: ToolContext) -> str:
    """Return the client's roots."""
    return json.dumps(ctx.ask({"client_roots": roots()})["client_roots"]["roots"])


@tool
async def test_input_required_result_request_state(ctx: ToolContext) -> str:
    """Ask for a confirmation, and expect the state back with it."""
    ctx.ask({"confirm": elicitation("Please confirm", CONFIRM)}, state="confirming")
    return _state_verdict(ctx, "confirming")


@tool
async def test_input_required_result_multiple_inputs(ctx: ToolContext) -> str:
    """Ask for a form, a text of the client's model and the roots at once."""
    requests = {
        "user_name": elicitation("What is your name?", NAME),
        "greeting": sampling("Generate a greeting", 50),
        "client_roots": roots(),
    }
    ctx.ask(requests, state="all three")
    return "All three inputs are here."


@tool
async def test_input_required_result_multi_round(ctx: ToolContext) -> str:
    """Ask two things, one after the other."""
    step1 = {"step1": elicitation("Step 1: What is your name?", NAME)}
    step2 = {"step2": elicitation("Step 2: What is your favorite color?", COLOR)}
    ctx.ask(step1, state="waiting for step 1")
    ctx.ask(step2, state="waiting for step 2")
    return "Both steps are done."


@tool
async def test_input_required_result_tampered_state(ctx: ToolContext) -> str:
    """Ask for a confirmation; a changed state never comes back as far as here."""
    ctx.ask({"confirm": elicitation("Please confirm", CONFIRM)}, state="untouched")
    return _state_verdict(ctx, "untouched")


@tool
async def test_input_required_result_capabilities(ctx: ToolContext) -> str:
    """Ask only for what the client declared."""
    requests: dict[str, Request] = {}
    if "sampling" in ctx.capabilities:
        requests["greeting"] = sampling("Say hello", 50)
    if "elicitation" in ctx.capabilities:
        requests["user_name"] = elicitation("What is your name?", NAME)
    return f"Answered: {', '.join(sorted(ctx.ask(requests))) or 'nothing'}"


# --- schemas and headers --------------------------------------------------------------------------


@tool(name="test_x_mcp_header")
async def x_mcp_header(region: Annotated[str, Header("Region")] = "") -> str:
    """Return a parameter that the client mirrors in a header.

    Args:
        region: Any word.
    """
    return f"region={region}"


JSON_SCHEMA_2020_12 = """{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "$defs": {
    "address": {
      "$anchor": "addressDef",
      "type": "object",
      "properties": {"street": {"type": "string"}, "city": {"type": "string"}}
    }
  },
  "properties": {
    "name": {"type": "string"},
    "address": {"$ref": "#/$defs/address"},
    "contactMethod": {"type": "string", "enum": ["phone", "email"]},
    "phone": {"type": "string"},
    "email": {"type": "string"}
  },
  "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
  "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
  "then": {"required": ["phone"]},
  "else": {"required": ["email"]},
  "additionalProperties": false
}"""


@tool(input_schema=JSON_SCHEMA_2020_12)
async def json_schema_2020_12_tool(**arguments: Any) -> str:
    """Return its arguments; its schema has what JSON Schema 2020-12 brought."""
    return json.dumps(arguments)


# --- a catalog that changes -----------------------------------------------------------------------


@tool(title="Before the change")
async def changing_tool() -> str:
    """Do nothing; its title changes whenever `test_trigger_tool_change` is called."""
    return "Nothing was done."


@tool
async def test_trigger_tool_change() -> str:
    """Change the list of tools."""
    return await _change("tools", CHANGING_TOOL)


@tool
async def test_trigger_prompt_change() -> str:
    """Change the list of prompts."""
    return await _change("prompts", CHANGING_PROMPT)


async def _change(space: Any, name: str) -> str:
    """Give an entry of the catalog its other title."""
    # Only here does a tool need the cluster that it runs in.
    from thornback.cluster.actors import connect
    from thornback.cluster.registry import edit_of

    registry = connect(os.environ["THORNBACK_CLUSTER"])
    catalog = await registry.catalog()
    entry: Any = next(e for e in catalog.of(space).values() if getattr(e, "name", None) == name)
    await registry.write(edit_of(msgspec.structs.replace(entry, title=_other(entry.title))))
    return f"{name} has another title."


def _other(title: str | None) -> str:
    return "Before the change" if title == "After the change" else "After the change"


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _name_in(form: dict[str, Any] | None) -> str:
    return "stranger" if form is None else str(form["name"])


def _text_of(answer: dict[str, Any]) -> str:
    content = answer["content"]
    block = content[0] if isinstance(content, list) else content
    return str(block.get("text", ""))


def _state_verdict(ctx: ToolContext, expected: str) -> str:
    if ctx.request_state != expected:
        raise ToolFailure("the state did not come back")
    return "state-ok"
