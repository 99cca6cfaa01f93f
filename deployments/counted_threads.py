"""Threads for plain functions, counted, because a thread cannot be stopped.

A function that nobody waits for any more keeps its thread, and its slot, until it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class CountedThreads(ThreadPoolExecutor):
    """Threads, and how many of them are taken."""

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
