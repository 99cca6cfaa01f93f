"""Tools for the protocol tests; each shows one thing that the edge must carry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

from thornback.tools import ToolContext, ToolFailure, tool

started = threading.Event()
ended: list[str] = []


@tool(version="1.2.0", title="Add", read_only=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool()
def fail() -> str:
    """Fail so that the model can read why."""
    raise ToolFailure("the table has no rows")


@tool()
def buggy() -> str:
    """Raise what was not meant."""
    raise RuntimeError("password=hunter2")


@tool()
async def wait(ctx: ToolContext) -> str:
    """Wait until it is cancelled."""
    ctx.progress(1, message="waiting")
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("wait")
    return "never"


@tool()
async def steps(ctx: ToolContext) -> str:
    """Report three steps and a log message."""
    for step in (1, 2, 3):
        ctx.progress(step, 3, f"step {step}")
    ctx.log("warning", {"what": "almost done"})
    ctx.log("debug", "chatter")
    return "done"


@tool()
def rows() -> Iterator[dict[str, Any]]:
    """Stream three rows."""
    for number in range(3):
        yield {"number": number}


@tool()
async def linger(seconds: float) -> str:
    """Be silent for a while."""
    await asyncio.sleep(seconds)
    return "there"
