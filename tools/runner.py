"""Runs a tool once: arguments as JSON in, an outcome as data out.

Plain functions and generators run in a thread, `async` ones on the loop. Whatever a tool does ends
as an outcome; only cancellation leaves `run` as an exception. A batch tool runs once for several
calls, each with arguments, context and outcome of its own. Deadlines, slots, which calls share a
batch, and transport are the host's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import msgspec

from thornback.cluster.errors import (
    BatchFailed,
    InvalidArguments,
    ProtocolError,
    ResultTooLarge,
    ToolBug,
    ToolFailure,
    Unavailable,
)
from thornback.cluster.ids import new_id
from thornback.cluster.messages import WIRE_VERSION, Complete, InputNeeded, Raised, failed
from thornback.cluster.protocol import rpc_error
from thornback.tools.batching import BatchBroken, columns_of, results_of
from thornback.tools.context import InputRequired, ToolContext
from thornback.tools.definition import Tool
from thornback.tools.results import (
    Content,
    ToolResult,
    call_tool_result,
    content_block,
    jsonable,
    readable,
)
from thornback.tools.schemas import Misfit

logger = logging.getLogger(__name__)

Outcome = Complete | InputNeeded | Raised
Early = Callable[[dict[int, Outcome]], None]

LARGE_BYTES = 1_000_000
"""From here on the encoding of a result takes a while, and holds the interpreter meanwhile."""
EARLY_ROUNDS = 8
"""Rounds of the loop that it then has first: to end the calls that are ready, take their replies
and write them."""
EARLY_MOST_S = 1.0
"""Longest wait for a loop that something else holds up."""


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
    if tool.batch is not None:
        (outcome,) = await run_batch(tool, [(arguments, ctx)], executor)
        return outcome
    started = time.monotonic()
    attempt = _Attempt(tool, arguments, ctx)
    try:
        if tool.kind in ("plain", "generator"):
            in_context = contextvars.copy_context().run
            loop = asyncio.get_running_loop()
            outcome = await loop.run_in_executor(executor, in_context, attempt.in_thread)
        else:
            if not tool.is_warm:  # a class may load a model when it is made
                in_context = contextvars.copy_context().run
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(executor, in_context, attempt.warm)
            outcome = await attempt.on_loop()
    except asyncio.CancelledError:
        ctx.cancel()
        raise
    if isinstance(outcome, Complete):
        return msgspec.structs.replace(outcome, run_s=time.monotonic() - started)
    return outcome


async def run_batch(
    tool: Tool,
    calls: Sequence[tuple[bytes, ToolContext]],
    executor: Executor | None = None,
    early: Early | None = None,
) -> list[Outcome]:
    """Run a batch tool once for several calls, and give each its outcome, in their order.

    Arguments that do not fit, failures that the tool returns in place of results, and results that
    cannot be sent are the outcome of their own call alone.

    Args:
        calls: Arguments and context of each, as `run` takes them; at least one.
        early: Told on the loop, before a large result is encoded in a thread, the outcomes that are
            there, by their place. They are returned as well.

    Raises:
        BatchBroken: if the tool raised, or returned anything but one result a call, and more than
            one call took part. Not where there was one: it is that call's outcome.
        asyncio.CancelledError: if this task is cancelled; a plain function goes on in its thread.
    """
    started = time.monotonic()
    loop = asyncio.get_running_loop()

    def stamped(outcomes: Iterable[Outcome]) -> list[Outcome]:
        run_s = time.monotonic() - started
        return [_with(outcome, run_s=run_s, batch_size=len(calls)) for outcome in outcomes]

    def tell(outcomes: dict[int, Outcome]) -> None:
        if early is None:
            return
        has_gone_round = threading.Event()

        def round_and_round(left: int) -> None:
            if left:
                loop.call_soon(round_and_round, left - 1)
            else:
                has_gone_round.set()

        ready = dict(zip(outcomes, stamped(outcomes.values()), strict=True))
        loop.call_soon_threadsafe(early, ready)
        loop.call_soon_threadsafe(round_and_round, EARLY_ROUNDS)
        has_gone_round.wait(EARLY_MOST_S)

    attempt = _BatchAttempt(tool, calls, tell)
    in_context = contextvars.copy_context().run
    try:
        if tool.kind == "plain":
            outcomes = await loop.run_in_executor(executor, in_context, attempt.in_thread)
        else:
            if tool.is_warm:
                ready = attempt.prepare()
            else:  # a class may load a model when it is made
                ready = await loop.run_in_executor(executor, in_context, attempt.prepare)
            outcomes = await attempt.on_loop() if ready else attempt.outcomes()
    except asyncio.CancelledError:
        for _, ctx in calls:
            ctx.cancel()
        raise
    return stamped(outcomes)


def _with(outcome: Outcome, **figures: Any) -> Outcome:
    return msgspec.structs.replace(outcome, **figures) if isinstance(outcome, Complete) else outcome


def failed_together(tool: Tool, contexts: Sequence[ToolContext], broken: BatchBroken) -> Outcome:
    """Log a broken batch; and what each call of it is told that may not be run again by itself."""
    return failed(BatchFailed(tool.name, _logged(tool, contexts, broken.cause)))


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
            return _outcome_of_error(self._tool, self._ctx, error)
        return self._outcome_of(lambda: value)

    def _outcome_of(self, produce: Callable[[], Any]) -> Outcome:
        return _outcome_of(self._tool, self._ctx, produce)

    def _run_plain(self) -> Any:
        value = self._tool.warm()(**self._keywords())
        if self._tool.kind == "plain":
            return value
        try:
            while True:
                self._ctx.check()
                self._add(next(value))
        except StopIteration as stop:
            says_itself = stop.value is not None or not self._tool.returns_items
            return stop.value if says_itself else self._items
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
        return _keywords(self._tool, self._arguments, self._ctx)

    def _add(self, item: Any) -> None:
        """Send a yielded item ahead, and keep it if the result is of these."""
        assert self._tool.items is not None
        if is_content := isinstance(item, Content):
            plain: Any = content_block(item)
        else:
            plain = jsonable(self._tool.name, item, self._tool.items)
        if self._tool.returns_items:
            self._items_bytes += len(msgspec.json.encode(plain))
            if self._items_bytes > self._ctx.max_result_bytes:
                raise ResultTooLarge(self._tool.name, self._items_bytes, self._ctx.max_result_bytes)
            self._items.append(item)
        self._ctx.partial(plain, f"[{plain['type']}]" if is_content else readable(plain))


class _BatchAttempt:
    """One run of a batch tool, whichever way it runs."""

    def __init__(self, tool: Tool, calls: Sequence[tuple[bytes, ToolContext]], tell: Early) -> None:
        """
        Args:
            tell: Takes, in a thread, outcomes that are there before the others.
        """
        self._tool = tool
        self._calls = calls
        self._tell = tell
        self._started = 0.0
        self._outcomes: dict[int, Outcome] = {}
        """Of calls that are over, by their place."""
        self._taken: dict[int, dict[str, Any]] = {}
        """Keyword arguments of the calls that take part, by their place."""
        self._run: Callable[..., Any]

    def outcomes(self) -> list[Outcome]:
        return [self._outcomes[place] for place in range(len(self._calls))]

    def in_thread(self) -> list[Outcome]:
        self._started = time.thread_time()
        if self.prepare():
            try:
                returned = self._run(**columns_of(list(self._taken.values())))
                results = results_of(returned, len(self._taken))
            except BaseException as error:
                self._break(error)
            else:
                self._finish(results, self._tell_what_is_there)
        share_s = self._share_s()
        return [_with(outcome, cpu_s=share_s) for outcome in self.outcomes()]

    def _tell_what_is_there(self) -> None:
        share_s = self._share_s()
        self._tell({place: _with(o, cpu_s=share_s) for place, o in self._outcomes.items()})

    def _share_s(self) -> float:
        """CPU seconds so far of this thread, for each call."""
        return (time.thread_time() - self._started) / len(self._calls)

    async def on_loop(self) -> list[Outcome]:
        try:
            returned = await self._run(**columns_of(list(self._taken.values())))
            results = results_of(returned, len(self._taken))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            self._break(error)
        else:
            self._finish(results)
        return self.outcomes()

    def prepare(self) -> bool:
        """Read the arguments and make a class's instance. False where there is nothing to run."""
        for place, (arguments, ctx) in enumerate(self._calls):
            try:
                self._taken[place] = _keywords(self._tool, arguments, ctx)
            except BaseException as error:
                self._outcomes[place] = _outcome_of_error(self._tool, ctx, error)
        if not self._taken:
            return False
        try:
            self._run = self._tool.warm()
        except BaseException as error:  # no call's fault, and told to each of them
            contexts = [self._calls[place][1] for place in self._taken]
            if not isinstance(error, (ToolFailure, Unavailable)):
                error = ToolBug(self._tool.name, _logged(self._tool, contexts, error))
            self._outcomes |= dict.fromkeys(self._taken, failed(error))
            return False
        return True

    def _finish(self, results: list[Any], aside: Callable[[], None] | None = None) -> None:
        """Encode results, the large ones last: no call waits for what another one returned.

        Args:
            aside: Called once, before the first large one.
        """
        pairs = zip(self._taken, results, strict=True)
        for place, result in sorted(pairs, key=lambda pair: _size_bytes(pair[1])):
            if aside is not None and self._outcomes and _size_bytes(result) >= LARGE_BYTES:
                aside()
                aside = None
            self._outcomes[place] = self._outcome(place, result)

    def _outcome(self, place: int, result: Any) -> Outcome:
        ctx = self._calls[place][1]
        if not isinstance(result, BaseException):
            return _outcome_of(self._tool, ctx, lambda: result)
        if isinstance(result, InputRequired):
            # Calls share batches as chance has it; one that is run again with its answers would
            # find its questions numbered otherwise.
            result = TypeError("a batch tool cannot ask its callers")
        return _outcome_of_error(self._tool, ctx, result)

    def _break(self, error: BaseException) -> None:
        if len(self._taken) > 1:
            raise BatchBroken(error) from error
        (place,) = self._taken
        self._outcomes[place] = self._outcome(place, error)


def _size_bytes(result: Any) -> int:
    """How long a result is, where that can be told at once; else 0."""
    content = result.content if isinstance(result, ToolResult) else result
    parts = content if isinstance(result, ToolResult) and isinstance(content, list) else [content]
    return sum(len(part) for part in parts if isinstance(part, str | bytes))


def _keywords(tool: Tool, arguments: bytes, ctx: ToolContext) -> dict[str, Any]:
    try:
        keywords = tool.arguments.parse(arguments)
    except Misfit as error:
        raise InvalidArguments(tool.name, error.lines) from None
    if tool.context_parameter is not None:
        keywords[tool.context_parameter] = ctx
    return keywords


def _outcome_of(tool: Tool, ctx: ToolContext, produce: Callable[[], Any]) -> Outcome:
    try:
        result = call_tool_result(tool.name, produce(), tool.returns, ctx.max_result_bytes)
    except BaseException as error:
        return _outcome_of_error(tool, ctx, error)
    return Complete(WIRE_VERSION, result, is_error=False)


def _outcome_of_error(tool: Tool, ctx: ToolContext, error: BaseException) -> Outcome:
    """What the caller is told about an error of the tool, whatever is in it."""
    try:
        return _told(tool, ctx, error)
    except Exception as unsendable:  # its questions or its text have no JSON form
        return failed(ToolBug(tool.name, _logged(tool, [ctx], unsendable)))


def _told(tool: Tool, ctx: ToolContext, error: BaseException) -> Outcome:
    if isinstance(error, InputRequired):
        return InputNeeded(WIRE_VERSION, msgspec.json.encode(error.requests), error.state)
    if isinstance(error, ProtocolError):
        said = rpc_error(error)
        return Raised(WIRE_VERSION, said.number, said.message, msgspec.json.encode(said.data))
    if not isinstance(error, (ToolFailure, Unavailable)):
        error = ToolBug(tool.name, _logged(tool, [ctx], error))
    outcome = failed(error)
    if len(outcome.result) > ctx.max_result_bytes:
        return failed(ResultTooLarge(tool.name, len(outcome.result), ctx.max_result_bytes))
    return outcome


def _logged(tool: Tool, contexts: Sequence[ToolContext], error: BaseException) -> str:
    """Log what only the people of this host may read; its id is what callers are told."""
    error_id = new_id("err")
    # Of a batch it may be the failure of one call.
    about = {"request_ids": [ctx.request_id for ctx in contexts]}
    logger.error("%s failed (%s)", tool.name, error_id, exc_info=error, extra=about)
    return error_id


def _cancelled() -> bool:
    """Whether this task is being cancelled, rather than something that its tool awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
