"""A tool that says where and when it ran, so that a benchmark sees what replicas do."""

import asyncio
import os
import time

from thornback.tools import tool
from thornback.tools.benchmark import CALLS

_running = 0


@tool(read_only=True, idempotent=True, timeout_s=60)
async def work(text: str, delay_s: float) -> str:
    """Wait, and answer with the text and: process, calls that run in it, first and last moment.

    Args:
        text: Any text.
        delay_s: Seconds to wait.
    """
    global _running
    CALLS.add()
    _running += 1
    running, began_s = _running, time.monotonic()
    try:
        await asyncio.sleep(delay_s)
    finally:
        _running -= 1
    return f"{text} {os.getpid()} {running} {began_s:.6f} {time.monotonic():.6f}"
