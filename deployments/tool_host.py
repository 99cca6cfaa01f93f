"""`ToolHost`: the replica that runs the tools of one pool. Plain Python; `builder` deploys it.

What goes wrong inside a tool is data here, not an exception: the gateway sits in another process
and would pay for a pickled traceback only to turn it into the same answer. The host knows no HTTP,
no JSON-RPC and no other pool; it keeps the call's deadline as the gateway does.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import msgspec

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.errors import ThornbackError, ToolBug, ToolTimeout
from thornback.cluster.ids import new_id
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    InputNeeded,
    Raised,
    Refused,
    decode_call,
    encode,
)
from thornback.cluster.protocol import error_result
from thornback.deployments.clock import Clock, SystemClock
from thornback.deployments.event_stream import EventStream
from thornback.deployments.tool_modules import Mismatch, ToolModules, close, load, mismatches
from thornback.tools.context import ToolContext
from thornback.tools.definition import Tool
from thornback.tools.runner import run

logger = logging.getLogger(__name__)

Outcome = Complete | InputNeeded | Raised
P = ParamSpec("P")
T = TypeVar("T")

RECHECK_S = 2.0
"""Least seconds between two looks into the registry because of a tool that did not match."""
MAX_THREADS = 1024
"""Threads are made when calls need them; how many calls there are at a time is Serve's to say."""
RETRY_S = 0.5
"""Seconds between two tries to reach a registry that is away."""


class ReplicaFacts(msgspec.Struct, frozen=True):
    """What a host knows of its own place."""

    replica_id: str
    max_ongoing_requests: int


class ToolHost:
    """Runs the tools of one pool.

    A replica is healthy once its modules were imported, whatever came of that: one that failed
    stays up and says so to every call, because another start would fail the same way.
    """

    def __init__(
        self,
        cluster: str,
        pool: str,
        modules: list[str],
        *,
        specs_of: Callable[[str, str], Awaitable[Sequence[ToolSpec]]] | None = None,
        replica: Callable[[], ReplicaFacts] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            cluster: Name of the cluster.
            pool: Name of the pool in it.
            modules: Dotted names of the tool modules.
            specs_of: From cluster and pool to the catalog's tools of that pool; None: asks the
                registry. May raise while it is away.
            replica: Where this runs, asked anew each time, because its limit may change while it
                runs; None: asks Ray Serve.
            clock: None: the machine's.
        """
        self._cluster = cluster
        self._pool = pool
        self._specs_of = specs_of or _registered_specs
        self._replica = replica or _serve_replica
        self._clock = clock or SystemClock()
        self._threads = CountedThreads(MAX_THREADS)
        self._running: dict[str, CallMessage] = {}
        self._mismatches: dict[str, Mismatch] = {}
        self._compared: asyncio.Task[None] | None = None
        self._compared_at = float("-inf")
        # A thread of its own: in throughput mode the loop that is free meanwhile is also the one
        # that answers Serve's health checks.
        self._loaded: Future[ToolModules] = Future()
        threading.Thread(target=self._load, args=(modules,), name="import", daemon=True).start()

    # --- calls ------------------------------------------------------------------------------------

    async def call(self, message: bytes) -> AsyncIterator[bytes]:
        """Run one tool once: `Acknowledged`, then events as they happen, then one outcome.

        A call that is not started gets one `Refused` and nothing else. Closing the generator
        cancels the tool.
        """
        call = decode_call(message)
        tool = await self._admitted(call)
        if isinstance(tool, Refused):
            yield encode(tool)
            return
        events = EventStream(asyncio.get_running_loop())
        context = ToolContext.of(call, events)
        self._running[call.call_id] = call
        task = asyncio.create_task(self._run(tool, call, context, events))
        task.add_done_callback(lambda _: self._running.pop(call.call_id, None))
        try:
            yield encode(Acknowledged(WIRE_VERSION, self._replica().replica_id, len(self._running)))
            async for event in events.events():
                yield encode(event)
            yield encode(await task)
        finally:
            # Also when the gateway closed the stream: a plain function learns it from its context,
            # an async one from the cancelled task.
            context.cancel()
            task.cancel()
            events.close()

    async def _run(
        self,
        tool: Tool,
        call: CallMessage,
        context: ToolContext,
        events: EventStream,
    ) -> Outcome:
        try:
            async with asyncio.timeout(call.remaining_s):
                return await run(tool, call.arguments, context, self._threads)
        except TimeoutError:
            return _failed(ToolTimeout(call.tool, round(call.remaining_s, 1)))
        except Exception:  # a bug of ours; the caller gets an answer all the same
            error_id = new_id("err")
            logger.exception("running %s failed (%s)", call.tool, error_id)
            return _failed(ToolBug(call.tool, error_id))
        finally:
            events.finish()

    async def _admitted(self, call: CallMessage) -> Tool | Refused:
        """The tool to run, or why this call is not started. Waits, if need be, as it may."""
        if call.wire != WIRE_VERSION:
            why = f"this host speaks wire version {WIRE_VERSION}, the gateway {call.wire}"
            return self._broken("thornback", why)
        key = f"{call.tool}@{call.version}"
        try:
            async with asyncio.timeout(call.queue_timeout_s):
                loaded = await asyncio.wrap_future(self._loaded)
                await self._compare(loaded, key)
        except TimeoutError:
            why = "is importing" if not self._loaded.done() else "waits for the registry"
            return Refused(WIRE_VERSION, "pool.no_replica", [self._pool, f"its host {why}", "1"])
        if mismatch := self._mismatches.get(key):
            return self._broken(mismatch.module, mismatch.cause)
        tool = loaded.tools.get(key)
        if tool is None:
            return self._broken(key, "no module of this pool declares it")
        # Serve admits no more calls than there are slots; threads that outlived their calls take
        # slots that it does not know of.
        if self._threads.busy >= self._replica().max_ongoing_requests:
            return Refused(WIRE_VERSION, "pool.busy", [self._pool, "1"])
        return tool

    def _broken(self, module: str, cause: str) -> Refused:
        return Refused(WIRE_VERSION, "pool.broken", [self._pool, module, cause])

    # --- what this host has, and what it should have ----------------------------------------------

    def _load(self, modules: list[str]) -> None:
        self._loaded.set_result(load(modules))

    async def _compare(self, loaded: ToolModules, key: str) -> None:
        """Compare what was imported with the catalog: once, and again for what did not match.

        One look serves all who wait for it, and goes on when one of them gives up.
        """
        settled = self._compared is not None and self._compared.done()
        if settled and key in loaded.tools and key not in self._mismatches:
            return
        if settled and self._clock.monotonic() - self._compared_at < RECHECK_S:
            return
        if self._compared is None or settled:
            self._compared = asyncio.create_task(self._look(loaded))
        await asyncio.shield(self._compared)

    async def _look(self, loaded: ToolModules) -> None:
        while True:
            try:
                specs = await self._specs_of(self._cluster, self._pool)
            except Exception as error:
                logger.warning("waiting for the registry: %s", type(error).__name__)
                await asyncio.sleep(RETRY_S)
            else:
                break
        self._mismatches = mismatches(loaded, self._pool, specs)
        self._compared_at = self._clock.monotonic()
        for mismatch in self._mismatches.values():
            logger.warning("%s: %s", mismatch.module, mismatch.cause)

    # --- what others ask --------------------------------------------------------------------------

    async def check_health(self) -> None:
        """Healthy once the modules were imported; Serve's first check waits for that."""
        await asyncio.wrap_future(self._loaded)

    async def info(self) -> dict[str, Any]:
        """What runs here, for `status`: plain types only."""
        loaded = self._loaded.result() if self._loaded.done() else ToolModules({}, {})
        return {
            "pid": os.getpid(),
            "replica_id": self._replica().replica_id,
            "thornback": importlib.metadata.version("thornback"),
            "tools": {
                key: tool.spec(self._pool).content_hash for key, tool in loaded.tools.items()
            },
            "broken": loaded.broken,
            "mismatches": {key: m.cause for key, m in self._mismatches.items()},
            "running": len(self._running),
            "busy_threads": self._threads.busy,
            "environment": {
                name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")
            },
        }

    def close(self) -> None:
        """Let go of threads, and close the instances of class tools that can be closed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loaded.done():
            close(self._loaded.result())

    def __del__(self) -> None:  # what Serve calls when it stops a replica
        with suppress(Exception):
            self.close()


class CountedThreads(ThreadPoolExecutor):
    """Threads for plain functions, and how many of them are taken.

    A function that nobody waits for any more keeps its thread until it returns: threads cannot be
    stopped, so they are counted.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers, thread_name_prefix="tool")
        self._taken: set[Future[Any]] = set()

    @property
    def busy(self) -> int:
        return len(self._taken)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._taken.add(future)
        future.add_done_callback(self._taken.discard)
        return future


def _failed(error: ThornbackError) -> Complete:
    result = msgspec.json.encode(error_result(error))
    return Complete(WIRE_VERSION, result, is_error=True, error_code=error.code)


async def _registered_specs(cluster: str, pool: str) -> list[ToolSpec]:
    """The catalog's tools of a pool, from the registry."""
    from thornback.cluster.actors import connect  # imports Ray

    return await connect(f"thornback.{cluster}").tools_of(pool)


def _serve_replica() -> ReplicaFacts:
    from ray import serve  # a host is plain Python until Serve makes it

    context = serve.get_replica_context()
    # No public way leads from a replica to its own limit, and the pool's name and modules are all
    # that its arguments may hold: any other change of them would restart it.
    return ReplicaFacts(context.replica_tag, context._deployment_config.max_ongoing_requests)
