"""Cancellations of calls that another gateway may run, on their way to all of them.

A `notifications/cancelled` may come to any gateway, and whether its call still runs anywhere is not
known here. So all gateways are asked, but never as often as a client likes: what comes while they
are being asked waits, and goes together in the next question.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence

from thornback.cluster.principals import Principal
from thornback.deployments.running_calls import Key

MAX_WAITING = 1000
"""Names of calls that wait for one principal; more than that within a fraction of a second come
from nobody who has so many calls. What is left out here ends at its deadline."""
PAUSE_S = 0.05
"""Between two questions: each costs every gateway some milliseconds."""

logger = logging.getLogger(__name__)

AskAll = Callable[[Sequence[Key]], Awaitable[None]]
"""Asks every gateway to cancel the calls of these names."""


class Cancellations:
    """What one gateway has to pass on."""

    def __init__(
        self, ask_all: AskAll, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._ask_all = ask_all
        self._sleep = sleep
        self._waiting: dict[Principal, set[Key]] = {}
        self._asking: asyncio.Task[None] | None = None

    def pass_on(self, principal: Principal, key: Key) -> None:
        """Have the call of this name cancelled, wherever it runs; returns at once, because a
        notification has no result.

        Args:
            principal: Who asks.
            key: The call.
        """
        waiting = self._waiting.setdefault(principal, set())
        if len(waiting) >= MAX_WAITING:
            return
        waiting.add(key)
        if len(waiting) == MAX_WAITING:
            logger.warning("%s cancels more calls than are passed on", principal.name)
        if self._asking is None or self._asking.done():
            # In a context of its own: Ray Serve ties what is started in a request's context to
            # that request, and cancels it with it.
            loop = asyncio.get_running_loop()
            self._asking = loop.create_task(self._ask(), context=contextvars.Context())

    async def _ask(self) -> None:
        while self._waiting:
            keys = [key for waiting in self._waiting.values() for key in waiting]
            self._waiting.clear()
            try:
                await self._ask_all(keys)
            except Exception:
                # The calls end at their deadlines all the same.
                logger.exception("%d cancellations did not reach every gateway", len(keys))
            await self._sleep(PAUSE_S)
