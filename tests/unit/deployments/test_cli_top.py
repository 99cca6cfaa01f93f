import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from thornback.deployments import cli_top, top_feed
from thornback.deployments.cli import app
from thornback.deployments.cli_top import picture
from thornback.deployments.cluster_file import ClusterFile, write_cluster_file
from thornback.deployments.live_numbers import Gone, PoolRow, Snapshot, ToolRow
from thornback.deployments.top_feed import why_gone

FIRST = Snapshot(
    time=1_800_000_000.0,
    cluster="lab",
    window_s=0.0,
    gateways=2,
    tools=[],
    pools=[PoolRow("sql", 1, 3, {"RUNNING": 1, "STARTING": 2})],
)
LATER = msgspec.structs.replace(
    FIRST,
    time=1_800_000_001.0,
    window_s=1.0,
    tools=[ToolRow("sql_query", "1.2.0", 40.5, 0.5, 12.0, 80.25, 3, 7)],
)

Top = Callable[..., tuple[int, str]]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterFile:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return ClusterFile(
        name="lab",
        url="http://127.0.0.1:1/mcp",
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1",
        namespace="thornback.lab",
        state_dir=str(tmp_path),
        pids={"raylet": 7},
    )


@pytest.fixture
def top(lab: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> Top:
    """Runs the command over a feed of these, which ends after the last."""
    monkeypatch.setattr(cli_top, "cluster_here", lambda name: lab)

    def run(told: list[Snapshot | Gone | type[BaseException]], *words: str) -> tuple[int, str]:
        @contextmanager
        def feed(cluster: ClusterFile) -> Iterator[Iterator[str]]:
            yield lines()

        def lines() -> Iterator[str]:
            for each in told:
                if isinstance(each, type):
                    raise each
                yield msgspec.json.encode(each).decode() + "\n"

        monkeypatch.setattr(cli_top, "_feed_of", feed)
        done = CliRunner().invoke(app, ["top", *words])
        return done.exit_code, done.output

    return run


def test_json_is_one_line_for_each_second_until_the_cluster_goes(top: Top) -> None:
    code, output = top([FIRST, LATER, Gone("lab was ended")], "--json")
    *lines, last = output.splitlines()
    assert [json.loads(line)["window_s"] for line in lines] == [0.0, 1.0]
    assert (code, last) == (3, "thornback: lab was ended")


def test_once_waits_for_something_to_compare_with(top: Top) -> None:
    code, output = top([FIRST, LATER, LATER], "--once", "--json")
    (line,) = output.splitlines()
    (tool,) = json.loads(line)["tools"]
    assert (code, tool["calls_per_s"]) == (0, 40.5)


def test_once_does_not_wait_for_gateways_that_are_not_there(top: Top) -> None:
    none = msgspec.structs.replace(FIRST, gateways=0, problems=["no gateway answers"])
    code, output = top([none, LATER], "--once")
    assert (code, "no gateway answers" in output, "sql_query" in output) == (0, True, False)


def test_a_pipe_gets_rows_parted_by_tabs(top: Top) -> None:
    _, output = top([LATER], "--once")
    head, tool, pool, _ = output.split("\n", 3)
    assert head.startswith("lab  ")
    assert head.endswith("  2 gateways  40.5 calls/s")
    assert tool.split("\t") == ["sql_query@1.2.0", "40.5", "12.0", "80.2", "3", "7", "0.5"]
    assert pool.split("\t") == ["sql", "1/3", "2 STARTING"]


def test_a_feed_that_breaks_off_is_a_cluster_that_is_gone(top: Top) -> None:
    assert top([], "--json") == (3, "thornback: lab does not answer any more\n")


def test_ctrl_c_is_how_one_leaves(top: Top) -> None:
    code, output = top([LATER, KeyboardInterrupt], "--json")
    assert (code, len(output.splitlines())) == (0, 1)


def drawn(snapshot: Snapshot, height: int) -> str:
    file = io.StringIO()
    Console(file=file, width=100, force_terminal=True).print(picture(snapshot, height))
    return file.getvalue()


def test_a_terminal_shows_tools_and_pools_as_tables() -> None:
    shown = drawn(LATER, 30)
    assert all(word in shown for word in ("sql_query@1.2.0", "40.5", "1/3", "2 STARTING", "p99 ms"))


def test_of_more_tools_than_fit_the_busiest_are_shown() -> None:
    row = LATER.tools[0]
    many = [msgspec.structs.replace(row, tool=f"tool_{n}") for n in range(100)]
    lines = drawn(msgspec.structs.replace(LATER, tools=many), 30).splitlines()
    assert len(lines) <= 30
    assert any("tool_0@" in line for line in lines)
    assert any("1/3" in line for line in lines)


def test_a_feed_ends_with_its_cluster(lab: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_gone(lab) == "lab was ended"
    write_cluster_file(lab)
    monkeypatch.setattr(top_feed, "half_dead", lambda cluster: None)
    assert why_gone(lab) == "nobody answers at 127.0.0.1:1 any more"
    monkeypatch.setattr(top_feed, "answers", lambda address: True)
    assert why_gone(lab) is None
    monkeypatch.setattr(top_feed, "half_dead", lambda cluster: "lab is half dead")
    assert why_gone(lab) == "lab is half dead"
    write_cluster_file(msgspec.structs.replace(lab, pids={"raylet": 8}))
    assert why_gone(lab) == "lab was ended"
