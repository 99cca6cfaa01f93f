"""Runs a tool once: arguments as JSON in, an outcome as data out.

Plain functions and generators run in a thread, `async` ones on the loop. Whatever a tool does ends
as an outcome; only cancellation leaves `run` as an exception. Deadlines, slots and transport are
the host's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import msgspec

from thornback.cluster.errors import (
    InvalidArguments,
    ProtocolError,
    ResultTooLarge,
    ToolBug,
    ToolFailure,
    Unavailable,
)
from thornback.cluster.ids import new_id
from thornback.cluster.messages import WIRE_VERSION, Complete, InputNeeded, Raised
from thornback.cluster.protocol import error_result, rpc_error
from thornback.tools.context import InputRequired, ToolContext
from thornback.tools.definition import Tool
from thornback.tools.results import (
    Content,
    call_tool_result,
    content_block,
    jsonable,
    readable,
)
from thornback.tools.schemas import Misfit

logger = logging.getLogger(__name__)

Outcome = Complete | InputNeeded | Raised


async def run(
    tool: Tool, arguments: bytes, ctx: ToolContext, executor: Executor | None = None
) -> Outcome:
    """Run `tool` once.

    Args:
        tool: What to run.
        arguments: A JSON object, valid against the tool's input schema.
        ctx: The call. Its `cancelled` is set when this task is cancelled: a plain function in its
            thread sees that and nothing else, and may go on after this has returned.
        executor: Where plain functions run; None: the loop's default.

    Raises:
        asyncio.CancelledError: if this task is cancelled; nothing else.
    """
    started = time.monotonic()
    attempt = _Attempt(tool, arguments, ctx)
    try:
        if tool.kind in ("plain", "generator"):
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            outcome = await loop.run_in_executor(executor, context.run, attempt.in_thread)
        else:
            if not tool.is_warm:  # a class may load a model when it is made
                await asyncio.get_running_loop().run_in_executor(executor, attempt.warm)
            outcome = await attempt.on_loop()
    except asyncio.CancelledError:
        ctx.cancel()
        raise
    if isinstance(outcome, Complete):
        return msgspec.structs.replace(outcome, run_s=time.monotonic() - started)
    return outcome


class _Attempt:
    """One run of a tool, whichever way it runs."""

    def __init__(self, tool: Tool, arguments: bytes, ctx: ToolContext) -> None:
        self._tool = tool
        self._arguments = arguments
        self._ctx = ctx
        self._items: list[Any] = []
        self._items_bytes = 0

    def in_thread(self) -> Outcome:
        started = time.thread_time()
        outcome = self._outcome_of(self._run_plain)
        if isinstance(outcome, Complete):
            return msgspec.structs.replace(outcome, cpu_s=time.thread_time() - started)
        return outcome

    def warm(self) -> None:
        # What this raises is raised again, and answered, by the run itself. Whatever it is: a
        # SystemExit that reached the loop would end the host.
        with contextlib.suppress(BaseException):
            self._tool.warm()

    async def on_loop(self) -> Outcome:
        try:
            value = await self._run_async()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            return self._failed(error)
        return self._outcome_of(lambda: value)

    def _outcome_of(self, produce: Callable[[], Any]) -> Outcome:
        try:
            value = produce()
            result = call_tool_result(
                self._tool.name, value, self._tool.returns, self._ctx.max_result_bytes
            )
        except BaseException as error:
            return self._failed(error)
        return Complete(WIRE_VERSION, result, is_error=False)

    def _run_plain(self) -> Any:
        value = self._tool.warm()(**self._keywords())
        if self._tool.kind == "plain":
            return value
        try:
            while True:
                self._ctx.check()
                self._add(next(value))
        except StopIteration as stop:
            return self._items if stop.value is None else stop.value
        finally:
            value.close()

    async def _run_async(self) -> Any:
        if self._tool.kind == "async":
            return await self._tool.warm()(**self._keywords())
        generator = self._tool.warm()(**self._keywords())
        try:
            async for item in generator:
                self._add(item)
                await self._ctx.room()
        finally:
            await generator.aclose()
        return self._items

    def _keywords(self) -> dict[str, Any]:
        try:
            keywords = self._tool.arguments.parse(self._arguments)
        except Misfit as error:
            raise InvalidArguments(self._tool.name, error.lines) from None
        if self._tool.context_parameter is not None:
            keywords[self._tool.context_parameter] = self._ctx
        return keywords

    def _add(self, item: Any) -> None:
        """Send a yielded item ahead and keep it for the result."""
        assert self._tool.items is not None
        if is_content := isinstance(item, Content):
            plain: Any = content_block(item)
        else:
            plain = jsonable(self._tool.name, item, self._tool.items)
        self._items_bytes += len(msgspec.json.encode(plain))
        if self._items_bytes > self._ctx.max_result_bytes:
            raise ResultTooLarge(self._tool.name, self._items_bytes, self._ctx.max_result_bytes)
        self._items.append(item)
        self._ctx.partial(plain, f"[{plain['type']}]" if is_content else readable(plain))

    def _failed(self, error: BaseException) -> Outcome:
        """What the caller is told about an error of the tool."""
        if isinstance(error, InputRequired):
            return InputNeeded(WIRE_VERSION, msgspec.json.encode(error.requests), error.state)
        if isinstance(error, ProtocolError):
            said = rpc_error(error)
            return Raised(WIRE_VERSION, said.number, said.message, msgspec.json.encode(said.data))
        if not isinstance(error, (ToolFailure, Unavailable)):
            error = self._bug(error)
        result = msgspec.json.encode(error_result(error))
        if len(result) > self._ctx.max_result_bytes:
            error = ResultTooLarge(self._tool.name, len(result), self._ctx.max_result_bytes)
            result = msgspec.json.encode(error_result(error))
        return Complete(WIRE_VERSION, result, is_error=True, error_code=error.code)

    def _bug(self, error: BaseException) -> ToolBug:
        """Log what only the people of this host may read."""
        error_id = new_id("err")
        logger.error(
            "%s failed (%s, call %s)", self._tool.name, error_id, self._ctx.call_id, exc_info=error
        )
        return ToolBug(self._tool.name, error_id)


def _cancelled() -> bool:
    """Whether this task is being cancelled, rather than something that its tool awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
