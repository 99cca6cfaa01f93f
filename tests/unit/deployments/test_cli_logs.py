import itertools
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from thornback.deployments import cli_logs
from thornback.deployments.cli import app
from thornback.deployments.cli_logs import access_part, is_of_serve, lines_of, log_files
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.import_reports import forget_others, keep_report, report_files

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
    assert sorted(f.pool for f in log_files(folder, NAMESPACE, None)) == ["sql", "sql", "text"]


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

    monkeypatch.setattr(cli_logs.time, "sleep", meanwhile)
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

    monkeypatch.setattr(cli_logs.time, "sleep", meanwhile)
    turns = iter([True, False])
    lines = lines_of(folder, NAMESPACE, "text", tail=0, follow=lambda: next(turns))
    assert [line for _, line in lines] == ["fresh"]


def test_news_of_serve_are_told_from_what_tools_say() -> None:
    news = "INFO 2026-11-23 08:51:41,311 thornback.lab.sql_ToolHost jvqaqxvt -- Started HTTP server"
    assert is_of_serve(news)
    assert not is_of_serve("INFO mine -- printed by a tool")


def test_an_access_record_is_found_behind_a_formatters_prefix() -> None:
    assert access_part('INFO 2026-11-23 gateway -- {"time":1.5,"x":1}') == '{"time":1.5,"x":1}'
    assert access_part("plain") == "plain"


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
        temp_dir=str(tmp_path),
        applications=[f"{NAMESPACE}.idle"],
    )
    monkeypatch.setattr(cli_logs, "cluster_here", lambda name: cluster)
    return cluster


def test_a_pool_that_is_not_there_is_named_with_those_that_are(lab: ClusterFile) -> None:
    done = CliRunner().invoke(app, ["logs", "sqll"])
    expected = "thornback: lab has no pool sqll; there are idle, sql, text\n"
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


def test_a_traceback_is_shown_where_the_other_logs_are_others_business(
    lab: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = msgspec.structs.replace(lab, temp_dir=None)
    monkeypatch.setattr(cli_logs, "cluster_here", lambda name: joined)
    keep_report(Path(lab.state_dir), "bad", "E (error err_1)")
    assert CliRunner().invoke(app, ["logs", "bad"]).output == "bad  E (error err_1)\n"
    done = CliRunner().invoke(app, ["logs", "sql"])
    assert (done.exit_code, "use `ray logs`" in done.output) == (2, True)


def test_reports_go_when_their_pools_can_be_imported_or_are_gone(tmp_path: Path) -> None:
    for pool in ("mended", "gone", "bad"):
        keep_report(tmp_path, pool, "why")
    keep_report(tmp_path, "mended", None)
    forget_others(tmp_path, ["mended", "bad"])
    assert report_files(tmp_path).keys() == {"bad"}
