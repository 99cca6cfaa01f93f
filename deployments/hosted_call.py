"""One call on the replica that runs it: admitted or refused, run, over.

Whatever happens to it ends as one reply in its send's outbox; the calls beside it learn nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from thornback.cluster.errors import CallCancelled, ToolBug, ToolTimeout
from thornback.cluster.ids import new_id
from thornback.cluster.messages import (
    ALONE,
    WIRE_VERSION,
    CallMessage,
    Complete,
    Outcome,
    Refused,
    failed,
)
from thornback.deployments.at_once import AtOnceOrWithin
from thornback.deployments.batcher import Batcher
from thornback.deployments.call_book import CallBook
from thornback.deployments.counted_threads import CountedThreads
from thornback.deployments.log_records import Saying
from thornback.deployments.outbox import Outbox
from thornback.deployments.pool_tools import PoolTools
from thornback.deployments.tracing import Tracing
from thornback.tools.context import ToolContext
from thornback.tools.definition import Tool
from thornback.tools.runner import run

logger = logging.getLogger(__name__)


class Workplace(NamedTuple):
    """What the calls of a replica share."""

    pool: str
    tools: PoolTools
    threads: CountedThreads
    batcher: Batcher
    running: dict[str, HostedCall]
    """Calls that were admitted and are not over, by `call_id`."""
    book: Callable[[], CallBook]
    """The slots, counted now."""
    freed: Callable[[], None]
    """Called when a call gives its slot back."""
    tracing: Tracing


class HostedCall:
    """A call, from its arrival to its outcome."""

    def __init__(
        self,
        call: CallMessage,
        place: int,
        gateway: str,
        alone: bool,
        outbox: Outbox,
        workplace: Workplace,
    ) -> None:
        """
        Args:
            place: Where it stands in its send.
            alone: Whether it has the stream of its send to itself.
        """
        self._call = call
        self._place = place
        self._gateway = gateway
        self._alone = alone
        self._outbox = outbox
        self._at = workplace
        self._context: ToolContext | None = None
        self._given_up = False
        """Whether nobody waits for it any more."""
        self.in_thread = False
        """Whether it takes one of the counted threads; a batch has one for all its calls."""
        self._task = asyncio.create_task(self._live())

    def cancel(self) -> None:
        """Nobody waits for it any more, if it is not over."""
        if self._task.done():
            return
        self._given_up = True
        if self._context is not None:
            self._context.cancel()
        self._task.cancel()

    async def _live(self) -> None:
        call, tools = self._call, self._at.tools
        tool = tools.ready(f"{call.tool}@{call.version}") or await tools.find(call)
        if not isinstance(tool, Refused) and (refused := self._refused(tool)) is not None:
            tool = refused
        if isinstance(tool, Refused):
            self._outbox.finish(self._place, tool)
            return
        self._outbox.acknowledge(self._place)
        events = self._outbox.events_of(self._place)
        outcome: Outcome | None = None
        self._at.running[call.call_id] = self
        try:
            self._context = ToolContext.of(call, events)
            with Saying([self._context]):
                outcome = await self._traced(tool, self._context)
        finally:
            if self._at.running.get(call.call_id) is self:
                del self._at.running[call.call_id]
            self._at.book().done(self._gateway)
            # Of a call that was given up nobody reads it.
            outcome = outcome or failed(CallCancelled(call.tool))
            self._outbox.finish(self._place, outcome, events)
            events.close()
            self._at.freed()

    def _refused(self, tool: Tool) -> Refused | None:
        """Why the call gets no slot; None: it has one."""
        streams = tool.kind in ("generator", "async generator")
        if streams and not self._alone:
            return Refused(WIRE_VERSION, ALONE, [self._call.tool])
        if not self._at.book().admit(self._gateway):
            return Refused(WIRE_VERSION, "pool.busy", [self._at.pool, "1"])
        self.in_thread = tool.batch is None and tool.kind in ("plain", "generator")
        return None

    async def _traced(self, tool: Tool, context: ToolContext) -> Outcome:
        spans = self._at.tracing.spans
        if spans is None:
            return await self._run(tool, context)
        with spans.tool(self._call, self._at.pool) as span:
            outcome = await self._run(tool, context)
            span.came_to(outcome)
            return outcome

    async def _run(self, tool: Tool, context: ToolContext) -> Outcome:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        outcome = await self._outcome(tool, context)
        if isinstance(outcome, Complete) and not outcome.run_s:
            # What gave it up had not seen it begin.
            return msgspec.structs.replace(outcome, run_s=loop.time() - began_s)
        return outcome

    async def _outcome(self, tool: Tool, context: ToolContext) -> Outcome:
        call = self._call
        try:
            if tool.batch is None:
                outcome = run(tool, call.arguments, context, self._at.threads)
            else:
                outcome = self._at.batcher.run(
                    tool, call.arguments, context, call.batch, call.repeatable
                )
            return await AtOnceOrWithin(call.remaining_s, outcome)
        except TimeoutError:
            return failed(ToolTimeout(call.tool, round(call.remaining_s, 1)))
        except asyncio.CancelledError:
            if self._given_up:
                raise
            return self._bug("cancelled itself")  # an async tool runs in this very task
        except Exception:  # a bug of ours; the caller gets an answer all the same
            return self._bug("could not be run")

    def _bug(self, what: str) -> Outcome:
        error_id = new_id("err")
        logger.exception("%s %s (%s)", self._call.tool, what, error_id)
        return failed(ToolBug(self._call.tool, error_id))
