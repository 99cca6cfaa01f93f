"""From a line of a log to lines for a person, and what it is about: pure.

Gateways write one JSON object for each request that they answered; they and tool hosts write one
for each other thing that they say (`log_records.py`). `up` in the foreground and `thornback logs`
show both. What is neither was printed outside of a call, and is shown as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, tzinfo

import msgspec

START = '{"time":'
"""How both kinds begin; a formatter of somebody else's may have put something before it."""
RAY_MARKS = (":actor_name:", ":job_id:", ":task_name:", '{"__magic_token__"')
"""How lines begin that are meant for Ray's own reader of logs."""


class LogLine(msgspec.Struct, frozen=True):
    """An access record, or a record; fields that a line lacks have their defaults."""

    time: float
    """Wall-clock seconds."""
    request_id: str = ""
    request_ids: tuple[str, ...] = ()
    """Of a line that several requests share."""
    tool: str = ""
    message: str = ""
    logger: str = ""
    """Empty: an access record."""
    level: str = ""
    traceback: str = ""
    method: str = ""
    """JSON-RPC method; empty where the request was refused before it was understood."""
    name: str = ""
    """Tool, prompt or URI."""
    principal: str = ""
    status: int = 200
    """HTTP status."""
    error: str = ""
    """Dotted code of the error, also of one inside an `isError` result; empty for success."""
    duration_ms: float = 0.0

    @property
    def all_request_ids(self) -> tuple[str, ...]:
        return (self.request_id,) if self.request_id else self.request_ids

    def is_of_tool(self, tool: str) -> bool:
        return self.tool == tool or (self.method == "tools/call" and self.name == tool)

    def names(self, wanted_id: str) -> bool:
        """Whether it is about this request, or tells of this error."""
        if wanted_id in self.all_request_ids:
            return True
        return wanted_id.startswith("err_") and wanted_id in f"{self.message} {self.traceback}"


_decoder = msgspec.json.Decoder(LogLine)


def log_line(line: str) -> LogLine | None:
    """What a line of a log says; None where it is none of ours."""
    start = line.find(START)
    if start < 0:
        return None
    try:
        return _decoder.decode(line[start:])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def shown_lines(
    line: str, zone: tzinfo | None = None, wanted_ids: Collection[str] = ()
) -> list[str]:
    """`07:15:02  sql_query  ok  12 ms  research-agents  req_...`; with a traceback, several lines.

    Args:
        line: One line of a log, which may also hold what a library printed.
        zone: Of the time shown; None: this machine's.
        wanted_ids: Of the requests that were asked for: a line of several names one of those.
    """
    said = log_line(line)
    if said is None:
        return [line]
    moment = f"{datetime.fromtimestamp(said.time, UTC).astimezone(zone):%H:%M:%S}"
    parts = _record_parts(said) if said.logger else _access_parts(said)
    first = "  ".join(part for part in [moment, *parts, *_ids(said, wanted_ids)] if part)
    return [first, *(f"    {_printable(each)}" for each in said.traceback.splitlines())]


def _access_parts(said: LogLine) -> list[str]:
    what = said.name if said.method == "tools/call" else f"{said.method} {said.name}"
    return [
        what.strip() or "(not understood)",
        "" if said.status == 200 else f"HTTP {said.status}",
        said.error or "ok",
        _duration(said.duration_ms),
        said.principal,
    ]


def _record_parts(said: LogLine) -> list[str]:
    printed = said.logger in ("stdout", "stderr")
    about = "" if printed else f"{said.level.upper()} {said.logger}:"
    return [said.tool, f"{about} {_printable(said.message)}".strip()]


def _ids(said: LogLine, wanted_ids: Collection[str]) -> list[str]:
    ids = sorted(said.all_request_ids, key=lambda each: each not in wanted_ids)
    return [ids[0], f"and {len(ids) - 1} more"] if len(ids) > 1 else ids


def _printable(text: str) -> str:
    """What a tool said, with nothing in it that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _duration(duration_ms: float) -> str:
    return f"{duration_ms / 1000:.1f} s" if duration_ms >= 1000 else f"{duration_ms:.0f} ms"
