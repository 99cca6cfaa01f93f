"""`Server`: something with an MCP endpoint that is measured. A `Peer`, or our own `Cluster`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml

from benchmarks.accounting import TOOL_ROLES, Process, tree, unique_bytes, usage
from benchmarks.peer_environment import PEERS, peer_python
from thornback.cluster.config import GATEWAY_APP
from thornback.cluster.errors import ThornbackError
from thornback.deployments.cluster_file import read_cluster_file
from thornback.deployments.dashboard import Dashboard
from thornback.deployments.mcp_client import McpClient
from thornback.tools.benchmark import COUNTS_VARIABLE

THORNBACK = Path(sys.executable).with_name("thornback")
CONFIGS = Path(__file__).with_name("configs")
SHIPPED = Path(__file__).parents[1] / "configs"
READY_TIMEOUT_S = 90.0
UP_TIMEOUT_S = 420.0
GATEWAYS_S = 60.0
"""Until all gateways run."""
RELOAD_S = 2.0
"""From the last one's start until HAProxy has heard of it and begun anew."""
PEER_COMMANDS = {
    "bare": ("bare.py",),
    "bare, JSON": ("bare.py", "--json"),
    "bare, JSON, a worker a core": ("bare.py", "--json", "--workers", str(os.cpu_count())),
    "fastmcp": ("fastmcp_server.py",),
    "published Ray": ("published.py",),
    "Serve's policy": ("autoscaled.py",),
}
"""By name in tables, the one that others are compared with first."""
OF_RAY = ("published Ray", "Serve's policy")


class Server(Protocol):
    """What is measured."""

    name: str

    @property
    def url(self) -> str: ...

    def ready(self) -> None:
        """Be what `name` says, before a measurement."""

    def usage(self) -> list[Process]: ...

    def unique_bytes(self) -> dict[str, int]: ...

    def replicas(self) -> set[int]:
        """Processes that run its tools."""

    def counted(self) -> int:
        """Calls that its tools have counted themselves."""


class NotStarted(Exception):
    """A server did not come up; the text says what it said."""


class Peer:
    """A server of others, in its own environment."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], port: int, counts: Path
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}/mcp"
        self.process = process
        self._counts = counts
        # Ray names its processes itself.
        self._role = None if name in OF_RAY else "server"

    def ready(self) -> None:
        return

    def usage(self) -> list[Process]:
        return usage(tree([self.process.pid]), self._role)

    def unique_bytes(self) -> dict[str, int]:
        return unique_bytes(tree([self.process.pid]), self._role)

    def replicas(self) -> set[int]:
        return replicas_in(self.usage())

    def counted(self) -> int:
        return counted_in(self._counts)


class Cluster:
    """A Thornback cluster that one benchmark started; its variants follow each other in it."""

    def __init__(self, home: Path, document: Mapping[str, Any]) -> None:
        self._port = free_port()
        self._document = document
        self._counts = home / "counts"
        self._counts.mkdir()
        self._begun = False
        self.counted_before = 0
        """What tools had counted when it was last started."""
        self._applied: Mapping[str, Any] | None = None
        self.name = f"benchmark-{self._port}"
        self.url = f"http://127.0.0.1:{self._port}/mcp"
        self.state_dir = home / "state"
        self._config = home / "config" / "cluster.yaml"
        shutil.copytree(CONFIGS, self._config.parent)  # modules are found beside the config
        self._environment = {
            **clean_environment(),
            "XDG_STATE_HOME": str(home),
            COUNTS_VARIABLE: str(self._counts),
        }

    def apply(self, overrides: Mapping[str, Any]) -> None:
        """Bring the cluster up with these settings over its own, or to them.

        Raises:
            NotStarted: it did not come up.
        """
        if overrides == self._applied:
            return
        own = {
            "name": self.name,
            "state_dir": str(self.state_dir),
            "gateway": {"port": self._port},
        }
        document = merged(merged(self._document, overrides), own)
        self._config.write_text(yaml.safe_dump(document), "utf-8")
        self._begun = True
        up = self._thornback("up", str(self._config), "--detach")
        if up.returncode != 0:
            raise NotStarted(up.stderr)
        self._await_gateways(document.get("gateway", {}).get("num_replicas") or 1)
        self._applied = dict(overrides)

    def _await_gateways(self, wanted: int) -> None:
        """`up` is done with the first; HAProxy, when it hears of another, begins anew and closes
        connections that have nothing under way."""
        if wanted == 1:
            return
        until_s = time.monotonic() + GATEWAYS_S
        while time.monotonic() < until_s:
            deployments = self.serve_details()[GATEWAY_APP]["deployments"].values()
            states = [replica["state"] for each in deployments for replica in each["replicas"]]
            if states.count("RUNNING") == wanted:
                time.sleep(RELOAD_S)
                return
            time.sleep(0.2)
        raise NotStarted(f"{wanted} gateways do not run after {GATEWAYS_S:.0f} s")

    def down(self) -> None:
        if self._begun:  # also one that did not come up as a whole
            self._thornback("down", self.name)
        self._begun, self._applied = False, None
        self.counted_before = self.counted()

    def usage(self) -> list[Process]:
        return usage(self.processes())

    def unique_bytes(self) -> dict[str, int]:
        return unique_bytes(self.processes())

    def replicas(self) -> set[int]:
        return replicas_in(self.usage())

    def status(self) -> dict[str, Any]:
        """What `thornback status` says."""
        said = self._thornback("status", self.name, "--json")
        found: dict[str, Any] = json.loads(said.stdout)
        return found

    def serve_details(self) -> dict[str, Any]:
        """What Ray Serve says of its applications, by the pool's name."""
        file = read_cluster_file(self.state_dir)
        assert file is not None
        dashboard = Dashboard(file.dashboard_url, file.token)
        try:
            applications = dashboard.serve_details()["applications"]
        finally:
            dashboard.close()
        return {name.removeprefix(f"{file.namespace}."): app for name, app in applications.items()}

    def counted(self) -> int:
        return counted_in(self._counts)

    def processes(self) -> list[psutil.Process]:
        file = read_cluster_file(self.state_dir)
        return [] if file is None else tree(file.pids.values())

    def _thornback(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [THORNBACK, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
        )


class Variant:
    """The cluster with some settings over those of its config."""

    def __init__(self, name: str, cluster: Cluster, overrides: Mapping[str, Any]) -> None:
        self.name = name
        self._cluster = cluster
        self._overrides = overrides
        self.url = cluster.url
        self.usage = cluster.usage
        self.unique_bytes = cluster.unique_bytes
        self.replicas = cluster.replicas
        self.processes = cluster.processes
        self.counted = cluster.counted
        self.status = cluster.status
        self.serve_details = cluster.serve_details
        self.state_dir = cluster.state_dir

    def ready(self) -> None:
        self._cluster.apply(self._overrides)

    def begin_anew(self) -> None:
        """Start the cluster again if it was called before: nothing is left of what it learned."""
        if self.counted() > self._cluster.counted_before:
            self._cluster.down()
        self.ready()

    def change(self, overrides: Mapping[str, Any]) -> None:
        """Apply more settings while it runs; `ready` takes them back."""
        self._cluster.apply(merged(self._overrides, overrides))


@contextmanager
def started_peer(name: str, python: Path | None = None) -> Iterator[Peer]:
    """A peer, until the block ends.

    Args:
        python: An interpreter that has what it needs; None: the peers' own.

    Raises:
        NotStarted: it does not answer.
    """
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="thornback-peer-"))
    counts = home / "counts"
    counts.mkdir()
    script, *words = PEER_COMMANDS[name]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [python or peer_python(), script, str(port), *words],
            cwd=PEERS,
            env={**clean_environment(), COUNTS_VARIABLE: str(counts), "PYTHONPATH": str(PEERS)},
            stdout=log,
            stderr=log,
        )
    try:
        peer = Peer(name, process, port, counts)
        wait_until_answering(peer.url, process, home / "log")
        yield peer
    finally:
        end(process)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def cluster_home(document: Mapping[str, Any]) -> Iterator[Cluster]:
    """A cluster that is not up yet, and that is down when the block ends."""
    home = Path(tempfile.mkdtemp(prefix="thornback-benchmark-"))
    cluster = Cluster(home, document)
    try:
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(home, ignore_errors=True)


def merged(document: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A document with another one over it, mapping by mapping."""
    found = dict(document)
    for key, value in over.items():
        below = found.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        found[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return found


def replicas_in(processes: Iterable[Process]) -> set[int]:
    """Those of them that run tools."""
    return {process.pid for process in processes if process.role in TOOL_ROLES}


def counted_in(directory: Path) -> int:
    """What all processes together have counted there."""
    return sum(int.from_bytes(path.read_bytes(), "little") for path in directory.iterdir())


def clean_environment() -> dict[str, str]:
    """Ours without what would set up a Ray or a Thornback."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "THORNBACK_"))}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def wait_until_answering(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a server lists its tools: Serve's proxy listens long before its replica does.

    Raises:
        NotStarted: it does not, or the process ended.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    with McpClient(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.request("tools/list", timeout_s=5)
            except ThornbackError:
                time.sleep(0.05)
            else:
                return
    raise NotStarted(log.read_text("utf-8", "replace")[-2000:])


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it began."""
    all_of_it = tree([process.pid])
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in psutil.wait_procs(all_of_it, timeout=1)[1]:
        with suppress(psutil.NoSuchProcess):
            left.kill()
