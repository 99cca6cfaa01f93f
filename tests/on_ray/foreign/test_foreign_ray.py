"""Thornback on a Ray that somebody else started, beside what they run: theirs stays as it is."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import RunningCluster, free_port
from thornback.deployments.environment import EXPECTED

START_TIMEOUT_S = 60.0


class ForeignRay(RunningCluster):
    """A Ray as `ray start` starts it, with an application, and our cluster that joins it."""

    def __init__(self, home: Path) -> None:
        super().__init__(f"guest-{free_port()}", free_port(), home)
        self.environment |= {"HOME": str(home), "PYTHONPATH": self._python_path()}
        self.ray_port, self.dashboard_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.ray_port}"
        self.configure()
        # Of another Ray of this user's; theirs wants none.
        token = home / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("0" * 64, "utf-8")

    def _python_path(self) -> str:
        there = self.environment.get("PYTHONPATH", "")
        return f"{Path(__file__).parent}:{there}" if there else str(Path(__file__).parent)

    def configure(self, **pools: Any) -> None:
        config = {
            "version": 1,
            "name": self.name,
            "gateway": {"port": self.port},
            "pools": {"text": {"tools": ["thornback.tools.text"]}, **pools},
        }
        self.config.write_text(yaml.safe_dump(config), "utf-8")

    @contextmanager
    def started(self) -> Iterator[None]:
        """Their Ray, while the block runs, with their application answering."""
        command = [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4"),
            "--node-ip-address=127.0.0.1",
            f"--port={self.ray_port}",
            f"--dashboard-port={self.dashboard_port}",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.home / 'r'}",
        ]
        with (self.home / "ray.log").open("wb") as log:
            environment = {**self.environment, "RAY_AUTH_MODE": "disabled"}
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                self._deploy_theirs()
                yield
            finally:
                # Asked to end, this Ray would take half a minute, in which nothing is looked at.
                self.kill()
                head.wait(10)

    def _deploy_theirs(self) -> None:
        document = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "applications": [
                {"name": "theirs", "route_prefix": "/theirs", "import_path": "their_app:app"}
            ],
        }
        url = f"http://127.0.0.1:{self.dashboard_port}/api/serve/applications/"
        with httpx.Client(trust_env=False, timeout=30) as client:

            def put() -> bool:
                return client.put(url, json=document).status_code == 200

            wait_until(put)
            wait_until(lambda: self.their_answer(client) is not None)

    def their_answer(self, client: httpx.Client) -> str | None:
        """The process that answers for their application; None: nobody does."""
        answer = client.get(f"http://127.0.0.1:{self.port}/theirs")
        return answer.text if answer.status_code == 200 else None

    def up(self) -> None:
        done = self.thornback(
            "up", str(self.config), "--address", self.address, "--detach", timeout_s=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


def wait_until(condition: Any) -> None:
    """Until it is true, and not an error of a server that is not there yet."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "their Ray does not start"
        time.sleep(0.2)


class Asking:
    """Asks their application all the time, from a thread."""

    def __init__(self, foreign: ForeignRay) -> None:
        self._foreign = foreign
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answers: list[str | None] = []

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(30)

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while not self._ends.wait(0.1):
                try:
                    self.answers.append(self._foreign.their_answer(client))
                except httpx.HTTPError:
                    self.answers.append(None)


def check_logs(foreign: ForeignRay) -> None:
    """A request has one id, though Serve's own proxy names it; and Ray brings the logs."""
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.post(foreign.url, json=listing, headers={"X-Request-ID": "guest-1"})
    assert answer.headers.get_list("x-request-id") == ["guest-1"]
    logs = foreign.thornback("logs", "--request", "guest-1", "--cluster", foreign.name)
    assert "tools/list  ok" in logs.stdout, logs.stderr
    logs = foreign.thornback("logs", "text_stats", "--json", "--cluster", foreign.name)
    (line,) = (json.loads(line) for line in logs.stdout.splitlines())
    assert (line["pool"], len(line["node"])) == ("gateway", 56)


@pytest.fixture
def foreign() -> Iterator[ForeignRay]:
    # Short: Ray puts Unix sockets under it.
    with tempfile.TemporaryDirectory(prefix="tbf-", dir="/tmp", ignore_cleanup_errors=True) as home:
        running = ForeignRay(Path(home))
        with running.started():
            yield running


def test_what_others_run_stays_as_it_is_and_down_removes_only_ours(foreign: ForeignRay) -> None:
    with Asking(foreign) as asking:
        foreign.up()
        called = foreign.thornback("call", "text_stats", "text=abc", "--url", foreign.url)
        assert json.loads(called.stdout)["characters"] == 3, called.stderr
        check_logs(foreign)
        status = json.loads(foreign.thornback("status", foreign.name, "--json").stdout)
        assert status["settings"]["missing"] == [f"export {k}={v}" for k, v in EXPECTED.items()]
        foreign.configure(bench={"tools": ["thornback.tools.benchmark"]})
        foreign.up()
        called = foreign.thornback("call", "echo", "text=abc", "--url", foreign.url)
        assert called.stdout.strip() == "abc", called.stderr
        down = foreign.thornback("down", foreign.name)
        assert down.returncode == 0, down.stdout + down.stderr
        assert "theirs" in down.stdout + down.stderr
    assert len(asking.answers) > 50
    assert len(set(asking.answers)) == 1, "one process of theirs answered each time"
    with httpx.Client(trust_env=False) as client:
        left = client.get(f"http://127.0.0.1:{foreign.dashboard_port}/api/serve/applications/")
        assert list(left.json()["applications"]) == ["theirs"]
        assert foreign.their_answer(client) == asking.answers[0]
