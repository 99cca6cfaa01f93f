"""What this gateway is working on, so that it can be cancelled by name.

Work runs in tasks of its own: a connection that closes ends work of 2026-07-28 because we say so,
and leaves work of older revisions alone, which go on to their deadline.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterator
from typing import Any

from thornback.cluster.protocol import RpcId
from thornback.deployments.replies import Answer

Key = tuple[str, RpcId]
"""A session's key (`sessions.session_key`) and the id of a request in it."""


class RunningCalls:
    """The requests that are being answered."""

    def __init__(self) -> None:
        self._named: dict[Key, asyncio.Task[Answer]] = {}
        self._all: set[asyncio.Task[Any]] = set()

    def start(
        self, work: Coroutine[Any, Any, Answer], key: Key | None = None
    ) -> asyncio.Task[Answer]:
        """Begin `work`; where it has a key, `cancel` finds it by that until it is done."""
        # In a context of its own: Ray Serve ties what is started in a request's context to that
        # request and cancels it when the client closes the connection, at any revision.
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, context=contextvars.Context())
        self._all.add(task)
        task.add_done_callback(self._all.discard)
        if key is not None:
            self._named[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def enter(self) -> asyncio.Task[Any]:
        """Count what the current task does as running, until it `leave`s."""
        task = asyncio.current_task()
        assert task is not None
        self._all.add(task)
        return task

    def leave(self, task: asyncio.Task[Any]) -> None:
        self._all.discard(task)

    def cancel(self, key: Key) -> bool:
        """Cancel what runs under `key`; False where nothing does here."""
        task = self._named.get(key)
        return task is not None and task.cancel()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._all))

    def _forget(self, key: Key, task: asyncio.Task[Answer]) -> None:
        # A client that reuses an id while the first is open has put its own second in our place.
        if self._named.get(key) is task:
            del self._named[key]
