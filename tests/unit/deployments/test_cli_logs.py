import itertools
import json
import re
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from thornback.deployments import cli_logs, log_files, node_logs
from thornback.deployments.cli import app
from thornback.deployments.cli_logs import is_of_serve
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.import_reports import forget_others, keep_report, report_files
from thornback.deployments.log_files import Ask, Found, lines_of, read_logs
from thornback.deployments.node_logs import Positions

NAMESPACE = "thornback.lab"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")

    write(
        "worker-1-01-10.out",
        ":job_id:01\n:actor_name:ServeReplica:thornback.lab.sql:ToolHost\nprinted by sql\n",
    )
    write(
        "worker-2-01-11.out",
        ":actor_name:ServeReplica:thornback.lab.text:ToolHost\none\ntwo\nthree\nhal",
    )
    write("worker-3-01-12.out", ":actor_name:ServeReplica:thornback.other.sql:ToolHost\nnot ours\n")
    write("worker-4-01-13.err", "a task of Ray's own\n")
    write(
        "worker-1-01-10.err",
        ":actor_name:ServeReplica:thornback.lab.sql:ToolHost\nlogged by sql\n",
    )
    write("worker-6-01-15.err", ":actor_name:ServeReplica:thornback.laboratory.sql:X\nnot ours\n")
    return tmp_path


def said(folder: Path, pool: str | None, tail: int | None = 20) -> set[tuple[str, str]]:
    lines = lines_of(folder, NAMESPACE, pool, tail=tail, follow=lambda: False)
    return {(file.pool, line) for file, line in lines}


def test_files_of_a_cluster_are_found_by_what_ray_wrote_into_them(folder: Path) -> None:
    assert sorted(f.pool for f in log_files.log_files(folder, NAMESPACE, None)) == [
        "sql",
        "sql",
        "text",
    ]


def test_a_pool_shows_what_it_printed_and_what_it_logged(folder: Path) -> None:
    assert said(folder, "sql") == {("sql", "printed by sql"), ("sql", "logged by sql")}


def test_the_tail_is_whole_lines_without_rays_marks(folder: Path) -> None:
    assert said(folder, "text", tail=2) == {("text", "two"), ("text", "three")}


def test_without_a_tail_all_that_was_said_is_shown(folder: Path) -> None:
    assert said(folder, "text", tail=None) == {("text", line) for line in ("one", "two", "three")}


def test_following_shows_what_comes_and_new_files_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(seconds: float) -> None:
        with (folder / "worker-2-01-11.out").open("a") as file:
            file.write("f a line\n")
        new = ":actor_name:ServeReplica:thornback.lab.text:ToolHost\nborn\nlater\n"
        (folder / "worker-5-01-14.out").write_text(new)

    monkeypatch.setattr(log_files.time, "sleep", meanwhile)
    lines = lines_of(folder, NAMESPACE, "text", tail=0, follow=lambda: True)
    assert {line for _, line in itertools.islice(lines, 3)} == {"half a line", "born", "later"}


def test_a_file_that_was_full_goes_on_as_a_new_one_of_the_same_pool(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "worker-2-01-11.out"
    out.with_suffix(".err").write_text(":actor_name:ServeReplica:thornback.lab.text:ToolHost\n")

    def meanwhile(seconds: float) -> None:
        out.rename(folder / "worker-2-01-11.out.1")
        out.write_text("fresh\n", "utf-8")

    monkeypatch.setattr(log_files.time, "sleep", meanwhile)
    turns = iter([True, False])
    lines = lines_of(folder, NAMESPACE, "text", tail=0, follow=lambda: next(turns))
    assert [line for _, line in lines] == ["fresh"]


def test_news_of_serve_are_told_from_what_tools_say() -> None:
    news = "INFO 2026-11-23 08:51:41,311 thornback.lab.sql_ToolHost jvqaqxvt -- Started HTTP server"
    assert is_of_serve(news)
    assert not is_of_serve("INFO mine -- printed by a tool")


@pytest.fixture
def lab(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterFile:
    """The cluster that the command finds, with the files of `folder` where Ray has them."""
    logs_folder = tmp_path / "session_latest" / "logs"
    logs_folder.mkdir(parents=True)
    for file in folder.glob("worker-*"):
        file.rename(logs_folder / file.name)
    cluster = ClusterFile(
        name="lab",
        url="http://127.0.0.1:1/mcp",
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1",
        namespace=NAMESPACE,
        state_dir=str(tmp_path),
        one_machine=True,
        temp_dir=str(tmp_path),
        applications=[f"{NAMESPACE}.idle"],
    )
    monkeypatch.setattr(cli_logs, "cluster_here", lambda name: cluster)
    return cluster


def test_a_pool_that_is_not_there_is_named_with_those_that_are(lab: ClusterFile) -> None:
    done = CliRunner().invoke(app, ["logs", "sqll"])
    expected = (
        "thornback: lab has no pool sqll; there are idle, sql, text; and no call of a tool of that "
        "name is in its logs\n"
    )
    assert (done.exit_code, done.output) == (2, expected)
    assert CliRunner().invoke(app, ["logs", "idle"]).exit_code == 0


def test_the_traceback_of_a_pool_that_could_not_be_imported_is_shown_whole(
    lab: ClusterFile,
) -> None:
    report = "\n".join(["bad cannot be imported: E (error err_1)", *map(str, range(50)), "E: x"])
    keep_report(Path(lab.state_dir), "bad", report)
    lines = CliRunner().invoke(app, ["logs", "bad", "-n", "3"]).output.splitlines()
    assert lines == [f"bad  {line}" for line in report.splitlines()]
    assert "err_1" in CliRunner().invoke(app, ["logs"]).output
    assert "err_1" not in CliRunner().invoke(app, ["logs", "sql"]).output


# --- requests, tools, other machines --------------------------------------------------------------

ERROR = "err_4HJyq0VbNnTqSrs9Wm2cXw"


def record(time_s: float, **fields: object) -> str:
    return json.dumps({"time": time_s, **fields}, separators=(",", ":")) + "\n"


@pytest.fixture
def spoken(lab: ClusterFile) -> ClusterFile:
    """A call of `greet` that failed, in a gateway and in a host that filled a file meanwhile."""
    assert lab.temp_dir is not None
    folder = Path(lab.temp_dir, "session_latest", "logs")
    access = record(5, method="tools/call", name="greet", request_id="r1", error="tool.bug")
    other = record(6, method="tools/call", name="other", request_id="r2")
    head = ":actor_name:ServeReplica:thornback.lab.gateway:Gateway\n"
    (folder / "worker-6-01-16.out").write_text(head + access + other)
    about = {"tool": "greet", "version": "1.0.0", "request_id": "r1"}
    printed = record(2, level="info", logger="stdout", message="reading", **about)
    failed = record(
        3, level="error", logger="x", message=f"greet failed ({ERROR})", traceback="E: no", **about
    )
    unmarked = "r1 is in a line of nobody's\n"
    (folder / "worker-2-01-11.out.1").write_text(
        (folder / "worker-2-01-11.out").read_text() + "\n" + printed
    )
    (folder / "worker-2-01-11.out").write_text(unmarked)
    (folder / "worker-2-01-11.err").write_text(failed)
    return lab


def logs(*words: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["logs", *words])
    # The time is this machine's.
    return done.exit_code, [
        re.sub(r"  \d\d:\d\d:\d\d  ", "  ", line) for line in done.output.splitlines()
    ]


OF_THE_CALL = [
    "text  greet  reading  r1",
    f"text  greet  ERROR x: greet failed ({ERROR})  r1",
    "text      E: no",
    "gateway  greet  tool.bug  0 ms  r1",
]


@pytest.mark.parametrize("request_id", ["r1", ERROR])
def test_a_request_shows_all_that_was_said_of_it_in_its_order(
    spoken: ClusterFile, request_id: str
) -> None:
    assert logs("--request", request_id) == (0, OF_THE_CALL)


def test_a_tool_shows_its_calls_and_what_it_said(spoken: ClusterFile) -> None:
    code, lines = logs("greet")
    assert (code, sorted(lines)) == (0, sorted(OF_THE_CALL))
    assert logs("gateway", "--request", "r1") == (0, OF_THE_CALL[-1:])


def test_what_a_batch_said_is_shown_with_the_request_that_was_asked_for(
    spoken: ClusterFile,
) -> None:
    batch = record(2, level="info", logger="stdout", message="all", request_ids=["r7", "r8", "r9"])
    with Path(spoken.temp_dir or "", "session_latest/logs/worker-2-01-11.out").open("a") as log:
        log.write(batch)
    assert logs("--request", "r8") == (0, ["text  all  r8  and 2 more"])


def test_a_request_that_nobody_speaks_of_is_said_with_what_was_searched(
    spoken: ClusterFile,
) -> None:
    keep_report(Path(spoken.state_dir), "bad", "E (error err_1)")
    assert logs("--request", "r3") == (1, [
        "thornback: no line about r3: searched 6 files of gateway, sql, text on 1 machine, and "
        "why bad broke"
    ])  # fmt: skip
    assert logs("--request", "err_1") == (0, ["bad  E (error err_1)"])


def test_following_a_request_shows_what_is_said_of_it_later(
    spoken: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = itertools.count()

    def meanwhile(seconds: float) -> None:
        if next(turns):
            raise KeyboardInterrupt
        with Path(spoken.temp_dir or "", "session_latest/logs/worker-6-01-16.out").open("a") as log:
            log.write(record(7, method="tools/call", name="greet", request_id="r3"))
            log.write(record(8, method="tools/call", name="greet", request_id="r4"))

    monkeypatch.setattr(cli_logs.time, "sleep", meanwhile)
    code, lines = logs("--request", "r3", "-f")
    assert (code, lines) == (130, ["gateway  greet  ok  0 ms  r3", "thornback: interrupted"])


def test_a_tool_that_nobody_has_called_can_be_followed(
    spoken: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_logs.time, "sleep", interrupted)
    code, lines = logs("new", "-f")
    assert (code, len(lines)) == (130, 2)
    assert lines[0].endswith("no call of a tool of that name is in its logs so far")


def test_json_says_where_each_line_stands(spoken: ClusterFile) -> None:
    done = CliRunner().invoke(app, ["logs", "gateway", "-n", "1", "--json"])
    said = json.loads(done.output)
    assert (said["pool"], said["node"]) == ("gateway", "")
    assert said["file"].endswith("worker-6-01-16.out")
    assert json.loads(said["line"])["request_id"] == "r2"


class Machines:
    """Stands for what Ray's nodes answer: each reads a folder of its own."""

    period_s = 0.0

    def __init__(self, **folders: Path) -> None:
        self._folders = folders

    def look(self, ask: Ask, positions: Positions | None = None) -> dict[str, Found]:
        return {
            node: read_logs(folder, ask, None if positions is None else positions[node])
            for node, folder in self._folders.items()
        }


def test_a_request_is_found_on_whichever_machine(
    spoken: ClusterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "session_latest" / "logs", tmp_path / "there"
    there.mkdir()
    for path in here.glob("worker-2-*"):
        path.rename(there / path.name)
    assert logs("--request", "r1") == (0, OF_THE_CALL[-1:])
    machines = Machines(here=here, far=there)
    monkeypatch.setattr(node_logs, "logs_of", lambda cluster, tell: nullcontext(machines))
    assert logs("--request", ERROR) == (0, OF_THE_CALL)
    said = [
        json.loads(line)
        for line in CliRunner().invoke(app, ["logs", "greet", "--json"]).output.splitlines()
    ]
    assert {(line["pool"], line["node"]) for line in said} == {("gateway", "here"), ("text", "far")}


def test_where_other_machines_cannot_be_asked_this_ones_logs_are_shown_and_it_is_said(
    lab: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = msgspec.structs.replace(lab, one_machine=False)
    monkeypatch.setattr(cli_logs, "cluster_here", lambda name: several)
    code, lines = logs("sql", "-n", "1")
    assert code == 0
    assert "only logs of this machine are searched: no Ray answers at 127.0.0.1:1" in lines
    assert "sql  printed by sql" in lines


def test_why_a_pool_broke_is_told_also_where_ray_cannot_be_asked(
    lab: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = msgspec.structs.replace(lab, temp_dir=None)
    monkeypatch.setattr(cli_logs, "cluster_here", lambda name: joined)
    keep_report(Path(lab.state_dir), "bad", "E (error err_1)")
    assert logs("bad") == (3, ["bad  E (error err_1)", "thornback: no Ray answers at 127.0.0.1:1"])


def test_reports_go_when_their_pools_can_be_imported_or_are_gone(tmp_path: Path) -> None:
    for pool in ("mended", "gone", "bad"):
        keep_report(tmp_path, pool, "why")
    keep_report(tmp_path, "mended", None)
    forget_others(tmp_path, ["mended", "bad"])
    assert report_files(tmp_path).keys() == {"bad"}
