"""What `up` makes of a config, of one that runs already, and of Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import THORNBACK, UP_TIMEOUT_S, RunningCluster, free_port
from tests.on_ray.faults.hurt_cluster import HurtCluster

DOWN_TIMEOUT_S = 60
KEPT_URI = "doc://kept"


def test_ray_hands_out_what_the_config_gives_it(hurt: HurtCluster) -> None:
    given = yaml.safe_load(hurt.config.read_text("utf-8"))["ray"]
    (raylet,) = hurt.named("raylet")
    words = psutil.Process(raylet).cmdline()
    (resources,) = (word for word in words if word.startswith("--static_resource_list="))
    numbers = resources.partition("=")[2].split(",")
    assert float(numbers[numbers.index("CPU") + 1]) == given["num_cpus"]
    assert f"--object_store_memory={given['object_store_memory_bytes']}" in words


def test_replicas_see_what_makes_the_way_to_a_tool_short(hurt: HurtCluster) -> None:
    done = hurt.thornback("status", hurt.name, "--json")
    settings = json.loads(done.stdout)["settings"]
    assert settings["missing"] == []
    assert settings["seen"]["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert settings["seen"]["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


def test_up_beside_the_running_cluster_changes_nothing(hurt: HurtCluster) -> None:
    before = {part: hurt.pids(part) for part in ("gateway", "effects")}
    again = hurt.thornback("up", str(hurt.config), "--detach")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is running, and nothing has changed" in again.stderr
    assert f"{hurt.name} is ready: {hurt.url}" in again.stdout
    assert {part: hurt.pids(part) for part in before} == before


@pytest.fixture
def neighbour() -> Iterator[RunningCluster]:
    """A second, small cluster for this machine, not yet started."""
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="thornback-neighbour-"))
    cluster = RunningCluster(f"neighbour-{port}", port, home)
    config = {
        "name": cluster.name,
        "gateway": {"port": port},
        "ray": {"num_cpus": 1, "object_store_memory_bytes": 100_000_000},
        "pools": {"text": {"tools": ["thornback.tools.text"]}},
    }
    cluster.config.write_text(yaml.safe_dump(config), "utf-8")
    yield cluster
    cluster.kill()
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.usefixtures("heeding_ctrl_c")
def test_ctrl_c_ends_what_up_started_and_nothing_else_and_what_was_put_is_there_again(
    hurt: HurtCluster, neighbour: RunningCluster
) -> None:
    before = lasting(hurt)
    said, kept = neighbour.home / "said", neighbour.home / "kept.txt"
    kept.write_text("what was put stays", "utf-8")
    with (
        said.open("w") as output,
        subprocess.Popen(
            [THORNBACK, "up", neighbour.config],
            env=neighbour.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as up,
    ):
        try:
            wait_for(lambda: "is ready: " in said.read_text("utf-8"), up)
            listed = neighbour.thornback("tools", "--url", neighbour.url)
            assert "text_stats" in listed.stdout, listed.stderr
            wait_for(lambda: "tools/list  ok" in said.read_text("utf-8"), up)
            put = neighbour.thornback(
                *("resources", "put", str(kept), "--uri", KEPT_URI, "--url", neighbour.url)
            )
            assert put.stdout.strip() == KEPT_URI, put.stderr
            assert len(neighbour.processes()) > 10
        finally:
            up.send_signal(signal.SIGINT)
            ended = up.wait(DOWN_TIMEOUT_S)
        assert ended == 0, said.read_text("utf-8")
    assert [process.name() for process in neighbour.processes()] == []
    assert lasting(hurt) == before
    for _ in range(2):
        assert again_with_what_was_put(neighbour) == kept.read_text("utf-8")


def again_with_what_was_put(neighbour: RunningCluster) -> str:
    """Bring the cluster up, read what was put before, and kill all of it."""
    up = neighbour.thornback("up", str(neighbour.config), "--detach", timeout_s=UP_TIMEOUT_S)
    assert up.returncode == 0, up.stdout + up.stderr
    got = neighbour.thornback("resources", "get", KEPT_URI, "--url", neighbour.url)
    neighbour.kill()
    return got.stdout


def lasting(hurt: HurtCluster) -> set[int]:
    """The processes that end with their cluster alone."""
    named = hurt.named("raylet") | hurt.named("gcs_server") | hurt.named("ray::RegistryActor")
    return named | hurt.pids("gateway") | hurt.pids("effects")


def wait_for(is_so: Callable[[], bool], up: subprocess.Popen[bytes]) -> None:
    """Wait until something is so, while `up` runs."""
    deadline = time.monotonic() + UP_TIMEOUT_S
    while not is_so():
        assert up.poll() is None, "up has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)
