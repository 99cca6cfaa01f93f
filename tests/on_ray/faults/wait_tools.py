"""A tool that keeps a replica busy without using a CPU: what scaling is tested with."""

import asyncio

from thornback.tools import tool


@tool(timeout_s=60, read_only=True)
async def wait(seconds: float) -> float:
    """Wait.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)
    return seconds
