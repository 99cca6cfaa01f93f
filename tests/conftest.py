"""The one cluster of the session, for `on_ray` and `docs`: started by the command, as a user would.

It runs `configs/conformance.yaml` with two gateways and, beside its pools, those of
`configs/local.yaml`, so that the suite, the clients and the README meet one and the same cluster.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("thornback", deadline=None)
settings.load_profile("thornback")

ROOT = Path(__file__).parents[1]
THORNBACK = Path(sys.executable).with_name("thornback")
UP_TIMEOUT_S = 180
DOWN_TIMEOUT_S = 60
TIERS = ("unit", "protocol", "on_ray/foreign", "on_ray/faults", "docs", "on_ray")
MARK = "THORNBACK_TEST_CLUSTER"
"""Variable that every process of the session's cluster inherits."""


class RunningCluster:
    """A cluster with its own name, port and state; what a test says to it goes by the command."""

    def __init__(self, name: str, port: int, home: Path) -> None:
        self.name = name
        self.port = port
        self.home = home
        """`XDG_STATE_HOME` of the cluster: its pointer and its state are under it."""
        self.config = home / "thornback.yaml"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "THORNBACK_"))},
            "XDG_STATE_HOME": str(home),
            "PATH": f"{THORNBACK.parent}{os.pathsep}{os.environ['PATH']}",
            MARK: name,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def thornback(
        self, *words: str, timeout_s: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster to its end; its exit code is the test's business."""
        return subprocess.run(
            [THORNBACK, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            **options,
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that `up` of this cluster began and that still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.name:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
        return found

    def kill(self) -> None:
        """End them all at once; what one has started since, and what ends with another, too."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def session_config(name: str, port: int) -> dict[str, Any]:
    """The conformance config with a name and a port of the session's own, and the shipped pools."""
    conformance = yaml.safe_load((ROOT / "configs/conformance.yaml").read_text("utf-8"))
    local = yaml.safe_load((ROOT / "configs/local.yaml").read_text("utf-8"))
    assert not conformance["pools"].keys() & local["pools"].keys()
    merged = {**local, **conformance, "pools": {**local["pools"], **conformance["pools"]}}
    merged["prompts"] = [str(ROOT / "configs" / path) for path in conformance["prompts"]]
    merged["gateway"] = {**conformance.get("gateway", {}), "port": port}
    return {**merged, "name": name}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, and what needs the session's cluster together at the end.

    Before it comes what has a cluster of its own, so that there is one at a time.
    """
    items.sort(key=lambda item: _tier(item.path.relative_to(ROOT / "tests")))


def _tier(path: Path) -> int:
    return next(i for i, tier in enumerate(TIERS) if path.is_relative_to(tier))


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningCluster]:
    """The session's cluster; afterwards `down`, and nothing of it may be left."""
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="thornback-tests-"))
    running = RunningCluster(f"tests-{port}", port, home)
    running.config.write_text(yaml.safe_dump(session_config(running.name, port)), "utf-8")
    with brought_up(running):
        yield running


@contextmanager
def brought_up(running: RunningCluster) -> Iterator[None]:
    """`up` before and `down` after; then nothing of the cluster may be left."""
    up = running.thornback("up", str(running.config), "--detach", timeout_s=UP_TIMEOUT_S)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield
    finally:
        down = running.thornback("down", running.name, timeout_s=DOWN_TIMEOUT_S)
        left = _left_after(running, timeout_s=20)
        running.kill()
        shutil.rmtree(running.home, ignore_errors=True)
    assert down.returncode == 0, down.stdout + down.stderr
    assert not left, f"`down` left {[p.name() for p in left]}"


def _left_after(running: RunningCluster, timeout_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + timeout_s
    while (left := running.processes()) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=1)
    return left
