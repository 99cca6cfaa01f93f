import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from thornback.cluster.errors import ClusterNotRunning, ConfigError
from thornback.deployments.cli_target import cluster_here, key_of, url_of
from thornback.deployments.cluster_file import ClusterFile, write_cluster_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("THORNBACK_KEY", raising=False)
    return tmp_path


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def leave_pointer(home: Path, name: str, port: int) -> str:
    url = f"http://127.0.0.1:{port}/mcp"
    cluster = ClusterFile(
        name=name,
        url=url,
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:2",
        namespace=f"thornback.{name}",
        state_dir=str(home / name),
    )
    write_cluster_file(cluster)
    return url


def test_the_one_cluster_that_runs_is_taken(home: Path, listening: int) -> None:
    leave_pointer(home, "dead", 1)
    alive = leave_pointer(home, "alive", listening)
    assert url_of(None, None) == alive


def test_a_named_cluster_is_taken_whether_it_answers_or_not(home: Path) -> None:
    dead = leave_pointer(home, "dead", 1)
    assert url_of(None, "dead") == dead


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("one\ntwo", "utf-8")
    with pytest.raises(ConfigError, match=f"^{file}: a key is one line of ASCII; this is none$"):
        key_of(file)
    monkeypatch.setenv("THORNBACK_KEY", "ключ")
    with pytest.raises(ConfigError, match=r"^THORNBACK_KEY: a key is one line of ASCII"):
        key_of(None)


def test_a_url_needs_no_pointer() -> None:
    assert url_of("http://far.example/mcp", None) == "http://far.example/mcp"


def test_without_a_cluster_the_message_says_how_to_start_one() -> None:
    with pytest.raises(ClusterNotRunning, match="thornback up"):
        url_of(None, None)


def test_of_several_clusters_none_is_guessed(home: Path, listening: int) -> None:
    leave_pointer(home, "one", listening)
    leave_pointer(home, "two", listening)
    with pytest.raises(ClusterNotRunning, match="add --cluster and one of one, two"):
        url_of(None, None)
    # `status` and `down` take the name itself.
    with pytest.raises(ClusterNotRunning, match="name one of one, two"):
        cluster_here(None, "name one of")


def test_an_unknown_name_is_answered_with_the_known_ones(home: Path) -> None:
    leave_pointer(home, "lab", 1)
    with pytest.raises(ClusterNotRunning, match=r"no cluster called lap .* here are lab"):
        url_of(None, "lap")


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of(None) is None
    monkeypatch.setenv("THORNBACK_KEY", "tbk_env\n")
    assert key_of(None) == "tbk_env"


def test_a_key_file_goes_before_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THORNBACK_KEY", "tbk_env")
    (home / "key").write_text("tbk_file\n")
    assert key_of(home / "key") == "tbk_file"
    with pytest.raises(ConfigError, match="cannot be read"):
        key_of(home / "missing")
