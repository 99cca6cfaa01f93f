"""`thornback logs`: what replicas and gateways of a cluster wrote, where this machine has it.

Ray keeps two files for each worker process with what it printed and logged, whose heads name the
actor. Other machines of a cluster have their own files.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from thornback.cluster.errors import ClusterNotRunning, ConfigError
from thornback.deployments.cli_output import JsonOption
from thornback.deployments.cli_target import NameOption, cluster_here

if TYPE_CHECKING:
    from thornback.deployments.cluster_file import ClusterFile

POLL_S = 0.3
HEAD_BYTES = 4096
ACTOR_MARK = ":actor_name:ServeReplica:"
"""How Ray begins the file of a Serve replica; application and deployment follow."""
_SERVE_NEWS = re.compile(r"INFO \d{4}-\d\d-\d\d \S+ thornback\.\S+ \S+ -- ")
RAY_MARKS = (":actor_name:", ":job_id:", ":task_name:")
"""Beginnings of lines that Ray writes for its own log reader."""


class LogFile(NamedTuple):
    """A file, and the part of the cluster that writes it."""

    path: Path
    pool: str


def logs(
    pool: Annotated[
        str | None, typer.Argument(help="Only this pool; gateway for the access log.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("-n", "--lines", min=0, help="Lines of each file.")] = 20,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what tools printed and logged, one line for each call, and why modules broke a pool.

    What stopped a module from being imported comes first, whole, with its traceback.

    Example: thornback logs sql -f
    """
    import json

    # Not at the top: `thornback --help` does without it.
    from thornback.deployments.access_lines import access_line
    from thornback.deployments.import_reports import report_files

    def show(file: LogFile, line: str) -> None:
        if as_json:
            typer.echo(json.dumps({"pool": file.pool, "file": str(file.path), "line": line}))
        else:
            typer.echo(f"{file.pool}  {access_line(access_part(line)) or line}")

    cluster = cluster_here(name)
    reports = report_files(Path(cluster.state_dir))
    if tail:
        for file, line in lines_of_reports(reports, pool):
            show(file, line)
    if cluster.temp_dir is None:
        if pool in reports:
            return
        raise ConfigError(f"{cluster.name} runs on a Ray that `up` did not start: use `ray logs`")
    folder = Path(cluster.temp_dir, "session_latest", "logs")
    if not folder.is_dir():
        raise ClusterNotRunning(f"{cluster.name} has no logs here; is it up?")
    if pool is not None:
        _refuse_unknown(pool, cluster, folder, reports)
    for file, line in lines_of(folder, cluster.namespace, pool, tail=tail, follow=lambda: follow):
        show(file, line)


def _refuse_unknown(
    pool: str, cluster: ClusterFile, folder: Path, reports: Collection[str]
) -> None:
    """
    Raises:
        ConfigError: neither is there a pool of this name nor did one write here.
    """
    known = set(reports) | {
        name.removeprefix(f"{cluster.namespace}.") for name in cluster.applications
    }
    known |= {file.pool for file in log_files(folder, cluster.namespace, None)}
    if pool not in known:
        names = ", ".join(sorted(known)) or "none yet"
        raise ConfigError(f"{cluster.name} has no pool {pool}; there are {names}")


def lines_of_reports(
    reports: Mapping[str, Path], pool: str | None
) -> Iterator[tuple[LogFile, str]]:
    """Why modules could not be imported; whole, because the end of a traceback says too little."""
    for broken, path in reports.items():
        if pool in (None, broken):
            for line in path.read_text("utf-8").splitlines():
                yield LogFile(path, broken), line


def log_files(folder: Path, namespace: str, pool: str | None) -> list[LogFile]:
    """The files of a cluster's replicas in Ray's log folder, oldest first."""
    found = []
    for path in [*folder.glob("worker-*.out"), *folder.glob("worker-*.err")]:
        owner = _owner_of(path, namespace)
        if owner is not None:
            found.append(LogFile(path, owner))
    wanted = [file for file in found if pool is None or file.pool == pool]
    return sorted(wanted, key=lambda file: file.path.stat().st_mtime)


def lines_of(
    folder: Path, namespace: str, pool: str | None, *, tail: int | None, follow: Callable[[], bool]
) -> Iterator[tuple[LogFile, str]]:
    """The last `tail` lines of each file (None: all), then later ones while `follow` says so."""
    positions: dict[Path, int] = {}
    first = True
    while True:
        for file in log_files(folder, namespace, pool):
            known = file.path in positions
            lines, positions[file.path] = _read(file.path, positions.get(file.path, 0))
            if first and not known and tail is not None:
                # A file that appears while we follow is new as a whole.
                lines = lines[max(0, len(lines) - tail) :]
            for line in lines:
                yield file, line
        if not follow():
            return
        time.sleep(POLL_S)
        first = False


def is_of_serve(line: str) -> bool:
    """Whether a line is Serve's own news of a replica that comes and goes."""
    return _SERVE_NEWS.match(line) is not None


def access_part(line: str) -> str:
    """The access record in a line of a log, which may stand behind what a formatter put first."""
    start = line.find('{"time":')
    return line[start:] if start >= 0 else line


def _owner_of(path: Path, namespace: str) -> str | None:
    """The pool whose replica writes this file; None for other processes."""
    # When a full file is put aside the next one begins without a head; its sibling still has one.
    for sibling in (path, path.with_suffix(".err")):
        for line in _head_of(sibling).splitlines():
            if line.startswith(f"{ACTOR_MARK}{namespace}."):
                application = line.removeprefix(ACTOR_MARK).split(":")[0]
                return application.removeprefix(f"{namespace}.")
    return None


def _head_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _read(path: Path, position: int) -> tuple[list[str], int]:
    """The whole lines from `position` on, and where the next one begins."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < position:  # it was full, and is a new one now
            position = 0
        file.seek(position)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", "replace").splitlines()
    return [line for line in lines if not line.startswith(RAY_MARKS)], position + len(whole)
