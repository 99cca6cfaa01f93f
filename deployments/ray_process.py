"""The Ray that `up` starts: its processes, from start to end, and nobody else's.

A process is ours when its environment names our temporary directory, or when it descends from one
whose does. A command line is nobody's word: an editor may have one of our logs open. Nothing is
ever ended by its name, and a cluster is never looked for with `address="auto"`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import psutil

from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import LaunchError
from thornback.deployments import process_start
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.environment import (
    Paths,
    cluster_environment,
    identity_of,
    paths_of,
)
from thornback.deployments.front import prepare_front
from thornback.deployments.ports import Ports, free_ports, is_free
from thornback.deployments.private_files import make_private_dir, write_private

START_TIMEOUT_S = 90.0
GRACE_S = 2.0
"""What is durable was synced when it was acknowledged; nobody has anything to finish."""
MARK_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""A variable that only processes of our Ray have, and that names its directory."""
TITLES = ("ray::", "ray-dashboard-")
"""How the titles begin that Ray writes over the command line and environment of a process."""
LOG_NAME = "ray_head.log"
DASHBOARD = "dashboard"
PARTS = ("gcs_server", "raylet", DASHBOARD)
"""What every Ray that `up` starts has, and nobody starts again: roles in `ClusterFile.pids`."""


class Head(msgspec.Struct, frozen=True):
    """A Ray that was just started."""

    ports: Ports
    pids: dict[str, int]


class StartingHead:
    """A head that comes up while its starter does something else."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Ports, log: Path) -> None:
        self._process = process
        self._log = log
        self.ports = ports

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.ray}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.dashboard}"

    def wait(self) -> Head:
        """Wait until this node is part of the cluster.

        Raises:
            LaunchError: with the last line that Ray left, if it did not start.
        """
        try:
            output, _ = self._process.communicate(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LaunchError(
                f"Ray did not start within {START_TIMEOUT_S:g} s; see {self._log}"
            ) from None
        try:
            pids = msgspec.json.decode(output, type=dict[str, int])
        except msgspec.DecodeError:
            raise LaunchError(f"Ray did not start: {_last_line(self._log)} ({self._log})") from None
        return Head(self.ports, pids)


def start_head(config: ClusterConfig) -> StartingHead:
    """Begin to start Ray for this cluster; its directories, token and front door are made first.

    Raises:
        LaunchError: if no ports are free, or the temporary directory is not ours.
    """
    paths = paths_of(config)
    ports = free_ports(identity_of(config), is_free)
    if ports is None:
        raise LaunchError("no block of ports between 20000 and 29999 is free for Ray")
    try:
        _prepare(config, paths)
    except OSError as error:
        raise LaunchError(f"cannot prepare {paths.temp_dir}: {error}") from error
    options = {
        "temp_dir": str(paths.temp_dir),
        "ports": ports,
        "loopback_only": config.loopback_only,
        "num_cpus": config.ray.num_cpus,
        "object_store_memory_bytes": config.ray.object_store_memory_bytes,
    }
    log = config.state_path / LOG_NAME
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "thornback.deployments.ray_head",
                msgspec.json.encode(options).decode(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=cluster_environment(config, ports, paths, os.environ),
            # Ctrl-C in the terminal is for `up`, which ends Ray in its own order.
            start_new_session=True,
        )
    return StartingHead(process, ports, log)


def _prepare(config: ClusterConfig, paths: Paths) -> None:
    make_private_dir(config.state_path)
    shutil.rmtree(paths.temp_dir, ignore_errors=True)
    make_private_dir(paths.temp_dir)
    if not paths.token.exists():
        write_private(paths.token, secrets.token_hex(32).encode())
    write_private(paths.site / "sitecustomize.py", Path(process_start.__file__).read_bytes())
    prepare_front(paths, loopback_only=config.loopback_only)


def answers(address: str, timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False


def parts_gone(cluster: ClusterFile) -> list[str]:
    """Which of `PARTS` are gone, by role; none for a Ray that others started.

    Known from the processes at once; a Ray that has lost one answers some questions never.
    """
    if not cluster.started_ray or cluster.temp_dir is None:
        return []
    noted = {part: cluster.pids[part] for part in PARTS if part in cluster.pids}
    return [part for part, pid in noted.items() if not _lives(pid, Path(cluster.temp_dir))]


def half_dead(cluster: ClusterFile) -> str | None:
    """What is wrong with a Ray of ours that runs in part and cannot serve; else None.

    Without its dashboard alone it serves, and only nothing more can be deployed.
    """
    if cluster.started_ray and not cluster.pids and answers(cluster.address):
        return f"the `thornback up` of {cluster.name} was ended half way, or is still at work"
    gone = parts_gone(cluster)
    if not set(gone) - {DASHBOARD} or len(gone) == len(PARTS):
        return None
    verb = "is" if len(gone) == 1 else "are"
    return (
        f"{cluster.name} is half dead: {' and '.join(gone)} of its Ray {verb} gone, other "
        "processes go on"
    )


def _lives(pid: int, temp_dir: Path) -> bool:
    """Whether a noted process lives and no other program has its pid by now."""
    try:
        process = psutil.Process(pid)
        process.info = process.as_dict(["cmdline", "uids"])
    except psutil.NoSuchProcess:
        return False
    return _alive(process) and _belongs(process, temp_dir)


def our_processes(temp_dir: Path, pids: Mapping[str, int]) -> list[psutil.Process]:
    """Every living process of the Ray in `temp_dir`, parents first.

    Args:
        temp_dir: Ray's temporary directory, which belongs to one cluster alone.
        pids: What `up` noted, to put first. A pid alone is not believed: it may name another
            program by now.
    """
    roots = [
        process
        for process in psutil.process_iter(["cmdline", "uids"])
        if process.pid != os.getpid() and _belongs(process, temp_dir)
    ]
    noted = set(pids.values())
    roots.sort(key=lambda process: process.pid not in noted)
    found: dict[int, psutil.Process] = {}
    for root in roots:
        found.setdefault(root.pid, root)
        try:
            for child in root.children(recursive=True):
                found.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def _belongs(process: psutil.Process, temp_dir: Path) -> bool:
    """Whether a process says itself that it is of the Ray in `temp_dir`.

    By the environment that Ray's processes have from us; or, where Ray has written a title over it,
    by the files that it has open.
    """
    command, uids = process.info["cmdline"] or [], process.info["uids"]
    if uids is None or uids.real != os.getuid():
        return False
    mark = str(temp_dir) + os.sep
    try:
        if process.environ().get(MARK_VARIABLE, "").startswith(mark):
            return True
        titled = bool(command) and command[0].startswith(TITLES)
        return titled and any(file.path.startswith(mark) for file in process.open_files())
    except psutil.Error:
        return False


def stop_processes(temp_dir: Path, pids: Mapping[str, int], grace_s: float = GRACE_S) -> int:
    """End the Ray in `temp_dir`: asked first, killed after `grace_s`. Returns how many there were.

    Raises:
        LaunchError: if one of them does not end.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + grace_s + 10
    asked_until = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        alive = [p for p in our_processes(temp_dir, pids) if _alive(p)]
        if not alive:
            return len(ended)
        for process in alive:
            first = process.pid not in ended
            ended.add(process.pid)
            try:
                if time.monotonic() > asked_until:
                    process.kill()
                elif first:
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=0.5)
    left = [p.pid for p in our_processes(temp_dir, pids) if _alive(p)]
    if left:
        raise LaunchError(f"processes of Ray did not end: {', '.join(map(str, left))}")
    return len(ended)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _last_line(log: Path) -> str:
    lines = _lines(log)
    return next(reversed([line for line in lines if line.strip()]), "it left no message")


def _lines(log: Path) -> Iterable[str]:
    try:
        return log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
