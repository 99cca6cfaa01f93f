"""What every peer's tools do, and how a peer counts its calls: as `thornback.tools.benchmark` does.

Imports nothing of Thornback: peers run in an environment of their own.
"""

import asyncio
import mmap
import os
import time
from pathlib import Path

COUNT_BYTES = 8
_counts: dict[int, mmap.mmap] = {}
_running = 0


def count() -> None:
    """Count a call that began in this process, where `THORNBACK_BENCHMARK_COUNTS` says."""
    directory = os.environ.get("THORNBACK_BENCHMARK_COUNTS")
    if directory is None:
        return
    pid = os.getpid()
    if pid not in _counts:
        path = Path(directory, str(pid))
        path.write_bytes(bytes(COUNT_BYTES))
        with path.open("r+b") as file:
            _counts[pid] = mmap.mmap(file.fileno(), COUNT_BYTES)
    calls = int.from_bytes(_counts[pid][:COUNT_BYTES], "little") + 1
    _counts[pid][:COUNT_BYTES] = calls.to_bytes(COUNT_BYTES, "little")


async def echo(text: str) -> str:
    """Answer with the text it was given."""
    count()
    return text


async def echo_later(text: str, delay_s: float) -> str:
    """Answer with the text it was given, after so many seconds."""
    count()
    await asyncio.sleep(delay_s)
    return text


async def echo_padded(text: str, padding_bytes: int) -> str:
    """Answer with the text it was given and so many letters x behind it."""
    count()
    return text + "x" * padding_bytes


async def work(text: str, delay_s: float) -> str:
    """Wait, and answer with the text and: process, calls that run in it, first and last moment."""
    global _running
    count()
    _running += 1
    running, began_s = _running, time.monotonic()
    try:
        await asyncio.sleep(delay_s)
    finally:
        _running -= 1
    return f"{text} {os.getpid()} {running} {began_s:.6f} {time.monotonic():.6f}"
