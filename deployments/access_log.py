"""The access log: one line of JSON for each request, whatever was in it.

Who asked for what, and how it ended. Arguments, results, keys and client names are in no line; a
name that a caller chose is cut and cannot begin a line of its own. Read by `log_lines.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import msgspec

from thornback.cluster.errors import shown
from thornback.deployments.clock import Clock
from thornback.deployments.http_edge import ClientGone
from thornback.deployments.log_records import JsonLines

CLIENT_GONE_STATUS = 499
"""For the log alone: nobody is there to read a status."""

logger = logging.getLogger("thornback.access")


class AccessRecord(msgspec.Struct):
    """What is known of a request; filled in as it is understood."""

    time: float
    """Wall-clock seconds of its arrival."""
    gateway: str
    request_id: str
    method: str = ""
    name: str = ""
    """Tool, prompt or URI."""
    revision: str = ""
    principal: str = ""
    status: int = 0
    """HTTP status; 499 for a client that went away before its answer."""
    error: str = ""
    """Dotted code, also of an error inside a result; empty for success."""
    duration_ms: float = 0.0


class recorded:
    """A record of one request, which is logged when the request is over, however it ends.

    A client that has gone ends it here: there is nobody left to answer.
    """

    def __init__(self, clock: Clock, gateway: str, request_id: str) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._record = AccessRecord(clock.wall(), gateway, request_id)

    def __enter__(self) -> AccessRecord:
        return self._record

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        record, gone = self._record, isinstance(error, ClientGone)
        if gone or isinstance(error, asyncio.CancelledError):
            record.status = CLIENT_GONE_STATUS
        record.duration_ms = (self._clock.monotonic() - self._began) * 1000
        write_access(record)
        return gone


def write_access(record: AccessRecord) -> None:
    """Log the record. Text that a caller chose is made printable and at most 80 characters."""
    record.method, record.name = shown(record.method), shown(record.name)
    record.duration_ms = round(record.duration_ms, 2)
    _write(_encoder.encode(record).decode())


_encoder = msgspec.json.Encoder()
_write: Callable[[str], object] = logger.info
"""Where lines go. A record of `logging` costs more than all else about a line, so that a gateway's
go to its output without one."""


def log_to_output() -> None:
    """Send what this process logs to its output, which Ray keeps in files.

    Ray Serve gives handlers to its own loggers alone, and without one a line below `WARNING` goes
    nowhere.
    """
    global _write
    # Not `sys.stdout`: Serve puts its own logger there, which keeps a thousand lines to itself.
    if sys.__stdout__ is not None:
        _write = _Output(sys.__stdout__)
    others = logging.StreamHandler(sys.__stderr__)
    others.setFormatter(JsonLines())
    configured = logging.getLogger("thornback")
    configured.setLevel(logging.INFO)
    configured.propagate = False
    configured.handlers = [others]


class _Output:
    """Writes lines, those of one round of the loop together."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._waiting: list[str] = []

    def __call__(self, line: str) -> None:
        self._waiting.append(line + "\n")
        if len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_soon(self._flush)
            except RuntimeError:  # no loop runs
                self._flush()

    def _flush(self) -> None:
        lines, self._waiting = self._waiting, []
        with suppress(OSError, ValueError):  # a full disk, a closed file: requests go on
            self._output.write("".join(lines))
            self._output.flush()
