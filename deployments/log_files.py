"""The files in which Ray keeps what replicas print and log, on the machine that has them.

Two for each worker process, whose heads name the actor; a full one is put aside as `.1`, `.2`, ...
Which machines there are is not known here: `node_logs.py` runs this on each.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from thornback.deployments.log_lines import RAY_MARKS

POLL_S = 0.3
HEAD_BYTES = 4096
ACTOR_MARK = ":actor_name:ServeReplica:"
"""How Ray begins the file of a Serve replica; application and deployment follow."""
_FILE = re.compile(r"(worker-.+)\.(?:out|err)(?:\.(\d+))?")
"""A file that a process writes or has filled, and the number of one that is full."""


class LogFile(NamedTuple):
    """A file, and the part of the cluster that writes it."""

    path: Path
    pool: str


class Ask(msgspec.Struct, frozen=True):
    """Which lines are wanted."""

    namespace: str
    pool: str | None = None
    """None: of every pool, and of the gateway."""
    tail: int | None = None
    """Of each file, the first time; None: all."""
    holding: tuple[str, ...] = ()
    """Only lines that hold one of these, and then those of full files too; empty: any."""


class FileLines(msgspec.Struct, frozen=True):
    """Lines of one file."""

    pool: str
    path: str
    lines: list[str]


class Found(msgspec.Struct, frozen=True):
    """What one machine has."""

    files: list[FileLines]
    """Every file that was looked into, the oldest first, whether or not it has such lines."""
    positions: dict[str, int]
    """Where each file's next line will begin."""


def read_logs(folder: Path, ask: Ask, positions: Mapping[str, int] | None = None) -> Found:
    """The lines that are wanted of the files in Ray's log folder.

    Args:
        positions: As the last answer has them, for what came since; a file that is not among them
            is new as a whole. None: the first time.
    """
    full_ones = bool(ask.holding) and positions is None
    files: list[FileLines] = []
    after: dict[str, int] = {}
    for file in log_files(folder, ask.namespace, ask.pool, full_ones=full_ones):
        path = str(file.path)
        lines, after[path] = _read(file.path, (positions or {}).get(path, 0), ask.holding)
        if positions is None and ask.tail is not None:
            lines = lines[max(0, len(lines) - ask.tail) :]
        files.append(FileLines(file.pool, path, lines))
    return Found(files, after)


def lines_of(
    folder: Path, namespace: str, pool: str | None, *, tail: int | None, follow: Callable[[], bool]
) -> Iterator[tuple[LogFile, str]]:
    """The last `tail` lines of each file (None: all), then later ones while `follow` says so."""
    ask = Ask(namespace, pool, tail)
    found = None
    while found is None or follow():
        if found is not None:
            time.sleep(POLL_S)
        found = read_logs(folder, ask, None if found is None else found.positions)
        for file in found.files:
            for line in file.lines:
                yield LogFile(Path(file.path), file.pool), line


def log_files(
    folder: Path, namespace: str, pool: str | None, *, full_ones: bool = False
) -> list[LogFile]:
    """The files of a cluster's replicas in Ray's log folder, oldest first.

    Args:
        full_ones: Whether to give also what was put aside.
    """
    processes: dict[str, list[Path]] = {}
    for path in folder.glob("worker-*"):
        if matched := _FILE.fullmatch(path.name):
            processes.setdefault(matched[1], []).append(path)
    found = []
    for paths in processes.values():
        # When a full file is put aside the next one begins without a head; others still have one.
        owners = (_owner_of(path, namespace) for path in paths)
        owner = next((owner for owner in owners if owner is not None), None)
        if owner is not None and pool in (None, owner):
            found += [LogFile(p, owner) for p in paths if full_ones or p.suffix in (".out", ".err")]
    return sorted(found, key=lambda file: _changed_at(file.path))


def _owner_of(path: Path, namespace: str) -> str | None:
    """The pool whose replica writes this file; None where it does not say."""
    for line in _head_of(path).splitlines():
        if line.startswith(f"{ACTOR_MARK}{namespace}."):
            application = line.removeprefix(ACTOR_MARK).split(":")[0]
            return application.removeprefix(f"{namespace}.")
    return None


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _head_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _read(path: Path, position: int, holding: tuple[str, ...]) -> tuple[list[str], int]:
    """The whole lines from `position` on that are wanted, and where the next one begins."""
    wanted = [text.encode() for text in holding]
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < position:  # it was full, and is a new one now
                position = 0
            file.seek(position)
            data = file.read()
    except FileNotFoundError:  # it was put aside this moment
        return [], position
    whole = data[: data.rfind(b"\n") + 1]
    if wanted and not any(text in whole for text in wanted):
        return [], position + len(whole)
    lines = whole.split(b"\n")[:-1]
    if wanted:
        lines = [line for line in lines if any(text in line for text in wanted)]
    read = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
    return [line for line in read if not line.startswith(RAY_MARKS)], position + len(whole)
