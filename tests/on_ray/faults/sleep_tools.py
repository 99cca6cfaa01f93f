"""A tool that keeps a replica's threads busy without using a CPU: what scaling is tested with."""

import time

from thornback.tools import tool


@tool(timeout_s=60, read_only=True)
def doze(seconds: float) -> float:
    """Sleep.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return seconds
