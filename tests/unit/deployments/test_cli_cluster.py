import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from thornback.cluster.catalog import Catalog, PoolEntry
from thornback.cluster.scaling import Scaled
from thornback.deployments.cli import app
from thornback.deployments.cli_cluster import _is_still
from thornback.deployments.cluster_file import (
    ClusterFile,
    find_cluster,
    remove_cluster_file,
    write_cluster_file,
)
from thornback.deployments.status import Facts

CONFIG = "name: mine\npools: {p: {tools: [m]}}\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def leave_cluster(home: Path) -> None:
    write_cluster_file(
        ClusterFile(
            name="mine",
            url="http://127.0.0.1:1/mcp",
            address="127.0.0.1:1",
            dashboard_url="http://127.0.0.1:1",
            namespace="thornback.mine",
            state_dir=str(home / "state" / "thornback" / "mine"),
        )
    )


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words])
    return done.exit_code, done.output


@pytest.mark.parametrize("command", ["status", "down"])
def test_nothing_runs_is_exit_code_3(command: str, home: Path) -> None:
    path = home / "c.yaml"
    path.write_text(CONFIG, "utf-8")
    assert run(command)[0] == 3
    assert run(command, "nobody") == (3, "thornback: no cluster called nobody runs here\n")
    assert run(command, str(path)) == (3, "thornback: mine does not run\n")


def test_a_dead_cluster_is_told_as_not_running_in_json_too(home: Path) -> None:
    leave_cluster(home)
    code, output = run("status", "mine", "--json")
    assert (code, json.loads(output)["state"]) == (3, "not running")


@pytest.fixture
def running(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with the pools `text`, whose size changed, and `sql`."""
    leave_cluster(home)
    pools = {
        name: PoolEntry(name=name, application=f"thornback.mine.{name}", modules=("m",))
        for name in ("sql", "text")
    }
    facts = Facts(
        catalog=Catalog("sto_1", 1, 1, {"pools": pools}),
        decisions={"text": [Scaled("text", 1.5, 0, 1)]},
    )
    monkeypatch.setattr("thornback.deployments.status.gather", lambda cluster: facts)
    monkeypatch.setattr("thornback.deployments.ray_process.answers", lambda address: True)
    monkeypatch.setattr("thornback.deployments.cli_target._answers", lambda url: True)


@pytest.mark.usefixtures("running")
def test_status_of_a_pool_says_why_it_has_the_size_it_has() -> None:
    _, output = run("status", "text")
    assert output.endswith(
        "1970-01-01T00:00:01.500+00:00  text 0→1: a call waits, from zero without delay\n"
    )
    assert "sql" not in output
    assert "has not been changed by its load" in run("status", "sql")[1]
    assert "→" not in run("status")[1]
    (pool,) = json.loads(run("status", "text", "--json")[1])["pools"].values()
    assert pool["decisions"][0]["facts"]["after"] == 1


@pytest.mark.usefixtures("running")
def test_status_of_neither_a_cluster_nor_a_pool_says_so() -> None:
    assert run("status", "txet") == (
        3,
        "thornback: neither a cluster nor a pool of mine is called txet\n",
    )


def test_down_of_a_dead_cluster_forgets_it(home: Path) -> None:
    leave_cluster(home)
    assert run("down", "mine") == (3, "thornback: mine does not run\n")
    assert run("down", "mine")[1] == "thornback: no cluster called mine runs here\n"


def test_a_bad_config_starts_nothing_and_names_its_keys(home: Path) -> None:
    path = home / "c.yaml"
    path.write_text(CONFIG + "gatway: {}\n", "utf-8")
    code, output = run("up", str(path))
    assert (code, output) == (1, "thornback: c.yaml: gatway: unknown key; did you mean gateway?\n")
    assert not (home / "state").exists()


def test_a_config_that_is_no_file_is_named(home: Path) -> None:
    assert run("down", "nowhere.yaml")[0] == 1


def test_a_cluster_that_another_up_started_meanwhile_is_not_ours_to_end(home: Path) -> None:
    leave_cluster(home)
    mine = find_cluster("mine")
    assert mine is not None
    assert _is_still(mine)
    write_cluster_file(msgspec.structs.replace(mine, pids={"raylet": 7}))
    assert not _is_still(mine)
    remove_cluster_file(mine)
    assert not _is_still(mine)
