"""The client in memory shows a tool as an agent sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import mcp
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from thornback.cluster.messages import Log, Progress
from thornback.tools import MissingCapability, ToolContext, text, tool
from thornback.tools.testing import Recorded, client


@tool(read_only=True, title="Greeting")
def greet(ctx: ToolContext, loudly: bool = False) -> str:
    """Greet the user by name."""
    ctx.progress(1, 2, "asking")
    ctx.log("info", "asking")
    person = ctx.elicit("Your name?", {"name": str})
    greeting = "Hello, " + (person["name"] if person else "stranger")
    return greeting.upper() if loudly else greeting


@tool
def shout(text: str, times: int = 2) -> str:
    """Say it several times."""
    return text * times


@tool
def refusing() -> str:
    """Refuse."""
    raise MissingCapability({"sampling": {}})


def with_client(use: Callable[[mcp.Client], Awaitable[Any]], *targets: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with client(*targets, **options) as connected:
            return await use(connected)

    return asyncio.run(main())


def test_modules_and_single_tools_are_listed_as_published() -> None:
    listed = with_client(lambda c: c.list_tools(), text, greet).tools
    assert [entry.name for entry in listed] == ["greet", "text_diff", "text_find", "text_stats"]
    assert listed[0].title == "Greeting"
    assert listed[0].annotations.read_only_hint is True
    assert list(listed[0].input_schema["properties"]) == ["loudly"]


def test_questions_progress_and_log_messages_reach_the_client() -> None:
    progress: list[Any] = []
    logs: list[Any] = []

    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def note(params: Any) -> None:
        logs.append((params.level, params.data))

    async def heard(*said: Any) -> None:
        progress.append(said)

    async def use(connected: mcp.Client) -> Any:
        return await connected.call_tool("greet", {"loudly": True}, progress_callback=heard)

    result = with_client(
        use, greet, elicitation_callback=answer, logging_callback=note, log_level="info"
    )
    assert result.structured_content == {"result": "HELLO, ADA"}
    assert set(progress) == {(1, 2, "asking")}
    assert set(logs) == {("info", "asking")}


def test_a_client_of_an_older_revision_is_told_that_it_cannot_be_asked() -> None:
    async def never(context: Any, params: Any) -> types.ElicitResult:
        raise NotImplementedError

    result = with_client(
        lambda c: c.call_tool("greet", {}), greet, mode="legacy", elicitation_callback=never
    )
    assert result.is_error
    assert "needs 2026-07-28" in result.content[0].text


def test_arguments_are_checked_as_by_the_gateway() -> None:
    result = with_client(lambda c: c.call_tool("greet", {"loudly": "very"}), greet)
    assert result.is_error
    assert "loudly: expected boolean" in result.content[0].text


def test_null_for_an_optional_parameter_is_read_as_left_out_as_by_the_gateway() -> None:
    result = with_client(lambda c: c.call_tool("shout", {"text": "a", "times": None}), shout)
    assert not result.is_error
    assert result.content[0].text == "aa"


@pytest.mark.parametrize(("name", "code"), [("nothing", -32602), ("refusing", -32021)])
def test_protocol_errors_are_raised(name: str, code: int) -> None:
    async def use(connected: mcp.Client) -> None:
        with pytest.raises(MCPError) as refused:
            await connected.call_tool(name, {})
        assert refused.value.error.code == code

    with_client(use, refusing)


def test_a_tool_can_be_called_as_the_function_it_is_with_a_context_that_remembers() -> None:
    answers = b'{"input_1": {"action": "decline"}}'
    ctx = Recorded(input_responses=answers, log_level="debug")
    assert greet(ctx) == "Hello, stranger"
    assert [type(event) for event in ctx.events] == [Progress, Log]
