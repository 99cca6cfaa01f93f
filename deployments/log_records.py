"""What gateways and tool hosts write beside access lines: a line of JSON for each record.

In a tool host that is what tools print, too: a record and a printed line carry the ids of the calls
in which they were made (`Saying`). What nobody's call has said stays as it is. Arguments, keys and
names of callers are in no line that we make; what a tool itself says, its author answers for. Read
by `log_lines.py`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, TextIO

import msgspec

from thornback.cluster.errors import sendable
from thornback.deployments.log_lines import RAY_MARKS
from thornback.tools.context import ToolContext

MAX_IDS = 64
"""Requests that a line of a batch names; a larger batch says how many more there are."""
MAX_MESSAGE_CHARS = 16 * 1024
MAX_TRACEBACK_CHARS = 64 * 1024


class LogRecord(msgspec.Struct, omit_defaults=True):
    """One line. What a record does not know is left out."""

    time: float
    """Wall-clock seconds."""
    level: str
    """`info`, `warning`, `error`, ... as `logging` has them."""
    logger: str
    """Its name; `stdout` or `stderr` for what was printed."""
    message: str
    request_id: str = ""
    """Of the call in which this was said; empty where it was none, or several."""
    request_ids: list[str] = []
    """Of the calls of a batch."""
    more_requests: int = 0
    """Calls of the batch that `request_ids` leaves out."""
    tool: str = ""
    version: str = ""
    traceback: str = ""


class Saying:
    """The calls for which the code inside runs: one, or those of a batch.

    What is said there and in copies of its context, as a thread of a tool's has one, is theirs; so
    is what is said of them afterwards, because the context must be their own.
    """

    __slots__ = ("calls", "unfinished")

    def __init__(self, calls: Sequence[ToolContext]) -> None:
        self.calls = calls
        self.unfinished: dict[str, str] = {}
        """What was printed without the end of its line, by stream."""

    def __enter__(self) -> None:
        _saying.set(self)

    def __exit__(self, *_: object) -> None:
        # A line without an end is written now.
        for stream in list(self.unfinished):
            if isinstance(target := getattr(sys, stream, None), MarkedStream):
                target.write("\n")


_saying: ContextVar[Saying | None] = ContextVar("saying", default=None)


class JsonLines(logging.Formatter):
    """A record as a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = LogRecord(
            record.created,
            record.levelname.lower(),
            record.name,
            record.getMessage()[:MAX_MESSAGE_CHARS],
        )
        if (saying := _saying.get()) is not None:
            _name_calls(line, saying.calls)
        if (request_ids := _given_ids(record)) is not None:
            _name_requests(line, request_ids)
        if record.exc_info:
            line.traceback = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARS:]
        return _line(line)


class MarkedStream:
    """Standard output or standard error of a tool host, as Python's code sees it."""

    def __init__(self, name: str, stream: TextIO) -> None:
        """
        Args:
            name: Its name in `sys`, and in the records.
        """
        self._name = name
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        saying = _saying.get()
        if saying is None:
            self._stream.write(text)
            return len(text)
        # Without a lock: threads of different calls share nothing here but the last line.
        whole = saying.unfinished.pop(self._name, "") + text
        *lines, rest = whole.split("\n")
        if len(rest) > MAX_MESSAGE_CHARS:
            lines, rest = [*lines, rest], ""
        if rest:
            saying.unfinished[self._name] = rest
        if said := [line for line in map(_last_written, lines) if line]:
            self._stream.write("".join(self._record(line, saying) + "\n" for line in said))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def _record(self, text: str, saying: Saying) -> str:
        if text.startswith(RAY_MARKS):
            return text
        line = LogRecord(time.time(), "info", self._name, text[:MAX_MESSAGE_CHARS])
        _name_calls(line, saying.calls)
        return _line(line)


def mark_output() -> None:
    """Write what this process prints and logs as lines of JSON with the calls that said it.

    What `logging` itself would show is shown, from `WARNING` on, unless a logger has a level of
    its own. Ray's loggers and Ray Serve's have handlers of their own, and keep them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    logging.getLogger("thornback").setLevel(logging.INFO)
    sys.stdout = MarkedStream("stdout", sys.stdout)
    sys.stderr = MarkedStream("stderr", sys.stderr)


def _last_written(line: str) -> str:
    """What a terminal would show of a line: a progress bar writes it again and again."""
    return line.rstrip("\r").rpartition("\r")[2]


def _name_calls(line: LogRecord, calls: Sequence[ToolContext]) -> None:
    line.tool, line.version = calls[0].tool, calls[0].version
    _name_requests(line, [call.request_id for call in calls])


def _given_ids(record: logging.LogRecord) -> Sequence[str] | None:
    """The requests that a record of ours names itself; None: it names none."""
    return getattr(record, "request_ids", None) if record.name.startswith("thornback.") else None


def _name_requests(line: LogRecord, request_ids: Sequence[str]) -> None:
    line.request_id = request_ids[0] if len(request_ids) == 1 else ""
    line.request_ids = list(request_ids[:MAX_IDS]) if len(request_ids) > 1 else []
    line.more_requests = max(0, len(request_ids) - MAX_IDS)


_encoder = msgspec.json.Encoder()


def _line(line: LogRecord) -> str:
    try:
        return _encoder.encode(line).decode()
    except UnicodeEncodeError:
        line.message, line.traceback = sendable(line.message), sendable(line.traceback)
        return _encoder.encode(line).decode()
