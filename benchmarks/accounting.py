"""CPU time and memory of named processes, from /proc.

No process is left without a name: one that has no role here is called as its program is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import psutil

ON_THE_WAY = ("haproxy", "gateway", "host", "proxy", "replica", "server")
"""Roles of processes that a call passes through; the others stand beside it."""
TOOL_ROLES = ("host", "replica")
"""Of those that run the tools: ours, and of the published Ray pattern."""
ROLES = {
    "haproxy": "the front door",
    "gateway": "Thornback's gateways",
    "host": "Thornback's tool hosts",
    "proxy": "Serve's own proxy: a call's way where there is no HAProxy, and idle beside one",
    "replica": "Serve's replicas of the published Ray pattern",
    "server": "the processes of a peer without Ray",
    "controller": "Serve's controller: health checks, autoscaling",
    "HAProxyManager": "Serve's actor that keeps HAProxy up to date",
    "RegistryActor": "Thornback's registry",
    "BlobActor": "Thornback's contents of one node",
    "DashboardAgent": "Ray's agent of one node: metrics, status of processes",
    "dashboard": "Ray's dashboard and its modules",
    "RuntimeEnvAgent": "Ray's agent of one node that makes environments",
    "raylet": "Ray's scheduler and object store of one node",
    "gcs": "Ray's control store",
    "fork_server": "what Thornback's replicas are forked from",
    "watch": "waits for HAProxy's death, to stand in for it (its pauses are `sleep`)",
    "ended": "processes that were ending",
}
"""What stands behind each name."""
_TITLES = {"ServeController": "controller", "ProxyActor": "proxy", "gcs_server": "gcs"}
_REPLICAS = {"Gateway": "gateway", "ToolHost": "host"}
_INTERPRETERS = ("python", "sh", "bash")


class Process(NamedTuple):
    """One process at one moment."""

    pid: int
    role: str
    cpu_s: float
    """User and system time so far."""


def role_of(command: str) -> str:
    """What a process is, from its command line: its role, or else the name of its program."""
    program, _, rest = command.partition(" ")
    name = program.rpartition("/")[2]
    if name.startswith("ray::ServeReplica:"):
        return _REPLICAS.get(name.rpartition(":")[2].partition(".")[0], "replica")
    if name.startswith("ray::"):
        name = name.removeprefix("ray::").partition(".")[0]
    elif name.startswith("ray-dashboard-"):
        name = "dashboard"
    elif name.startswith(_INTERPRETERS):
        script = _script_in(rest)
        if script.startswith("ray::"):  # a fork whose title is not whole yet
            return role_of(script)
        name = script.rpartition("/")[2].removesuffix(".py").rpartition(".")[2] or name
    return _TITLES.get(name, name) or "ended"


def _script_in(words: str) -> str:
    """The module, script or code that an interpreter runs."""
    rest = (word for word in words.split() if not word.startswith("-"))
    return next((word for word in rest if word not in ("from", "import")), "")


def tree(roots: Iterable[int]) -> list[psutil.Process]:
    """These processes and everything they began, as far as it still runs."""
    found: dict[int, psutil.Process] = {}
    for pid in roots:
        try:
            root = psutil.Process(pid)
            found |= {process.pid: process for process in (root, *root.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def usage(processes: Iterable[psutil.Process], role: str | None = None) -> list[Process]:
    """The CPU time of each so far, all with the same role where one is given."""
    found = []
    for process in processes:
        try:
            times = process.cpu_times()
            as_role = role or role_of(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
        found.append(Process(process.pid, as_role, times.user + times.system))
    return found


def spent(before: Iterable[Process], after: Iterable[Process]) -> dict[str, float]:
    """CPU seconds by role between two moments; one that began meanwhile counts from its start."""
    earlier = {process.pid: process.cpu_s for process in before}
    by_role: dict[str, float] = defaultdict(float)
    for process in after:
        by_role[process.role] += process.cpu_s - earlier.get(process.pid, 0.0)
    return dict(by_role)


def on_the_way(by_role: Mapping[str, float]) -> float:
    """The part of processes that a call passes through."""
    return sum(value for role, value in by_role.items() if is_on_the_way(role, by_role))


def is_on_the_way(role: str, roles: Iterable[str]) -> bool:
    """Whether a call passes through the processes of a role, where there are these roles."""
    return role in ON_THE_WAY and not (role == "proxy" and "haproxy" in roles)


def unique_bytes(processes: Iterable[psutil.Process], role: str | None = None) -> dict[str, int]:
    """USS by role: what would be free if the processes ended."""
    by_role: dict[str, int] = defaultdict(int)
    for process in processes:
        try:
            as_role = role or role_of(" ".join(process.cmdline()))
            by_role[as_role] += process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return dict(by_role)
