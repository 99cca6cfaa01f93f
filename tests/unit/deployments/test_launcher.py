import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from thornback.cluster.config import ClusterConfig, parse_config
from thornback.cluster.errors import ClusterNotRunning, LaunchError
from thornback.deployments import launcher, ray_process
from thornback.deployments.cluster_file import (
    ClusterFile,
    cluster_of,
    find_cluster,
    known_clusters,
    remove_cluster_file,
    write_cluster_file,
)
from thornback.deployments.environment import paths_of
from thornback.deployments.launcher import bring_down, bring_up, only_one
from thornback.deployments.ports import is_free, listen_error, listener_of
from thornback.deployments.private_files import make_private_dir, write_private
from thornback.deployments.ray_process import (
    PARTS,
    answers,
    half_dead,
    our_processes,
    parts_gone,
    stop_processes,
)
from thornback.deployments.serve_config import plan_pool
from thornback.deployments.serving import applied_digest

SLEEP = "import sys, time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterConfig:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return parse_config({"pools": {"p": {"tools": ["my_tools"]}}}, "test", tmp_path)


def file_of(config: ClusterConfig, address: str = "127.0.0.1:1") -> ClusterFile:
    return ClusterFile(
        name=config.name,
        url=config.url,
        address=address,
        dashboard_url="http://127.0.0.1:1",
        namespace=config.namespace,
        state_dir=str(config.state_path),
    )


def environment_in(directory: Path) -> dict[str, str]:
    return {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": f"{directory}/haproxy"}


@contextmanager
def running_in(directory: Path, code: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with the environment that Ray's have from us, and the first line it writes."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=environment_in(directory),
    ) as running:
        assert running.stdout is not None
        yield running, running.stdout.readline().strip()
        running.kill()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with running_in(tmp_path / "ours", SLEEP) as (running, said):
        assert said == "up"
        yield running


def test_a_cluster_is_found_by_name_and_by_config(config: ClusterConfig) -> None:
    cluster = file_of(config)
    write_cluster_file(cluster)
    assert cluster_of(config) == find_cluster("local") == cluster
    assert list(known_clusters()) == [cluster]
    remove_cluster_file(cluster)
    assert find_cluster("local") is None
    assert list(known_clusters()) == []


def test_a_damaged_file_is_no_cluster(config: ClusterConfig) -> None:
    write_cluster_file(file_of(config))
    (config.state_path / "cluster.json").write_text("{", "utf-8")
    assert find_cluster("local") is None


def test_private_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = make_private_dir(tmp_path / "a" / "b") / "token"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_of_somebody_else_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError):
        make_private_dir(tmp_path)


def test_processes_are_ours_by_our_directory_and_by_nothing_else(
    tmp_path: Path, process: subprocess.Popen[str]
) -> None:
    assert [p.pid for p in our_processes(tmp_path / "ours", {})] == [process.pid]
    assert our_processes(tmp_path / "our", {}) == []
    assert our_processes(tmp_path / "theirs", {"raylet": process.pid}) == []


def test_who_reads_our_logs_is_not_ours(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEP, f"{tmp_path}/ours/session_latest/logs/raylet.out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        assert our_processes(tmp_path / "ours", {}) == []
        reader.kill()


def test_ours_are_ended_and_counted(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    assert stop_processes(tmp_path / "theirs", {}) == 0
    assert process.poll() is None
    assert stop_processes(tmp_path / "ours", {}) == 1
    assert process.poll() is not None


def test_a_taken_port_is_told_with_who_has_it(tmp_path: Path, config: ClusterConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port, "127.0.0.1")
        holder = listener_of(port)
        assert holder is None or holder.pid == os.getpid()
        gateway = {"gateway": {"port": port}, "pools": {"p": {"tools": ["m"]}}}
        taken = parse_config(gateway, "test", tmp_path)
        with pytest.raises(LaunchError, match=f"port {port} is taken"):
            bring_up(taken, address=None, config_path=None, tell=lambda news: None)
    assert cluster_of(config) is None, "nothing is left of it"
    assert is_free(port, "127.0.0.1")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (socket.gaierror(socket.EAI_NONAME, "not known"), "gateway.host h is no address of this"),
        (OSError(errno.EADDRNOTAVAIL, "cannot assign"), "gateway.host h is no address of this"),
        (PermissionError(errno.EACCES, "denied"), "cannot listen on h port 8000: denied"),
        (
            TypeError("encoding of hostname failed"),
            "gateway.host h is no address of this machine: not a",
        ),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_not_called_a_taken_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def bind(*_: object) -> None:
        raise error

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "bind", bind)
    gateway = {"host": "h", "allow_anonymous": True}
    document = {"gateway": gateway, "pools": {"p": {"tools": ["m"]}}}
    with pytest.raises(LaunchError, match=f"^{told}"):
        launcher._refuse_address(parse_config(document, "test", tmp_path))


def test_an_address_of_another_machine_is_told_as_one() -> None:
    error = listen_error(8000, "192.0.2.7")  # RFC 5737: nobody's
    assert error is not None
    assert error.errno == errno.EADDRNOTAVAIL


def test_what_an_up_that_was_killed_half_way_left_is_not_joined(
    tmp_path: Path, config: ClusterConfig
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        half = msgspec.structs.replace(file_of(config, f"127.0.0.1:{port}"), started_ray=True)
        write_cluster_file(half)
        # Starting anew begins with the port, joining would not look at it.
        gateway = {"gateway": {"port": port}, "pools": {"p": {"tools": ["m"]}}}
        with pytest.raises(LaunchError, match=f"port {port} is taken"):
            bring_up(
                parse_config(gateway, "test", tmp_path),
                address=None,
                config_path=None,
                tell=lambda news: None,
            )


def test_a_ray_that_does_not_answer_cannot_be_joined(config: ClusterConfig) -> None:
    assert not answers("127.0.0.1:1")
    with pytest.raises(ClusterNotRunning, match=r"no Ray answers at 127\.0\.0\.1:1"):
        bring_up(config, address="127.0.0.1:1", config_path=None, tell=lambda news: None)


def test_ray_is_started_with_what_the_config_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def start(command: list[str], **options: object) -> None:
        commands.append(command)

    monkeypatch.setattr(ray_process, "_prepare", lambda config, paths: None)
    monkeypatch.setattr(ray_process.subprocess, "Popen", start)
    ray = {"num_cpus": 3, "object_store_memory_bytes": 100_000_000}
    document = {"state_dir": str(tmp_path), "ray": ray, "pools": {"p": {"tools": ["m"]}}}
    ray_process.start_head(parse_config(document, "test", tmp_path))
    options = msgspec.json.decode(commands[0][-1])
    assert ray == {name: options[name] for name in ray}


class Interrupted:
    """A Ray that is starting when the user presses Ctrl-C."""

    address = "127.0.0.1:1"
    dashboard_url = "http://127.0.0.1:1"

    def wait(self) -> None:
        raise KeyboardInterrupt


def test_an_up_that_is_interrupted_leaves_nothing(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[ClusterFile | None] = []
    ended: list[Path] = []

    def stop(temp_dir: Path, pids: dict[str, int]) -> int:
        ended.append(temp_dir)
        return 0

    monkeypatch.setattr(launcher, "_refuse_address", lambda config: None)
    monkeypatch.setattr(launcher, "start_head", lambda config: Interrupted())
    monkeypatch.setattr(launcher, "announce", known.append)
    monkeypatch.setattr(launcher, "import_serve", lambda: known.append(cluster_of(config)))
    monkeypatch.setattr(launcher, "stop_processes", stop)
    with pytest.raises(KeyboardInterrupt):
        bring_up(config, address=None, config_path=None, tell=lambda news: None)
    assert known[0] == known[1] is not None
    assert cluster_of(config) is None
    assert ended == [paths_of(config).temp_dir] * 2, "what was left before, and what was begun"


def test_one_up_at_a_time(config: ClusterConfig) -> None:
    with only_one(config), pytest.raises(LaunchError, match="is at work"), only_one(config):
        pass


def test_down_of_what_does_not_run_says_so_and_clears_what_is_left(config: ClusterConfig) -> None:
    with pytest.raises(ClusterNotRunning, match="local does not run"):
        bring_down(config, None)
    stale = file_of(config)
    write_cluster_file(stale)
    with pytest.raises(ClusterNotRunning):
        bring_down(config, stale)
    assert find_cluster("local") is None


@pytest.mark.parametrize(
    ("started_ray", "others", "ended"),
    [(True, [], 7), (True, ["theirs"], 0), (False, [], 0), (False, ["theirs"], 0)],
)
def test_down_ends_ray_only_where_up_started_it_and_nobody_else_uses_it(
    started_ray: bool,
    others: list[str],
    ended: int,
    config: ClusterConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(launcher, "answers", lambda address: True)
    monkeypatch.setattr(launcher, "_foreign_applications", lambda config, cluster: others)
    monkeypatch.setattr(launcher, "stop_processes", lambda temp_dir, pids: 7)
    monkeypatch.setattr(
        launcher, "_remove_ours", lambda config, cluster: removed.append(cluster.name)
    )
    cluster = msgspec.structs.replace(
        file_of(config), started_ray=started_ray, pids={"fork_server": 1}
    )
    write_cluster_file(cluster)
    assert bring_down(config, cluster) == (ended, others)
    assert removed == ([] if ended else ["local"])
    assert (cluster_of(config) is None) is (not (started_ray and others)), "its Ray goes on"


def test_down_ends_what_a_dead_cluster_left_behind(config: ClusterConfig) -> None:
    with running_in(paths_of(config).temp_dir, SLEEP):
        assert bring_down(config, None).ended == 1


@pytest.fixture
def half(config: ClusterConfig) -> Iterator[ClusterFile]:
    """A cluster of which the control store lives and listens, and the raylet is gone."""
    listen = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    directory = paths_of(config).temp_dir
    with running_in(directory, listen) as (store, port):
        cluster = msgspec.structs.replace(
            file_of(config, f"127.0.0.1:{port}"),
            started_ray=True,
            temp_dir=str(directory),
            # This pid is of a living process that is not of that Ray.
            pids={"gcs_server": store.pid, "raylet": os.getpid()},
        )
        write_cluster_file(cluster)
        yield cluster


def ask_nobody(*_: object) -> None:
    pytest.fail("a half dead cluster was asked")


def test_of_a_cluster_that_has_lost_a_part_the_part_is_named(half: ClusterFile) -> None:
    assert parts_gone(half) == ["raylet"]
    assert half_dead(half) == (
        "local is half dead: raylet of its Ray is gone, other processes go on"
    )
    assert half_dead(msgspec.structs.replace(half, started_ray=False)) is None, "not ours to know"
    whole = {"gcs_server": half.pids["gcs_server"]}
    assert half_dead(msgspec.structs.replace(half, pids=whole)) is None
    only_tools = {**whole, "dashboard": os.getpid()}
    assert half_dead(msgspec.structs.replace(half, pids=only_tools)) is None, "tools go on"
    begun = half_dead(msgspec.structs.replace(half, pids={}))
    assert begun == "the `thornback up` of local was ended half way, or is still at work"


def test_a_cluster_that_is_dead_as_a_whole_is_not_half_dead(config: ClusterConfig) -> None:
    dead = msgspec.structs.replace(
        file_of(config),
        started_ray=True,
        temp_dir=str(paths_of(config).temp_dir),
        pids=dict.fromkeys(PARTS, os.getpid()),
    )
    assert parts_gone(dead) == list(PARTS)
    assert half_dead(dead) is None


def test_down_ends_a_half_dead_cluster_and_asks_it_nothing(
    config: ClusterConfig, half: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "serve_now", ask_nobody)
    assert bring_down(config, half) == (1, [])
    assert parts_gone(half) == ["gcs_server", "raylet"]
    assert find_cluster("local") is None


def test_up_ends_a_half_dead_cluster_and_starts_anew(
    config: ClusterConfig, half: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    def start(config: ClusterConfig) -> None:
        raise LaunchError("far enough")

    monkeypatch.setattr(launcher, "unchanged", ask_nobody)
    monkeypatch.setattr(launcher, "_deploy", ask_nobody)
    monkeypatch.setattr(launcher, "_refuse_address", lambda config: None)
    monkeypatch.setattr(launcher, "start_head", start)
    with pytest.raises(LaunchError, match="far enough"):
        bring_up(config, address=None, config_path=None, tell=told.append)
    assert told == [
        "local runs without its raylet; starting it anew",
        "ended 1 processes that an earlier cluster left behind",
        "starting Ray",
    ]


def test_only_a_change_of_what_is_applied_changes_the_digest(config: ClusterConfig) -> None:
    def digest() -> str:
        plans = [plan_pool(config, "p", config.pools["p"], version="1")]
        return applied_digest(config, plans)

    before = digest()
    assert digest() == before
    Path(config.base_dir, "my_tools.py").write_text("a = 1", "utf-8")
    assert digest() != before
