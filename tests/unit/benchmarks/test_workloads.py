"""Every workload fits its config and its peers, as far as can be seen without running it."""

import re
from pathlib import Path

import pytest
import yaml

from benchmarks.peer_environment import REQUIREMENTS, environment_path
from benchmarks.servers import CONFIGS, PEER_COMMANDS, PEERS, counted_in, merged
from benchmarks.streaming import items_in
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS
from thornback.cluster.config import parse_config


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_every_variant_of_the_cluster_has_a_valid_config(workload: Workload) -> None:
    document = yaml.safe_load(workload.config.read_text("utf-8"))
    for overrides in workload.variants.values():
        config = parse_config(merged(document, overrides), "merged", CONFIGS)
        modules = [m for pool in config.pools.values() for m in pool.tools] + config.modules
        for module in modules:
            assert module.startswith("thornback.") or (CONFIGS / f"{module}.py").exists()


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_every_peer_and_point_is_known(workload: Workload) -> None:
    assert set(workload.peers) <= PEER_COMMANDS.keys()
    labels = [point.label for point in workload.points]
    assert len(labels) == len(set(labels))


def test_every_peer_has_its_code_beside_the_others() -> None:
    assert {command[0] for command in PEER_COMMANDS.values()} <= {p.name for p in PEERS.iterdir()}


def test_peers_are_locked_and_come_with_what_makes_them_fast() -> None:
    locked = dict(re.findall(r"^([\w.\[\]-]+)==(\S+)", REQUIREMENTS.read_text("utf-8"), re.M))
    assert {"mcp", "fastmcp", "ray", "uvicorn", "uvloop", "httptools"} <= locked.keys()


def test_other_packages_make_another_environment(tmp_path: Path) -> None:
    first = environment_path(b"mcp==2.3.0", tmp_path)
    assert environment_path(b"mcp==2.3.0", tmp_path) == first
    assert environment_path(b"mcp==2.4.0", tmp_path) != first


def test_settings_of_a_variant_lie_over_the_config_mapping_by_mapping() -> None:
    under = {"pools": {"p": {"tools": ["x"], "num_replicas": 1}}, "name": "a"}
    assert merged(under, {"pools": {"p": {"num_replicas": 2}}}) == {
        "pools": {"p": {"tools": ["x"], "num_replicas": 2}},
        "name": "a",
    }


def test_counts_of_all_processes_are_added(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes((1000).to_bytes(8, "little"))
    (tmp_path / "2").write_bytes((1).to_bytes(8, "little"))
    assert counted_in(tmp_path) == 1001


def test_items_are_those_of_notifications_in_their_order() -> None:
    said = (
        'data: {"method":"notifications/progress","params":{"message":"ab.0"}}\n\n'
        'data: {"method": "notifications/progress", "params": {"message": "ab.2"}}\n\n'
        'data: {"id":1,"result":{"content":[{"text":"ab.7"}]}}\n\n'
    )
    assert items_in(said, "ab.") == [0, 2]
