"""`ToolHost`: the replica that runs the tools of one pool. Plain Python; `pool_replica` is its
deployment.

Calls come many in a message and leave the same way; each is a `HostedCall`. How many may run, and
for which gateway, the `CallBook` says. What goes wrong inside a tool is data here, not an
exception: the gateway sits in another process and would pay for a pickled traceback only to turn
it into the same answer. The host knows no HTTP, no JSON-RPC and no other pool; it keeps a call's
deadline as the gateway does.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.messages import (
    WIRE_VERSION,
    WIRES_SPOKEN,
    Acknowledged,
    CallMessage,
    HostState,
    Send,
    decode_call,
    decode_send,
    encode,
    encode_replies,
)
from thornback.cluster.serve_options import DeploymentOptions
from thornback.deployments.batcher import Batcher
from thornback.deployments.call_book import CallBook, Load
from thornback.deployments.clock import Clock, SystemClock
from thornback.deployments.counted_threads import CountedThreads
from thornback.deployments.hosted_call import HostedCall, Workplace
from thornback.deployments.outbox import Outbox
from thornback.deployments.parked_values import ParkedValues
from thornback.deployments.pool_tools import PoolTools, SpecsOf
from thornback.deployments.tool_modules import ToolModules, close
from thornback.deployments.tracing import Service, Tracing

MAX_THREADS = 1024
"""Threads are made when calls need them; how many calls there are at a time the slots say."""
DEFAULT_SLOTS: int = DeploymentOptions.model_fields["max_ongoing_requests"].default


class ReplicaFacts(msgspec.Struct, frozen=True):
    """What a host knows of its own place."""

    replica_id: str
    node_id: str
    line: str = ""
    """As in `HostState`."""


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
        specs_of: SpecsOf | None = None,
        replica: Callable[[], ReplicaFacts] | None = None,
        clock: Clock | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Args:
            cluster: Name of the cluster.
            pool: Name of the pool in it.
            modules: Dotted names of the tool modules.
            specs_of: As in `PoolTools`; None: asks the registry.
            replica: Where this runs; None: asks Ray Serve.
            clock: None: the machine's.
            tracing: None: as `reconfigure` is told.
        """
        self._clock = clock = clock or SystemClock()
        self._began_s = clock.monotonic()
        self._cluster = cluster
        self._pool = pool
        self._replica = (replica or _serve_replica)()
        self._tools = PoolTools(cluster, pool, modules, specs_of or _registered_specs, clock)
        self._book = CallBook(clock, DEFAULT_SLOTS)
        self._threads = CountedThreads(MAX_THREADS)
        self._tracing = tracing or Tracing()
        self._batcher = Batcher(self._threads, lambda: self._book.slots, self._tracing)
        self._parked = ParkedValues(clock)
        self._running: dict[str, HostedCall] = {}
        self._freed = asyncio.Event()
        self._workplace = Workplace(
            pool,
            self._tools,
            self._threads,
            self._batcher,
            self._running,
            self._counted,
            self._freed.set,
            self._tracing,
        )

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take the limits of the pool, at the start and when they change; nothing restarts.

        Args:
            user_config: `max_ongoing_requests`: calls that run here at a time; `traces`, which is
                heard once.
        """
        self._book.slots = user_config["max_ongoing_requests"]
        self._freed.set()
        service = Service(
            f"thornback-{self._pool}",
            self._cluster,
            self._replica.replica_id,
            importlib.metadata.version("thornback"),
        )
        await self._tracing.begin(user_config, service, for_tools=True)

    # --- calls ------------------------------------------------------------------------------------

    async def send(self, message: bytes) -> AsyncGenerator[bytes, None]:
        """Run calls that came together: a `Send` of `cluster.messages`, answered by `Replies`.

        The first message comes at once. Closing the generator cancels the calls that still run.
        """
        send = decode_send(message)
        self._hear(send.gateway, send.held)
        for call_id in send.cancels:
            if (running := self._running.get(call_id)) is not None:
                running.cancel()
        outbox = Outbox(
            [call.tool for call in send.calls],
            self._parked,
            [call.logged_as for call in send.calls],
        )
        calls = self._begin(send.wire, send.gateway, send.calls, outbox, send.alone)
        try:
            await asyncio.sleep(0)  # what is over at once travels with its acknowledgement
            async for taken in outbox.messages():
                yield encode_replies(self._state_for(send.gateway), *taken)
            if send.room_s and not self._counted().free_for(send.gateway):
                await self._room(send)
                yield encode_replies(self._state_for(send.gateway), (), ())
        finally:
            # Also when the gateway closed the stream: a plain function learns it from its context,
            # an async one from the cancelled task.
            for call in calls:
                call.cancel()

    async def call(self, message: bytes) -> AsyncGenerator[bytes, None]:
        """Run one tool once, for a gateway of wire version 1: `Acknowledged`, events, one outcome.

        A call that is not started gets one `Refused` and nothing else. Closing the generator
        cancels the tool.
        """
        call = decode_call(message)
        outbox = Outbox([call.tool], None, [call.logged_as])
        calls = self._begin(call.wire, "", [call], outbox, alone=True)
        try:
            await asyncio.sleep(0)
            async for acknowledged, replies in outbox.messages():
                if acknowledged:
                    running = self._counted().in_use
                    yield encode(Acknowledged(call.wire, self._replica.replica_id, running))
                for _, reply in replies:
                    yield reply
        finally:
            for begun in calls:
                begun.cancel()

    async def fetch(self, value_id: str) -> bytes | None:
        """A reply that was too large for a message; None where it is not here any more."""
        return self._parked.take(value_id)

    async def beat(self, gateway: str, held: int) -> bytes:
        """A gateway is there, and holds so many calls. Answers with this replica's `HostState`."""
        self._hear(gateway, held)
        return encode(self._state_for(gateway))

    def load(self) -> Load:
        """What there is to do here and in the gateways, for whoever decides on replicas."""
        return self._counted().load()

    def _begin(
        self, wire: int, gateway: str, calls: list[CallMessage], outbox: Outbox, alone: bool
    ) -> list[HostedCall]:
        if wire in WIRES_SPOKEN:
            return [
                HostedCall(call, place, gateway, alone, outbox, self._workplace)
                for place, call in enumerate(calls)
            ]
        why = f"this host speaks wire version {WIRE_VERSION}, the gateway {wire}"
        for place in range(len(calls)):
            outbox.finish(place, self._tools.broken("thornback", why))
        return []

    async def _room(self, send: Send) -> None:
        """Wait until a gateway may send calls, or `room_s` have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(send.room_s):
                while not self._counted().free_for(send.gateway):
                    self._freed.clear()
                    await self._freed.wait()

    def _hear(self, gateway: str, held: int) -> None:
        self._book.hear(gateway, held)
        self._freed.set()  # a gateway that holds fewer calls leaves a greater share to others

    def _state_for(self, gateway: str) -> HostState:
        book, here = self._counted(), self._replica
        return HostState(
            here.replica_id,
            here.node_id,
            book.slots,
            book.free_for(gateway),
            book.in_use,
            self._clock.monotonic() - self._began_s,
            here.line,
        )

    def _counted(self) -> CallBook:
        """The book, after a look at the threads."""
        # Threads that outlived their calls take slots that the calls gave back.
        threads = self._threads.busy
        if threads:
            threads -= sum(call.in_thread for call in self._running.values())
            threads -= self._batcher.threads
        self._book.stray(max(0, threads))
        return self._book

    # --- what others ask --------------------------------------------------------------------------

    async def check_health(self) -> None:
        """Healthy once the modules were imported; Serve's first check waits for that."""
        await self._tools.imported()

    async def info(self) -> dict[str, Any]:
        """What runs here, for `status`: plain types only."""
        loaded = self._tools.loaded or ToolModules({}, {})
        return {
            "pid": os.getpid(),
            "replica_id": self._replica.replica_id,
            "thornback": importlib.metadata.version("thornback"),
            "tools": {
                key: tool.spec(self._pool).content_hash for key, tool in loaded.tools.items()
            },
            "broken": loaded.broken,
            "mismatches": {key: m.cause for key, m in self._tools.mismatches.items()},
            "running": len(self._running),
            "slots": self._book.slots,
            "busy_threads": self._threads.busy,
            "environment": {
                name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")
            },
        }

    def close(self) -> None:
        """Let go of threads, and close the instances of class tools that can be closed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if (loaded := self._tools.loaded) is not None:
            close(loaded)
        self._tracing.close()

    def __del__(self) -> None:  # what Serve calls when it stops a replica
        with suppress(Exception):
            self.close()


async def _registered_specs(cluster: str, pool: str) -> list[ToolSpec]:
    """The catalog's tools of a pool, from the registry."""
    from thornback.cluster.actors import connect  # imports Ray

    return await connect(f"thornback.{cluster}").tools_of(pool)


def _serve_replica() -> ReplicaFacts:
    import ray  # a host is plain Python until Serve makes it
    from ray import serve

    context = serve.get_replica_context()
    return ReplicaFacts(context.replica_tag, ray.get_runtime_context().get_node_id())
