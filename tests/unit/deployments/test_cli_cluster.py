import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from thornback.deployments.cli import app
from thornback.deployments.cli_cluster import _is_still
from thornback.deployments.cluster_file import (
    ClusterFile,
    find_cluster,
    remove_cluster_file,
    write_cluster_file,
)

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
