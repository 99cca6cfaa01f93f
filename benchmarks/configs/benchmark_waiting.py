"""A tool that takes its time and no CPU."""

import asyncio

from thornback.tools import tool
from thornback.tools.benchmark import CALLS


@tool(read_only=True, idempotent=True, timeout_s=60)
async def echo_later(text: str, delay_s: float) -> str:
    """Answer with the text it was given, after so many seconds.

    Args:
        text: Any text.
        delay_s: Seconds to wait.
    """
    CALLS.add()
    await asyncio.sleep(delay_s)
    return text
