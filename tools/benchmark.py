"""Tools that measure the way to a tool and back; what they do themselves is next to nothing."""

import mmap
import os
import threading
from pathlib import Path

from thornback.tools import tool

COUNTS_VARIABLE = "THORNBACK_BENCHMARK_COUNTS"
"""Names a directory where each process counts its calls; without it nobody counts."""
COUNT_BYTES = 8


class CallCount:
    """Calls that began in this process, in a file of its own that others may read at any time."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._pid = 0
        self._calls = 0
        self._file: mmap.mmap | None = None
        self._lock = threading.Lock()

    def add(self) -> None:
        if self._directory is None:
            return
        with self._lock:
            if self._pid != os.getpid():  # replicas are forks of a process that has imported this
                self._begin(Path(self._directory))
            assert self._file is not None
            self._calls += 1
            self._file[:COUNT_BYTES] = self._calls.to_bytes(COUNT_BYTES, "little")

    def _begin(self, directory: Path) -> None:
        self._pid, self._calls = os.getpid(), 0
        path = directory / str(self._pid)
        path.write_bytes(bytes(COUNT_BYTES))
        with path.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), COUNT_BYTES)


CALLS = CallCount(os.environ.get(COUNTS_VARIABLE))


@tool(read_only=True, idempotent=True, timeout_s=30)
async def echo(text: str) -> str:
    """Answer with the text it was given, to measure how long a call takes.

    Args:
        text: Any text.
    """
    CALLS.add()
    return text
