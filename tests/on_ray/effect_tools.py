"""Tools whose effects outlive the process they ran in: what fault tests count and compare.

Named by a config as `effect_tools`, with this directory as its base. `EFFECTS_FILE` is set in the
pool's `runtime_env`.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator

from thornback.tools import ToolContext, ToolFailure, tool


def leave(line: str) -> None:
    """Append one line to the effects file; whole, and on disk before this returns."""
    descriptor = os.open(os.environ["EFFECTS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())  # one write with O_APPEND is not interleaved
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@tool(timeout_s=60, idempotent=False)
def effect(key: str, seconds: float = 0.0) -> str:
    """Leave a line, wait, and answer with it: must never run twice.

    Args:
        key: The line to leave.
        seconds: How long to wait after it.
    """
    leave(key)
    time.sleep(seconds)
    return key


@tool(timeout_s=60, idempotent=True)
def repeatable_effect(key: str, seconds: float = 0.0) -> str:
    """Leave a line, wait, and answer with it: may run again.

    Args:
        key: The line to leave.
        seconds: How long to wait after it.
    """
    return effect(key, seconds)


@tool(timeout_s=60, idempotent=True)
async def effect_on_loop(key: str, seconds: float = 0.0) -> str:
    """Leave a line, wait, and answer with it; the line is there before its host has said anything.

    Args:
        key: The line to leave.
        seconds: How long to wait after it.
    """
    leave(key)
    await asyncio.sleep(seconds)
    return key


@tool(timeout_s=60, read_only=True)
async def nap(seconds: float, ctx: ToolContext) -> str:
    """Wait on the loop; leaves a line when it is cancelled.

    Args:
        seconds: How long to wait.
    """
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        leave(f"cancelled {ctx.request_id}")
        raise
    return "rested"


@tool(timeout_s=60, read_only=True)
def blocking_nap(seconds: float, ctx: ToolContext) -> str:
    """Wait in a thread; leaves a line when it is cancelled.

    Args:
        seconds: How long to wait.
    """
    try:
        ctx.sleep(seconds)
    except ToolFailure:
        leave(f"cancelled {ctx.request_id}")
        raise
    return "rested"


@tool(timeout_s=60, read_only=True)
def ticks(count: int, ctx: ToolContext, every_s: float = 0.1) -> Iterator[int]:
    """Count, one number at a time; leaves a line when it is stopped early.

    Args:
        count: How many numbers.
        every_s: Seconds between two of them.
    """
    finished = False
    try:
        for number in range(count):
            ctx.progress(number + 1, count)
            yield number
            ctx.sleep(every_s)
        finished = True
    finally:
        if not finished:
            leave(f"stopped {ctx.request_id}")


@tool(timeout_s=60, read_only=True)
def spin(seconds: float) -> float:
    """Use a CPU and return the CPU seconds it took.

    Args:
        seconds: CPU seconds to use.
    """
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass
    return time.thread_time() - started


@tool(timeout_s=60)
def die(code: int = 1) -> None:
    """End the process that runs this call, at once.

    Args:
        code: Its exit code.
    """
    os._exit(code)


@tool(timeout_s=60, idempotent=False)
async def last_words(key: str) -> None:
    """Leave a line and end the process that runs this call, before it has said anything.

    Args:
        key: The line to leave.
    """
    leave(key)
    os._exit(1)


@tool(timeout_s=60, read_only=True)
def large(size_bytes: int) -> str:
    """Return a text of this size.

    Args:
        size_bytes: How many characters.
    """
    return "x" * size_bytes


@tool(timeout_s=60, read_only=True)
def talk(topic: str) -> str:
    """Print a line and log one.

    Args:
        topic: What about.
    """
    print(f"let us talk of {topic}")
    logging.getLogger("talkers").warning("enough of %s", topic)
    return topic


@tool(timeout_s=60, read_only=True)
def buggy(secret: str) -> str:
    """Fail with a bug whose message has the argument in it.

    Args:
        secret: What must not be told.
    """
    raise RuntimeError(secret)


@tool(timeout_s=120, read_only=True)
def count_in_thread(key: str, count: int) -> Iterator[int]:
    """Count without pause, last digits only; leaves a line for every thousand.

    Args:
        key: How the lines begin.
        count: How many numbers.
    """
    yield from last_digits(key, count)


@tool(timeout_s=120, read_only=True)
async def count_on_loop(key: str, count: int) -> AsyncIterator[int]:
    """Count without pause, last digits only; leaves a line for every thousand.

    Args:
        key: How the lines begin.
        count: How many numbers.
    """
    for digit in last_digits(key, count):
        yield digit


def last_digits(key: str, count: int) -> Iterator[int]:
    """Those of the numbers below `count`; leaves a line for every thousand."""
    for number in range(count):
        if number % 1000 == 0:
            leave(f"{key} {number}")
        yield number % 10
