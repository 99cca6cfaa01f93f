"""A time limit for what is often over before one could matter."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AtOnceOrWithin(Generic[T]):
    """Awaits something that is often there at once, with a time limit for when it is not.

    A time limit costs as much as a task, and is not needed for what does not wait: the body of a
    small request, a tool that answers in one step. So the first step is done here, and only what
    waits then gets a limit.
    """

    def __init__(self, seconds: float, awaitable: Awaitable[T]) -> None:
        self._seconds = seconds
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaitable.__await__()
        try:
            waits_for = next(steps)
        except StopIteration as done:
            found: T = done.value
            return found
        return (yield from self._limited(_resumed(steps, waits_for)).__await__())

    async def _limited(self, rest: Awaitable[T]) -> T:
        async with asyncio.timeout(self._seconds):
            return await rest


@types.coroutine
def _resumed(steps: Generator[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """The rest of `steps`, which wait at this moment."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(sent)
    except StopIteration as done:
        found: T = done.value
        return found
