"""The tools that a replica has, held against those that the catalog says it should have.

Modules are imported once, in a thread; what came of it is compared with the registry's word, again
whenever a call names what did not match. Nothing here runs a tool.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.messages import WIRE_VERSION, CallMessage, Refused
from thornback.deployments.clock import Clock
from thornback.deployments.tool_modules import Mismatch, ToolModules, load, mismatches
from thornback.tools.definition import Tool

logger = logging.getLogger(__name__)

RECHECK_S = 2.0
"""Least seconds between two looks into the registry because of a tool that did not match."""
RETRY_S = 0.5
"""Seconds between two tries to reach a registry that is away."""

SpecsOf = Callable[[str, str], Awaitable[Sequence[ToolSpec]]]


class PoolTools:
    """The tools of one replica, by `name@version`."""

    def __init__(
        self, cluster: str, pool: str, modules: list[str], specs_of: SpecsOf, clock: Clock
    ) -> None:
        """
        Args:
            specs_of: From cluster and pool to the catalog's tools of that pool. May raise while
                the registry is away.
        """
        self._cluster = cluster
        self._pool = pool
        self._specs_of = specs_of
        self._clock = clock
        self.mismatches: dict[str, Mismatch] = {}
        self._compared: asyncio.Task[None] | None = None
        self._compared_at = float("-inf")
        # A thread of its own: in throughput mode the loop that is free meanwhile is also the one
        # that answers Serve's health checks.
        self._loaded: Future[ToolModules] = Future()
        threading.Thread(target=self._load, args=(modules,), name="import", daemon=True).start()

    @property
    def loaded(self) -> ToolModules | None:
        """What importing came to; None while it goes on."""
        return self._loaded.result() if self._loaded.done() else None

    async def imported(self) -> None:
        """Wait until the modules were imported, whatever came of that."""
        await asyncio.wrap_future(self._loaded)

    def ready(self, key: str) -> Tool | None:
        """A tool that is here and that the catalog knows; None if that must be found out."""
        if not self._settled or key in self.mismatches:
            return None
        return self._loaded.result().tools.get(key)

    async def find(self, call: CallMessage) -> Tool | Refused:
        """The tool that a call names, or why it is not run. Waits, if need be, as the call may."""
        key = f"{call.tool}@{call.version}"
        try:
            async with asyncio.timeout(call.queue_timeout_s):
                loaded = await asyncio.wrap_future(self._loaded)
                await self._compare(loaded, key)
        except TimeoutError:
            why = "is importing" if not self._loaded.done() else "waits for the registry"
            return Refused(WIRE_VERSION, "pool.no_replica", [self._pool, f"its host {why}", "1"])
        if mismatch := self.mismatches.get(key):
            return self.broken(mismatch.module, mismatch.cause)
        tool = loaded.tools.get(key)
        return tool or self.broken(key, "no module of this pool declares it")

    def broken(self, module: str, cause: str) -> Refused:
        return Refused(WIRE_VERSION, "pool.broken", [self._pool, module, cause])

    @property
    def _settled(self) -> bool:
        return self._compared is not None and self._compared.done() and self._loaded.done()

    def _load(self, modules: list[str]) -> None:
        self._loaded.set_result(load(modules))

    async def _compare(self, loaded: ToolModules, key: str) -> None:
        """Compare what was imported with the catalog: once, and again for what did not match.

        One look serves all who wait for it, and goes on when one of them gives up.
        """
        settled = self._settled
        if settled and key in loaded.tools and key not in self.mismatches:
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
        self.mismatches = mismatches(loaded, self._pool, specs)
        self._compared_at = self._clock.monotonic()
        for mismatch in self.mismatches.values():
            logger.warning("%s: %s", mismatch.module, mismatch.cause)
