"""What `up` makes of a config, and of one that runs already."""

from __future__ import annotations

import json

import psutil
import yaml

from tests.on_ray.faults.hurt_cluster import HurtCluster


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
