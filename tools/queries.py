"""SQL over the registered datasets, each query in a process that can be killed.

The parent's end of `query_process.py`. A query process answers one query at a time and is used
again if that went well; one that ran out of time or memory is killed, and its successor starts
from nothing. What DuckDB itself is allowed is said at the other end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thornback.tools import ToolContext, ToolFailure
from thornback.tools.datasets import Registered, registered

if importlib.util.find_spec("duckdb") is None:
    raise ImportError('this needs DuckDB: pip install "thornback[data]"')

MEMORY_BYTES = 512 * 1024 * 1024
"""What one query may use."""
MAX_RESULT_BYTES = 1024 * 1024
MAX_PROCESSES = 4
"""Queries of this host at a time; further ones wait. Idle processes keep their datasets loaded."""
START_TIMEOUT_S = 30.0
POLL_S = 0.05
"""How often a waiting call looks whether it was cancelled."""
PROGRAM = Path(__file__).with_name("query_process.py")
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")

Row = list[Any]


@dataclass(frozen=True)
class Limits:
    """What one query may take."""

    max_rows: int
    timeout_s: float
    max_bytes: int = MAX_RESULT_BYTES
    """Of the rows as JSON."""


@dataclass
class Answer:
    """A result set, in JSON's types."""

    columns: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    """DuckDB's type of each column."""
    rows: list[Row] = field(default_factory=list)
    truncated: bool = False
    """Whether there were more rows than the limits allow."""

    def column(self, name: str) -> list[Any]:
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


def ask(
    sql: str,
    limits: Limits,
    ctx: ToolContext,
    on_rows: Callable[[Answer, list[Row]], None] | None = None,
) -> Answer:
    """Run one query and wait for its rows.

    Args:
        sql: One query; DuckDB's dialect.
        limits: It is cut off at `max_rows` and `max_bytes`, and killed after `timeout_s` or when
            the call's own time ends.
        ctx: The call that it is for; cancelling that kills it.
        on_rows: Told of each batch as it comes, with the answer so far, that batch included.

    Raises:
        ToolFailure: if the query is refused, wrong, or takes too much time or memory.
    """
    answer = Answer()
    process = _take(ctx)
    healthy = False
    # The call must have time left to say that the query took too long.
    process_time_s = min(limits.timeout_s, max(0.1, ctx.remaining_s - 0.5))
    try:
        for message in process.replies(sql, limits, ctx, time.monotonic() + process_time_s):
            if "error" in message:
                healthy = message["error"] != "out of memory"
                raise ToolFailure(_sentence(message["error"]))
            if "columns" in message:
                answer.columns = [name for name, _ in message["columns"]]
                answer.types = [kind for _, kind in message["columns"]]
            elif "rows" in message:
                answer.rows += message["rows"]
                if on_rows is not None and message["rows"]:
                    on_rows(answer, message["rows"])
            else:
                answer.truncated = message["end"]["truncated"]
        healthy = True
    except TimeoutError:
        raise ToolFailure(
            f"the query took longer than {process_time_s:.3g} s and was stopped; aggregate or "
            "filter more, or join on fewer rows"
        ) from None
    except EOFError:
        raise ToolFailure(_sentence("out of memory")) from None
    finally:
        _give_back(process, healthy)
    return answer


def quoted(identifier: str) -> str:
    """A column or dataset name as SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string as SQL."""
    return "'" + text.replace("'", "''") + "'"


def columns_of(dataset: str, ctx: ToolContext) -> dict[str, str]:
    """DuckDB's type of each column of a dataset, by name."""
    answer = ask(f"DESCRIBE {quoted(dataset)}", Limits(10_000, 30), ctx)
    return dict(zip(answer.column("column_name"), answer.column("column_type"), strict=True))


def _sentence(error: str) -> str:
    if error == "out of memory":
        return (
            f"the query needs more than {MEMORY_BYTES // 1024**2} MB of memory and was stopped; "
            "aggregate or filter more, or make fewer and shorter values"
        )
    return error


class _QueryProcess:
    """One child process over the datasets as they were when it started."""

    def __init__(self, datasets: Registered) -> None:
        self.datasets = datasets
        self._buffer = b""
        # A clean environment: SQL has no business with the host's secrets.
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "TZ": "UTC", "MALLOC_ARENA_MAX": "2"},
            cwd="/",
        )
        self._send(
            {
                "datasets": {
                    name: {
                        "format": dataset.format,
                        "files": [file.path for file in dataset.files],
                        "size_bytes": sum(file.size_bytes for file in dataset.files),
                    }
                    for name, dataset in datasets.here.items()
                },
                "absent": datasets.absent,
                "memory_bytes": MEMORY_BYTES,
                "threads": int(os.environ.get("THORNBACK_THREADS", "1")),
            }
        )
        self._ready = False

    def replies(
        self, sql: str, limits: Limits, ctx: ToolContext, deadline: float
    ) -> Iterator[dict[str, Any]]:
        """Send a query and yield what comes back, up to the end or the error.

        Raises:
            TimeoutError: if `deadline`, a monotonic moment, passes.
            EOFError: if the process dies.
            RuntimeError: if it never came up.
            CallCancelled: if the call is cancelled.
        """
        if not self._ready:
            # Importing DuckDB is not the query's fault, and has a time of its own.
            started = time.monotonic()
            try:
                self._receive(ctx, started + START_TIMEOUT_S)
            except (EOFError, TimeoutError) as error:
                raise RuntimeError("the query process did not start") from error
            self._ready = True
            deadline += time.monotonic() - started
        self._send({"sql": sql, "max_rows": limits.max_rows, "max_bytes": limits.max_bytes})
        while True:
            message = self._receive(ctx, deadline)
            yield message
            if "end" in message or "error" in message:
                return

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None

    def _receive(self, ctx: ToolContext, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        readable = select.poll()
        readable.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            ctx.check()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            if not readable.poll(min(left_s, POLL_S) * 1000):
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


_idle: list[_QueryProcess] = []
_idle_lock = threading.Lock()
_slots = threading.BoundedSemaphore(MAX_PROCESSES)


def _take(ctx: ToolContext) -> _QueryProcess:
    """An idle process over the datasets as they are now, or a new one, once there may be one.

    Raises:
        CallCancelled, ToolTimeout: if the call ends while it waits.
    """
    while not _slots.acquire(timeout=POLL_S):
        ctx.check()
    try:
        return _idle_or_new()
    except BaseException:
        _slots.release()
        raise


def _idle_or_new() -> _QueryProcess:
    datasets = registered()
    with _idle_lock:
        stale = [process for process in _idle if process.datasets != datasets or not process.alive]
        for process in stale:
            _idle.remove(process)
        taken = _idle.pop() if _idle else None
    for process in stale:
        process.kill()
    return taken or _QueryProcess(datasets)


def _give_back(process: _QueryProcess, healthy: bool) -> None:
    if healthy:
        with _idle_lock:
            _idle.append(process)
    else:
        process.kill()
    _slots.release()


def close_idle() -> None:
    """End the processes that wait for work."""
    with _idle_lock:
        processes = _idle[:]
        _idle.clear()
    for process in processes:
        process.kill()
