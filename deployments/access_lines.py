"""From a line of a gateway's access log to a line for a person: pure.

A gateway writes one JSON object for each request that it answered; `up` in the foreground and
`thornback logs` show them. Arguments, results and keys are in neither form.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

import msgspec


class AccessRecord(msgspec.Struct, frozen=True):
    """What the access log says of one request; fields that a line lacks have their defaults."""

    time: float
    """Wall-clock seconds."""
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
    gateway: str = ""


_decoder = msgspec.json.Decoder(AccessRecord)


def access_line(line: str | bytes, zone: tzinfo | None = None) -> str | None:
    """`07:15:02 sql_query 200 12 ms research-agents`, or None where `line` is no access record.

    Args:
        line: One line of the log, which may also hold what a library printed.
        zone: Of the time shown; None: this machine's.
    """
    try:
        record = _decoder.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    moment = datetime.fromtimestamp(record.time, UTC).astimezone(zone)
    what = record.name if record.method == "tools/call" else f"{record.method} {record.name}"
    parts = [
        f"{moment:%H:%M:%S}",
        what.strip() or "(not understood)",
        record.error or "ok",
        _duration(record.duration_ms),
        record.principal,
    ]
    if record.status != 200:
        parts.insert(2, f"HTTP {record.status}")
    return "  ".join(part for part in parts if part)


def _duration(duration_ms: float) -> str:
    return f"{duration_ms / 1000:.1f} s" if duration_ms >= 1000 else f"{duration_ms:.0f} ms"
