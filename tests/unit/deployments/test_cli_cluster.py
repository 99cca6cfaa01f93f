import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from thornback.cluster.catalog import Catalog, PoolEntry
from thornback.cluster.config import ClusterConfig
from thornback.cluster.scaling import Scaled
from thornback.deployments import cli_cluster, launcher, log_files
from thornback.deployments.cli import app
from thornback.deployments.cli_cluster import _is_still
from thornback.deployments.cluster_file import (
    ClusterFile,
    find_cluster,
    remove_cluster_file,
    write_cluster_file,
)
from thornback.deployments.launcher import Tell, Up
from thornback.deployments.pool_news import PoolNews
from thornback.deployments.status import Facts

Upped = Callable[..., tuple[int, str]]
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


def test_a_state_directory_that_cannot_be_made_is_one_line(home: Path) -> None:
    path = home / "c.yaml"
    path.write_text(f"{CONFIG}state_dir: c.yaml/state\n", "utf-8")
    expected = f"thornback: state_dir: {path}/state: Not a directory\n"
    assert run("up", str(path)) == (2, expected)


def test_a_dead_cluster_is_told_as_not_running_in_json_too(home: Path) -> None:
    leave_cluster(home)
    code, output = run("status", "mine", "--json")
    assert (code, json.loads(output)["state"]) == (3, "not running")


def test_of_a_half_dead_cluster_status_says_what_is_gone_and_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_cluster(home)
    wrong = "mine is half dead"
    monkeypatch.setattr("thornback.deployments.ray_process.half_dead", lambda cluster: wrong)
    # What asks brings Ray, whose import takes longer than the answer.
    monkeypatch.setitem(sys.modules, "thornback.deployments.status", None)
    told = (
        "mine is half dead; `thornback down mine` ends what is left, `thornback up` starts it anew"
    )
    assert run("status", "mine") == (3, f"thornback: {told}\n")
    code, output = run("status", "mine", "--json")
    assert (code, json.loads(output)) == (3, {"state": "not running", "problems": [told]})
    assert run("status") == (
        3,
        "thornback: no cluster runs here; mine is half dead: `thornback down mine` ends what is "
        "left\n",
    )


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
def test_status_names_replicas_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = {"replica_id": "r1", "state": "RUNNING", "pid": 7}
    text = {"status": "RUNNING", "deployments": {"ToolHost": {"replicas": [replica]}}}
    facts = Facts(details={"applications": {"thornback.mine.text": text}}, silent={"text": ["r1"]})
    monkeypatch.setattr("thornback.deployments.status.gather", lambda cluster: facts)
    code, output = run("status")
    assert code == 1
    assert "  ! pool text: 1 of 1 replica did not answer within 3 s: r1 (pid 7)\n" in output
    code, output = run("status", "--json")
    assert (code, json.loads(output)["pools"]["text"]["silent"]) == (1, ["r1"])


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
    assert (code, output) == (2, "thornback: c.yaml: gatway: unknown key; did you mean gateway?\n")
    assert not (home / "state").exists()


def test_a_config_that_is_no_file_is_named(home: Path) -> None:
    assert run("down", "nowhere.yaml")[0] == 2


def test_a_cluster_that_another_up_started_meanwhile_is_not_ours_to_end(home: Path) -> None:
    leave_cluster(home)
    mine = find_cluster("mine")
    assert mine is not None
    assert _is_still(mine)
    write_cluster_file(msgspec.structs.replace(mine, pids={"raylet": 7}))
    assert not _is_still(mine)
    remove_cluster_file(mine)
    assert not _is_still(mine)


@pytest.fixture
def upped(home: Path, monkeypatch: pytest.MonkeyPatch) -> Upped:
    """Run `up` of a config as if its cluster had come up, with the log of one pool."""
    monkeypatch.setattr(cli_cluster.signal, "signal", lambda number, handler: None)
    logs = home / "ray" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    begin = ":actor_name:ServeReplica:thornback.mine.{}:ToolHost\n"
    for pool in ("gateway", "text"):
        (logs / f"worker-{pool}.out").write_text(begin.format(pool), "utf-8")

    def bring_up(config: ClusterConfig, tell: Tell, **options: object) -> Up:
        tell("looking for tools")
        tell(PoolNews("text", "starting"))
        tell(PoolNews("plot", "broken", "charts: no matplotlib"))
        cluster = ClusterFile(
            name="mine",
            url="http://127.0.0.1:8000/mcp",
            address="127.0.0.1:1",
            dashboard_url="http://127.0.0.1:1",
            namespace="thornback.mine",
            state_dir=str(config.state_path),
            temp_dir=str(home / "ray"),
            example="thornback call echo text=hello",
        )
        write_cluster_file(cluster)
        return Up(cluster, True, [])

    def up(*words: str, config: str = CONFIG) -> tuple[int, str]:
        path = home / "c.yaml"
        path.write_text(config, "utf-8")
        return run("up", str(path), *words)

    monkeypatch.setattr(launcher, "bring_up", bring_up)
    return up


def test_up_says_where_it_is_how_a_client_gets_there_and_what_to_try(upped: Upped) -> None:
    code, output = upped("--detach")
    assert code == 0
    assert "mine is ready: http://127.0.0.1:8000/mcp\n" in output
    client = json.loads(output[output.index("{") : output.rindex("}") + 1])
    server = {"type": "http", "url": "http://127.0.0.1:8000/mcp"}
    assert client == {"mcpServers": {"thornback-mine": server}}
    assert output.splitlines()[-1] == "  thornback call echo text=hello"


def test_up_shows_what_it_does_and_how_pools_come_up(upped: Upped) -> None:
    _, output = upped("--detach")
    told = [line.partition(" s  ")[2] for line in output.splitlines()[:3]]
    assert told == [
        "looking for tools",
        ". pool text is starting",
        "! pool plot is broken: charts: no matplotlib",
    ]


def test_where_there_are_callers_it_says_where_the_key_goes(upped: Upped) -> None:
    callers = f"principals: {{ann: {{key_sha256: '{'0' * 64}'}}}}\n"
    _, output = upped("--detach", config=CONFIG + callers)
    assert '"Authorization": "Bearer <key>"' in output
    assert "THORNBACK_KEY=<key> thornback call echo" in output


def test_the_foreground_shows_each_call_and_what_tools_say_until_the_cluster_ends(
    upped: Upped, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"time": 1.0, "method": "tools/call", "name": "echo", "duration_ms": 3.0}
    traceback = "Traceback (most recent call last):"
    logs = home / "ray" / "session_latest" / "logs"

    def say(pool: str, line: str) -> None:
        with (logs / f"worker-{pool}.out").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def meanwhile(seconds: float) -> None:
        say("gateway", json.dumps(record))
        say("text", traceback)
        cluster = find_cluster("mine")
        assert cluster is not None
        remove_cluster_file(cluster)

    monkeypatch.setattr(log_files.time, "sleep", meanwhile)
    say("text", "said before anybody looked")
    code, output = upped()
    assert code == 0
    assert "\ntext  said before anybody looked\n" in output
    assert re.search(r"^gateway  \S+  echo  ok  3 ms$", output, re.MULTILINE)
    assert f"\ntext  {traceback}\n" in output
    assert output.endswith("mine was ended from elsewhere\n")


def test_ctrl_c_ends_the_cluster_that_up_started(
    upped: Upped, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log_files.time, "sleep", interrupted)
    monkeypatch.setattr(
        launcher, "bring_down", lambda config, cluster: ended.append(cluster.namespace)
    )
    code, output = upped()
    assert (code, ended) == (0, ["thornback.mine"])
    assert "ending the cluster; its state stays" in output
