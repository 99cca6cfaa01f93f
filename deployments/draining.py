"""That Serve takes this gateway away, in time for its open streams to end well.

A replica that is drained stays reachable for half a minute and then waits, up to its deployment's
`graceful_shutdown_timeout_s`, for the requests that go on; a listen stream is one, and would be cut
off there. Serve has no hook for it. What it answers HAProxy's health checks with (503, `DRAINING`)
is noted in the replica, and that note is read here.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.5
FRONT_TOLD_S = 1.0
"""By then the front door sends nothing here any more: a client that comes back goes elsewhere."""


def is_drained() -> bool:
    """Whether Serve takes away the replica that is this process."""
    worker: Any = importlib.import_module("ray._private.worker").global_worker
    return bool(worker.actors[worker.actor_id]._replica_impl._shutting_down)


async def when_drained(
    then: Callable[[], Awaitable[None]],
    asked: Callable[[], bool] = is_drained,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Wait until this replica is drained and the front door knows, and then do `then`."""
    while not asked():
        await sleep(POLL_S)
    await sleep(FRONT_TOLD_S)
    await then()
