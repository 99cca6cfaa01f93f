"""Tools in a unit test: an MCP client in memory, and a context that records what it was told.

What a client sees of a tool here is what it sees through the cluster: the published schemas, the
same checks of arguments and results, the same texts of errors. Ray, pools, limits and permissions
are not here; nor is the seal on `requestState`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import mcp
import mcp_types as types
import msgspec
from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from thornback.cluster.errors import InvalidArguments, ToolFailure, UnknownTool
from thornback.cluster.messages import Complete, Event, InputNeeded, Log, Progress
from thornback.cluster.protocol import error_result, rpc_error
from thornback.cluster.validation import SchemaCheck
from thornback.tools.context import ToolContext
from thornback.tools.definition import Tool, tool_of, tools_of
from thornback.tools.runner import run

Target = ModuleType | Callable[..., Any]
_LEVEL = "io.modelcontextprotocol/logLevel"


@asynccontextmanager
async def client(*targets: Target, **options: Any) -> AsyncIterator[mcp.Client]:
    """An MCP client that lists and calls tools in this process, without Ray.

    Args:
        targets: Modules, or decorated functions and classes.
        options: For `mcp.Client`: `elicitation_callback`, `log_level`, `mode`, ...
    """
    async with mcp.Client(_server(_tools(targets)), **options) as connected:
        yield connected


class Recorded(ToolContext):
    """A context for calling a tool as the plain function it is; keeps what the tool reports."""

    def __init__(self, **facts: Any) -> None:
        self.events: list[Event] = []
        super().__init__(self.events.append, **{"progress_wanted": True, **facts})


def _tools(targets: Iterable[Target]) -> dict[str, Tool]:
    found = [
        tool
        for target in targets
        for tool in (tools_of(target) if isinstance(target, ModuleType) else [tool_of(target)])
    ]
    return {tool.name: tool for tool in sorted(found, key=lambda tool: tool.name)}


def _server(tools: dict[str, Tool]) -> Server[Any]:
    async def list_tools(
        ctx: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_listed(tool) for tool in tools.values()])

    async def call_tool(
        ctx: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        if params.name not in tools:
            raise _protocol_error(UnknownTool(params.name))
        return await _call(tools[params.name], ctx, params)

    return Server(
        "thornback-testing", version="1", on_list_tools=list_tools, on_call_tool=call_tool
    )


def _listed(tool: Tool) -> types.Tool:
    """The entry of `tools/list`."""
    hints = tool.annotations
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=msgspec.json.decode(tool.input_schema),
        output_schema=msgspec.json.decode(tool.output_schema or b"null"),
        annotations=types.ToolAnnotations(
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent,
            open_world_hint=hints.open_world,
        ),
    )


async def _call(
    tool: Tool, ctx: ServerRequestContext[Any], params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    check = SchemaCheck.compile(tool.input_schema)
    arguments, misfits = check.arguments(params.arguments or {})
    if misfits:
        refusal = error_result(InvalidArguments(tool.name, misfits))
        return types.CallToolResult.model_validate(refusal)
    async with _forwarded(ctx) as emit:
        context = _context(tool, ctx, params, emit)
        outcome = await run(tool, msgspec.json.encode(arguments), context)
    if isinstance(outcome, Complete):
        return types.CallToolResult.model_validate_json(outcome.result)
    if isinstance(outcome, InputNeeded) and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        refusal = error_result(ToolFailure(f"{tool.name} asks for input, which needs 2026-07-28"))
        return types.CallToolResult.model_validate(refusal)
    if isinstance(outcome, InputNeeded):
        requests = msgspec.json.decode(outcome.requests)
        return types.InputRequiredResult.model_validate(
            {"inputRequests": requests, "requestState": outcome.request_state}
        )
    data = None if outcome.data is None else msgspec.json.decode(outcome.data)
    raise MCPError(code=outcome.rpc_code, message=outcome.message, data=data)


def _context(
    tool: Tool,
    ctx: ServerRequestContext[Any],
    params: types.CallToolRequestParams,
    emit: Callable[[Event], None],
) -> ToolContext:
    declared = ctx.session.client_capabilities
    given = {key: msgspec.Raw(_json(a)) for key, a in (params.input_responses or {}).items()}
    level: Any = dict(ctx.meta or {}).get(_LEVEL)
    return ToolContext(
        emit,
        tool=tool.name,
        remaining_s=tool.timeout_s or 30.0,
        progress_wanted=True,
        log_level=level,
        capabilities=_json(declared) if declared else b"{}",
        input_responses=msgspec.json.encode(given),
        request_state=params.request_state,
    )


def _json(model: Any) -> bytes:
    data: str = model.model_dump_json(by_alias=True, exclude_none=True)
    return data.encode()


@asynccontextmanager
async def _forwarded(ctx: ServerRequestContext[Any]) -> AsyncIterator[Callable[[Event], None]]:
    """An `emit` for any thread whose events reach the client, all of them before this ends."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def forward() -> None:
        while (event := await events.get()) is not None:
            if isinstance(event, Progress):
                await ctx.session.report_progress(event.progress, event.total, event.message)
            elif isinstance(event, Log):
                said = types.LoggingMessageNotificationParams(
                    level=event.level, data=msgspec.json.decode(event.data), logger=event.logger
                )
                notification = types.LoggingMessageNotification(params=said)
                await ctx.session.send_notification(notification, ctx.request_id)

    forwarding = asyncio.create_task(forward())

    def emit(event: Event | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    try:
        yield emit
        emit(None)  # comes after the events of the tool's thread, which take the same way
        await forwarding
    finally:
        forwarding.cancel()


def _protocol_error(error: UnknownTool) -> MCPError:
    said = rpc_error(error)
    return MCPError(code=said.number, message=said.message, data=said.data)
