"""The access log: one line of JSON for each request, whatever was in it.

Who asked for what, and how it ended. Arguments, results, keys and client names are in no line; a
name that a caller chose is cut and cannot begin a line of its own. Read by `access_lines.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import msgspec

from thornback.cluster.errors import shown
from thornback.cluster.ids import new_id
from thornback.deployments.clock import Clock
from thornback.deployments.http_edge import ClientGone

CLIENT_GONE_STATUS = 499
"""For the log alone: nobody is there to read a status."""

logger = logging.getLogger("thornback.access")


@dataclass
class AccessRecord:
    """What is known of a request; filled in as it is understood."""

    time: float
    """Wall-clock seconds of its arrival."""
    gateway: str
    call_id: str
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


@contextmanager
def recorded(clock: Clock, gateway: str) -> Iterator[AccessRecord]:
    """A record of one request, which is logged when the request is over, however it ends.

    A client that has gone ends it here: there is nobody left to answer.
    """
    began = clock.monotonic()
    record = AccessRecord(clock.wall(), gateway, new_id("call"))
    try:
        yield record
    except ClientGone:
        record.status = CLIENT_GONE_STATUS
    except asyncio.CancelledError:
        record.status = CLIENT_GONE_STATUS
        raise
    finally:
        record.duration_ms = (clock.monotonic() - began) * 1000
        write_access(record)


def write_access(record: AccessRecord) -> None:
    """Log the record. Text that a caller chose is made printable and at most 80 characters."""
    said = replace(
        record,
        method=shown(record.method),
        name=shown(record.name),
        duration_ms=round(record.duration_ms, 2),
    )
    logger.info("%s", msgspec.json.encode(said).decode())


def log_to_output() -> None:
    """Send what this process logs to its output, which Ray keeps in files.

    Ray Serve gives handlers to its own loggers alone, and without one a line below `WARNING` goes
    nowhere. Access records stand alone on their lines; everything else says when and from where.
    """
    # Not `sys.stdout`: Serve puts its own logger there, which keeps a thousand lines to itself.
    access = logging.StreamHandler(sys.__stdout__)
    access.setFormatter(logging.Formatter("%(message)s"))
    others = logging.StreamHandler(sys.__stderr__)
    others.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name, handler in (("thornback.access", access), ("thornback", others)):
        configured = logging.getLogger(name)
        configured.setLevel(logging.INFO)
        configured.propagate = False
        configured.handlers = [handler]
