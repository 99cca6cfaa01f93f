"""What each command prints and exits with, against a cluster that is a function."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from thornback.cluster.principals import key_hash
from thornback.deployments import cli_call, cli_resources
from thornback.deployments.cli import app
from thornback.deployments.mcp_client import McpClient

ECHO = {
    "name": "echo",
    "title": "Echo",
    "description": "Say it again.\n\nAs it was.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "What to say."}},
        "required": ["text"],
    },
}
TEXT = {"content": [{"type": "text", "text": "hello"}]}
Answer = Callable[[dict[str, Any]], dict[str, Any]]
Run = Callable[..., Result]


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    """Every request that the cluster got."""
    return []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]) -> Run:
    """Run a command; `results` holds what the cluster answers, by method."""

    def run(*words: str, stdin: str = "", **results: dict[str, Any]) -> Result:
        def answer(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            asked.append(body)
            key = body["method"].replace("/", "_")
            if key == "tools_list" and key not in results:
                return reply(body, result={"tools": [ECHO]})
            return reply(body, **results[key])

        def open_client(*target: object) -> McpClient:
            return McpClient("http://cluster.test/mcp", None, httpx.MockTransport(answer))

        monkeypatch.setattr(cli_call, "open_client", open_client)
        monkeypatch.setattr(cli_resources, "open_client", open_client)
        return CliRunner().invoke(app, words, input=stdin)

    return run


def reply(body: dict[str, Any], **answer: Any) -> httpx.Response:
    return httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], **answer})


def test_tools_are_listed_with_their_first_line(run: Run) -> None:
    assert run("tools").stdout == "echo\tEcho\tSay it again.\n"


def test_tools_as_json_are_the_list_itself(run: Run) -> None:
    assert json.loads(run("tools", "--json").stdout) == [ECHO]


def test_one_tool_shows_its_parameters_and_how_to_call_it(run: Run) -> None:
    shown = run("tools", "echo").stdout
    assert "As it was." in shown
    assert "text\tstring\trequired\tWhat to say." in shown
    assert shown.endswith("thornback call echo text=…\n")


def test_an_unknown_tool_is_answered_with_the_nearest(run: Run) -> None:
    done = run("tools", "ecko")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "did you mean echo?" in done.stderr


@pytest.mark.parametrize(
    ("words", "stdin"),
    [(["text=hello"], ""), (['{"text": "hello"}'], ""), (["-"], '{"text": "hello"}')],
)
def test_a_call_takes_its_arguments_in_three_forms(
    words: list[str], stdin: str, run: Run, asked: list[dict[str, Any]]
) -> None:
    done = run("call", "echo", *words, stdin=stdin, tools_call={"result": TEXT})
    assert (done.exit_code, done.stdout) == (0, "hello\n")
    assert asked[-1]["params"]["arguments"] == {"text": "hello"}


def test_a_call_as_json_is_the_whole_result(run: Run) -> None:
    done = run("call", "echo", "{}", "--json", tools_call={"result": TEXT})
    assert json.loads(done.stdout) == TEXT


@pytest.mark.parametrize("words", [["--stream"], []])
def test_a_call_prints_what_it_streams_once_and_keeps_progress_apart(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"progress": 1, "message": "row 1", "_meta": {"io.thornback/partial": True}}
    messages = [
        {"method": "notifications/progress", "params": {"progress": 0.5, "message": "waiting"}},
        {"method": "notifications/progress", "params": item},
        {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "row 1"}]}},
    ]
    events = "".join(f"data: {json.dumps(message)}\n\n" for message in messages)
    sse = httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})
    client = McpClient("http://cluster.test/mcp", None, httpx.MockTransport(lambda _: sse))
    monkeypatch.setattr(cli_call, "open_client", lambda *target: client)
    done = CliRunner().invoke(app, ["call", "rows", "{}", *words])
    assert (done.stdout, done.stderr) == ("row 1\n", "waiting\n")


def test_what_the_tool_could_not_do_goes_to_stderr(run: Run) -> None:
    failed = {"isError": True, "content": [{"type": "text", "text": "no such table"}]}
    done = run("call", "echo", "{}", tools_call={"result": failed})
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "no such table\n")


def test_an_error_of_the_cluster_is_one_line(run: Run) -> None:
    error = {"code": -32602, "message": "Unknown tool: ecko (did you mean echo?)"}
    done = run("call", "ecko", "{}", tools_call={"error": error})
    assert done.exit_code == 1
    assert done.stderr == "thornback: Unknown tool: ecko (did you mean echo?)\n"


def test_an_interrupted_command_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    client = McpClient("http://cluster.test/mcp", None, httpx.MockTransport(interrupted))
    monkeypatch.setattr(cli_call, "open_client", lambda *target: client)
    done = CliRunner().invoke(app, ["call", "echo", "{}"])
    assert (done.exit_code, done.stderr) == (130, "thornback: interrupted\n")


def test_of_a_tool_that_is_not_listed_the_cluster_says_why(run: Run) -> None:
    why = "Pool sick cannot load brokenmod: ModuleNotFoundError: No module named 'gone'"
    lost = run("call", "lost", "name=z", tools_call={"error": {"code": -32603, "message": why}})
    assert (lost.exit_code, lost.stderr) == (1, f"thornback: {why}\n")


def test_an_unlisted_tool_is_called_with_words_read_as_json_or_text(
    run: Run, asked: list[dict[str, Any]]
) -> None:
    words = ["text=hello", "count=3", "deep={}"]
    done = run("call", "unlisted", *words, tools_call={"result": TEXT})
    assert (done.exit_code, done.stdout) == (0, "hello\n")
    arguments = {"text": "hello", "count": 3, "deep": {}}
    assert asked[-1]["params"]["arguments"] == arguments


@pytest.mark.parametrize(
    "words", [["loose"], ["[1]"], ['{"a":'], ['{"text": NaN}'], ['{"text": 1e999}'], ["x=NaN"]]
)
def test_arguments_that_cannot_be_read_are_a_usage_error(words: list[str], run: Run) -> None:
    assert run("call", "echo", *words).exit_code == 2


def test_images_are_saved_beside_what_is_there(run: Run, tmp_path: Path) -> None:
    image = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(b"PNG").decode()}
    (tmp_path / "chart-1.png").write_bytes(b"mine")
    done = run(
        "call", "chart", "--save", str(tmp_path), tools_call={"result": {"content": [image]}}
    )
    assert done.stderr == f"saved {tmp_path / 'chart-2.png'}\n"
    assert (tmp_path / "chart-1.png").read_bytes() == b"mine"
    assert (tmp_path / "chart-2.png").read_bytes() == b"PNG"


def test_a_resource_is_written_byte_for_byte(run: Run, tmp_path: Path) -> None:
    part = {"uri": "x://y", "blob": base64.b64encode(b"\x00\xff").decode()}
    read = {"result": {"contents": [part]}}
    run("resources", "get", "x://y", "-o", str(tmp_path / "out"), resources_read=read)
    assert (tmp_path / "out").read_bytes() == b"\x00\xff"


def test_what_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    taken, nowhere = tmp_path / "file", tmp_path / "no" / "x"
    taken.write_text("mine", "utf-8")
    image = {"result": {"content": [{"type": "image", "mimeType": "image/png", "data": "UE5H"}]}}
    saved = run("call", "chart", "--save", str(taken), tools_call=image)
    assert (saved.exit_code, saved.stderr) == (2, f"thornback: {taken}: File exists\n")
    read = {"result": {"contents": [{"uri": "x://y", "text": "hi"}]}}
    got = run("resources", "get", "x://y", "-o", str(nowhere), resources_read=read)
    assert (got.exit_code, got.stderr) == (2, f"thornback: {nowhere}: No such file or directory\n")


@pytest.mark.parametrize(("inside", "why"), [("", "File exists"), ("x", "Not a directory")])
def test_a_project_in_a_file_is_one_line(inside: str, why: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "file" / inside
    (tmp_path / "file").write_text("mine", "utf-8")
    done = run("init", str(folder))
    assert (done.exit_code, done.stderr) == (2, f"thornback: {folder}: {why}\n")


def test_prompts_show_which_arguments_they_need(run: Run) -> None:
    arguments = [{"name": "table", "required": True}, {"name": "tone"}]
    prompt = {"name": "explain", "description": "Explain it.", "arguments": arguments}
    done = run("prompts", "ls", prompts_list={"result": {"prompts": [prompt]}})
    assert done.stdout == "explain\ttable [tone]\tExplain it.\n"


def test_a_new_key_fits_the_lines_for_the_config(run: Run) -> None:
    made = json.loads(run("keys", "new", "lab", "--tools", "sql_*", "--json").stdout)
    entry = made["config"]["principals"]["lab"]
    assert entry == {"key_sha256": key_hash(made["key"]), "tools": ["sql_*"]}


@pytest.mark.parametrize("name", ["anonymous", "Not_A_Name"])
def test_no_key_is_made_for_a_name_that_no_config_takes(run: Run, name: str) -> None:
    done = run("keys", "new", name)
    assert (done.exit_code, done.stdout) == (2, "")


def test_every_problem_of_a_config_is_listed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("gatway: {}\npools: {p: {tools: [x], num_replica: 2}}\n")
    done = run("validate", str(tmp_path / "bad.yaml"))
    assert done.exit_code == 2
    assert "gatway: unknown key; did you mean gateway?" in done.stderr
    assert "pools.p.num_replica: unknown key; did you mean num_replicas?" in done.stderr


def test_a_config_is_validated_as_a_whole(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "defaults: {autoscaling_config: {min_replicas: 3}}\n"
        "pools: {p: {tools: [x], autoscaling_config: {max_replicas: 2}}}\n"
        "prompts: [nowhere.yaml]\n"
        "resources: {doc://a: {name: a, path: nowhere.txt}}\n"
    )
    done = run("validate", str(path), "--json")
    problems = json.loads(done.stdout)["problems"]
    assert done.exit_code == 2
    for part in ("pools.p.autoscaling_config", "nowhere.yaml", "resources.doc://a"):
        assert any(part in problem for problem in problems), problems


def test_the_config_shows_each_setting_and_on_request_its_origin(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: lab\ngateway: {port: 9000}\npools: {p: {tools: [x]}}\n", "utf-8")
    assert "gateway.port\t9000\n" in run("config", "show", str(path)).stdout
    shown = run("config", "show", str(path), "--origin").stdout
    assert "gateway.port\t9000\tconfig\n" in shown
    assert "gateway.host\t127.0.0.1\tbuilt-in\n" in shown
    rows = json.loads(run("config", "show", str(path), "--origin", "--json").stdout)
    assert {"key": "gateway.port", "value": 9000, "origin": "config"} in rows


def test_the_schema_of_the_config_does_not_offer_what_the_loader_sets(run: Run) -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert "base_dir" not in schema["properties"]
    assert "gateway" in schema["properties"]


def test_help_does_not_wait_for_what_only_commands_need() -> None:
    script = (
        "import sys, thornback.deployments.cli;"
        "print(sorted({'ray', 'mcp', 'httpx', 'pydantic', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
