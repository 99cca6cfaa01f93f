"""Collects calls of batch tools in one host, and runs each batch as one invocation.

Each call awaits its own outcome and can be cancelled by itself; what its batch is made of, it never
learns. Time is the loop's. Slots, and the deadline that cancels a call, are the host's; what an
invocation does is `tools/runner.py`'s.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any

from thornback.cluster.catalog import Batch
from thornback.cluster.errors import ToolBug, ToolFailure
from thornback.cluster.ids import new_id
from thornback.cluster.messages import Complete, failed
from thornback.deployments.log_records import Saying
from thornback.deployments.tracing import Tracing
from thornback.tools.batching import BatchBroken
from thornback.tools.context import ToolContext
from thornback.tools.definition import Tool
from thornback.tools.runner import Outcome, failed_together, run_batch

logger = logging.getLogger(__name__)


class Batcher:
    """The batch tools of one host, and their calls."""

    def __init__(
        self,
        executor: Executor | None = None,
        slots: Callable[[], int] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Args:
            executor: Where plain functions run; None: the loop's default.
            slots: How many calls this host runs at a time: a batch of so many does not wait for
                more, which could not come. None: no limit.
            tracing: None: nothing is traced.
        """
        self._executor = executor
        self._slots = slots
        self._tracing = tracing or Tracing()
        self._queues: dict[Tool, _Queue] = {}

    async def run(
        self,
        tool: Tool,
        arguments: bytes,
        ctx: ToolContext,
        batch: Batch | None = None,
        repeatable: bool | None = None,
    ) -> Outcome:
        """Run one call of a batch tool together with others, and return what came of this one.

        Args:
            tool: A batch tool.
            arguments: A JSON object, valid against the tool's input schema.
            ctx: The call. Its `cancelled` is set when this task is cancelled.
            batch: How to collect calls, as the catalog has it now; None: as the tool declares it.
            repeatable: Whether a batch that failed may be run again, call by call; None: as the
                tool declares itself read-only or idempotent.

        Raises:
            asyncio.CancelledError: if this task is cancelled; nothing else.
        """
        queue = self._queues.get(tool)
        if queue is None:
            queue = self._queues[tool] = _Queue(tool, self._executor, self._slots, self._tracing)
        if repeatable is None:
            repeatable = bool(tool.annotations.read_only or tool.annotations.idempotent)
        call = _Call(arguments, ctx, repeatable, self._tracing)
        queue.join(call, batch or tool.batch or Batch(max_batch_size=1))
        try:
            return await call.outcome
        except asyncio.CancelledError:
            queue.leave(call)
            raise

    @property
    def threads(self) -> int:
        """Threads of plain functions whose batch somebody still waits for."""
        return sum(
            invocation.wanted
            for queue in self._queues.values()
            if queue.tool.kind == "plain"
            for invocation in queue.running
        )


class _Call:
    """One call, from its arrival to its outcome."""

    def __init__(
        self, arguments: bytes, ctx: ToolContext, repeatable: bool, tracing: Tracing
    ) -> None:
        self.arguments = arguments
        self.ctx = ctx
        self.repeatable = repeatable
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.due = 0.0
        """Moment, on the loop's clock, from which it need not wait for others to join its batch."""
        self.invocation: _Invocation | None = None
        self.span = None if tracing.spans is None else tracing.spans.current()

    def still_wanted(self) -> bool:
        """Whether it is to be run; one whose time is over has its outcome after this."""
        if self.outcome.done():
            return False
        try:
            self.ctx.check()
        except ToolFailure as error:
            self.finish(failed(error))
        return not self.outcome.done()

    def finish(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _Invocation:
    """One run of the tool, for the calls that it was started with."""

    def __init__(
        self, tool: Tool, calls: Sequence[_Call], executor: Executor | None, tracing: Tracing
    ) -> None:
        self._calls = calls
        self._is_async = tool.kind == "async"

        def work() -> Coroutine[Any, Any, list[Outcome]]:
            return self._run(tool, executor)

        linked = [call.span for call in calls if call.span is not None]
        spans = tracing.spans
        # In a context of its own: what the first call's request left in its must not be seen here.
        self.task = asyncio.get_running_loop().create_task(
            work() if spans is None else spans.batch(tool.name, linked, work),
            context=contextvars.Context(),
        )
        for call in calls:
            call.invocation = self

    def _early(self, outcomes: dict[int, Outcome]) -> None:
        for place, outcome in outcomes.items():
            self._calls[place].finish(outcome)

    @property
    def wanted(self) -> bool:
        return not all(call.outcome.done() for call in self._calls)

    async def _run(self, tool: Tool, executor: Executor | None) -> list[Outcome]:
        with Saying([call.ctx for call in self._calls]):
            calls = [(call.arguments, call.ctx) for call in self._calls]
            return await run_batch(tool, calls, executor, self._early)

    def left(self) -> None:
        """A call of it is not waited for any more; nor is the whole, if it was the last."""
        # A thread cannot be stopped: it sees that its contexts are cancelled, and goes on to hold
        # its place until it returns.
        if self._is_async and not self.wanted:
            self.task.cancel()


class _Queue:
    """The calls of one tool."""

    def __init__(
        self,
        tool: Tool,
        executor: Executor | None,
        slots: Callable[[], int] | None,
        tracing: Tracing,
    ) -> None:
        self.tool = tool
        self.running: set[_Invocation] = set()
        self._executor = executor
        self._slots = slots
        self._tracing = tracing
        self._batch = Batch()
        self._waiting: dict[_Call, None] = {}  # in their order; a set would lose it
        self._batches: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._soon = False
        """Whether the next turn of the loop looks."""
        self._timer: asyncio.TimerHandle | None = None
        """Looks when a batch that waits for company need wait no more."""

    def join(self, call: _Call, batch: Batch) -> None:
        # The last word on how to collect is the newest: it comes from a catalog with each call.
        self._batch = batch
        # No call spends more than half of its time on waiting for company.
        patience_s = min(batch.batch_wait_timeout_s, call.ctx.remaining_s / 2)
        call.due = self._loop.time() + patience_s
        self._waiting[call] = None
        # Not at once: calls that came in one message are all here before any of them is run.
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._look)

    def leave(self, call: _Call) -> None:
        """Nobody waits for this call any more."""
        call.ctx.cancel()
        self._waiting.pop(call, None)
        if call.invocation is not None:
            call.invocation.left()

    def _look(self) -> None:
        """Start every batch that may and need not wait; come back when the next is due."""
        self._soon = False
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting and len(self._batches) < self._batch.max_concurrent_batches:
            if len(self._waiting) < self._full():
                due = min(call.due for call in self._waiting)
                if due > self._loop.time():
                    self._timer = self._loop.call_at(due, self._look)
                    return
            if calls := self._next_batch():
                task = self._loop.create_task(self._serve(calls), context=contextvars.Context())
                self._batches.add(task)
                task.add_done_callback(self._batch_done)

    def _full(self) -> int:
        """Calls for which a batch does not wait for more."""
        if self._slots is None:
            return self._batch.max_batch_size
        return min(self._batch.max_batch_size, self._slots())

    def _next_batch(self) -> list[_Call]:
        """The first calls in the queue that still have time, up to a full batch."""
        calls: list[_Call] = []
        while self._waiting and len(calls) < self._batch.max_batch_size:
            call = next(iter(self._waiting))
            del self._waiting[call]
            if call.still_wanted():
                calls.append(call)
        return calls

    def _batch_done(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._look()

    async def _serve(self, calls: list[_Call]) -> None:
        """Run a batch; where it breaks, each of its calls by itself, if that is safe."""
        contexts = [call.ctx for call in calls]
        with Saying(contexts):  # what is logged of the batch here is its calls' too
            try:
                broken = await self._invoke(calls)
                if broken is None:
                    return
                together = failed_together(self.tool, contexts, broken)
                for call in calls:
                    if not call.repeatable:
                        call.finish(together)
                for call in calls:
                    if call.still_wanted():
                        await self._invoke([call])
            except Exception:  # a bug of ours; the callers get an answer all the same
                error_id = new_id("err")
                about = {"request_ids": [ctx.request_id for ctx in contexts]}
                logger.exception("running %s failed (%s)", self.tool.name, error_id, extra=about)
                for call in calls:
                    call.finish(failed(ToolBug(self.tool.name, error_id)))

    async def _invoke(self, calls: Sequence[_Call]) -> BatchBroken | None:
        """Run the tool once for these calls, and give each that is still there its outcome."""
        invocation = _Invocation(self.tool, calls, self._executor, self._tracing)
        self.running.add(invocation)
        try:
            # Not awaited itself: it is cancelled when its calls are, and this goes on.
            await asyncio.wait([invocation.task])
        finally:
            self.running.discard(invocation)
        if invocation.task.cancelled():
            # By its calls, all of which are over then; or by the tool itself.
            for call in calls:
                if not call.outcome.done():
                    call.finish(self._cancelled_itself(call))
            return None
        try:
            outcomes = invocation.task.result()
        except BatchBroken as broken:
            return broken
        for call, outcome in zip(calls, outcomes, strict=True):
            call.finish(outcome)
        return None

    def _cancelled_itself(self, call: _Call) -> Complete:
        error_id = new_id("err")
        about = {"request_ids": [call.ctx.request_id]}
        logger.error("%s cancelled itself (%s)", self.tool.name, error_id, extra=about)
        return failed(ToolBug(self.tool.name, error_id))
