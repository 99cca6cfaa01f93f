"""`CatalogMirror`: the catalog as one gateway knows it.

One watch is outstanding at the registry at any time; its answer is applied to the catalog at hand.
While the registry is away the last catalog goes on being served, and the watch is tried again.
What is read here is eventual: behind the registry by tens of milliseconds, or by its absence.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from thornback.cluster.catalog import Catalog
from thornback.cluster.errors import RegistryUnavailable
from thornback.cluster.news import News

POLL_S = 10.0
"""Seconds that one watch waits at the registry for a change."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0

_log = logging.getLogger(__name__)

Listener = Callable[[Catalog, Catalog], None]
"""Told of a change of content: the catalog before, the catalog after."""


class RegistryReader(Protocol):
    """What a mirror needs of the registry; `RegistryClient` is one."""

    async def watch(self, number: int, timeout_s: float) -> News: ...

    async def catalog(self) -> Catalog: ...


class CatalogMirror:
    """Holds the newest catalog that it has heard of; empty until `start` is done."""

    def __init__(
        self,
        registry: RegistryReader,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._sleep = sleep
        self._catalog = Catalog.empty()
        self._listeners: list[Listener] = []
        self._moved = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    def on_change(self, listener: Listener) -> None:
        """Call `listener` with every later change of content, on the event loop, in order."""
        self._listeners.append(listener)

    async def start(self, timeout_s: float = 30.0) -> None:
        """Take the first catalog and go on watching.

        Raises:
            RegistryUnavailable: if the registry gives none within `timeout_s`.
        """
        # In a context of its own: Ray Serve ties what is started during a request to that request.
        self._watching = asyncio.get_running_loop().create_task(
            self._watch(), context=contextvars.Context()
        )
        try:
            await self._wait(lambda: self._catalog.epoch > 0, timeout_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop watching; the last catalog stays."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    async def wait_for(self, number: int, timeout_s: float) -> Catalog:
        """The catalog, once its number is `number` or later.

        Raises:
            RegistryUnavailable: if it is not within `timeout_s`.
        """
        await self._wait(lambda: self._catalog.number >= number, timeout_s)
        return self._catalog

    async def _wait(self, reached: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not reached():
                    await self._moved.wait()
        except TimeoutError:
            raise RegistryUnavailable(f"no such catalog within {timeout_s:g} s") from None

    async def _watch(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._hear()
            except Exception as e:
                if pause_s == FIRST_PAUSE_S:  # one line for each absence, not for each attempt
                    _log.warning("no news from the registry, the last catalog stays: %s", e)
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S

    async def _hear(self) -> None:
        """One question to the registry, and what follows from its answer."""
        mine = self._catalog
        if mine.epoch == 0:
            self._adopt(await self._registry.catalog())
            return
        news = await self._registry.watch(mine.number, POLL_S)
        if news.store_id != mine.store_id:
            _log.error(
                "the registry has another store: %s instead of %s; taking its catalog",
                news.store_id,
                mine.store_id,
            )
            self._adopt(await self._registry.catalog())
        elif news.epoch < mine.epoch:
            raise RegistryUnavailable("a former owner of its store answered")
        elif news.changes is None or news.number < mine.number:
            self._adopt(await self._registry.catalog())
        elif news.changes or news.epoch != mine.epoch:
            self._adopt(mine.changed(news.epoch, news.changes))

    def _adopt(self, new: Catalog) -> None:
        old, self._catalog = self._catalog, new
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        if (old.store_id, old.number) == (new.store_id, new.number):
            return
        for listener in self._listeners:
            try:
                listener(old, new)
            except Exception:
                _log.exception("a listener of the catalog failed")
