import json
from collections.abc import Callable

import httpx
import pytest
from typer.testing import CliRunner, Result

from thornback.deployments import cli_bench, load_python, load_wrk
from thornback.deployments.cli import app
from thornback.deployments.load import Figures, Load
from thornback.deployments.mcp_client import McpClient

URL = "http://there.test/mcp"
Run = Callable[..., Result]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Load]:
    """What the load generator was asked for; it meets 1,000 calls/s of 2 ms."""
    asked: list[Load] = []

    def run_wrk(load: Load, key: str | None) -> Figures:
        asked.append(load)
        times = {load.tools[0]: {2000: int(1000 * load.seconds)}}
        return Figures(answered=1, seconds=load.seconds, latency_us=times)

    monkeypatch.setattr(load_wrk, "has_wrk", lambda: True)
    monkeypatch.setattr(load_wrk, "run_wrk", run_wrk)
    return asked


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `thornback bench` against a server that answers each call with `answer`."""

    def run(
        *words: str,
        answer: str | None = None,
        failed: bool = False,
        refusal: httpx.Response | None = None,
    ) -> Result:
        def respond(request: httpx.Request) -> httpx.Response:
            if refusal is not None:
                return refusal
            if request.headers["mcp-protocol-version"] not in words and "--revision" in words:
                return httpx.Response(400)
            if json.loads(request.content)["method"] == "tools/list":
                return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": {}})
            (text,) = json.loads(request.content)["params"]["arguments"].values()
            content = [{"type": "text", "text": text if answer is None else answer}]
            return httpx.Response(
                200,
                json={
                    "jsonrpc": "2.0",
                    "id": 1,
                    "result": {"content": content, "isError": failed},
                },
            )

        def open_client(url: str, name: None, key_file: None, revision: str) -> McpClient:
            return McpClient(URL, None, httpx.MockTransport(respond), revision)

        monkeypatch.setattr(cli_bench, "open_client", open_client)
        return CliRunner().invoke(app, ["bench", *words, "--url", URL])

    return run


def test_echo_is_measured_from_one_client_to_many(run: Run, loads: list[Load]) -> None:
    result = run("echo", "--tool", "say", "--argument", "words")
    assert result.exit_code == 0
    assert [load.connections for load in loads] == [1, 16, 64, 256]
    assert {(load.url, load.tools, load.arguments) for load in loads} == {
        (URL, ("say",), '{"words": "@"}')
    }
    assert result.stdout.splitlines()[0].split("\t") == ["1", "1000", "2", "2", "2"]


def test_programs_get_json(run: Run, loads: list[Load]) -> None:
    told = json.loads(run("echo", "-c", "8", "--seconds", "2", "--json").stdout)
    assert told["generator"] == "wrk"
    assert told["rows"] == [
        {"connections": 8, "calls_per_s": 1000.0, "p50_ms": 2.0, "p90_ms": 2.0, "p99_ms": 2.0}
    ]


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25", "2025-06-18"])
@pytest.mark.parametrize("workload", ["echo", "list"])
def test_a_server_is_asked_in_the_revision_that_it_speaks(
    run: Run, loads: list[Load], workload: str, revision: str
) -> None:
    told = json.loads(run(workload, "-c", "1", "--revision", revision, "--json").stdout)
    assert told["revision"] == revision
    assert [load.revision for load in loads] == [revision]


OLD = {"jsonrpc": "2.0", "id": "server-error"}


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(404, text="Not Found"),
        httpx.Response(
            400, json={**OLD, "error": {"code": -32600, "message": "Missing session ID"}}
        ),
        httpx.Response(
            400, json={**OLD, "error": {"code": -32000, "message": "Unsupported version"}}
        ),
    ],
    ids=["no endpoint", "a session is wanted", "another version is wanted"],
)
@pytest.mark.parametrize("workload", ["echo", "list"])
def test_who_meets_a_server_of_another_revision_is_told_what_to_do(
    run: Run, loads: list[Load], workload: str, refusal: httpx.Response
) -> None:
    result = run(workload, refusal=refusal)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "does not answer a request of MCP 2026-07-28 without a session" in said
    assert "try --revision 2025-11-25 or 2025-06-18" in said
    assert loads == []


def test_other_refusals_are_told_as_they_are(run: Run, loads: list[Load]) -> None:
    error = {"code": -32602, "message": "unknown tool echo"}
    result = run("echo", refusal=httpx.Response(400, json={**OLD, "error": error}))
    assert result.exit_code == 1
    assert "unknown tool echo" in result.stderr
    assert "--revision" not in result.stderr


def test_a_list_needs_no_tool(run: Run, loads: list[Load]) -> None:
    assert run("list", answer="never asked").exit_code == 0
    assert {load.method for load in loads} == {"tools/list"}


def test_a_tool_whose_answers_cannot_be_checked_is_not_measured(
    run: Run, loads: list[Load]
) -> None:
    result = run("echo", answer="42")
    assert result.exit_code == 1
    assert "--tool" in result.stderr
    assert loads == []


def test_what_a_tool_says_against_it_is_told(run: Run, loads: list[Load]) -> None:
    result = run("echo", "--tool", "nope", answer="there is no nope", failed=True)
    assert result.exit_code == 1
    assert "nope failed: there is no nope" in result.stderr
    assert loads == []


def test_without_wrk_python_makes_the_load_and_says_so(
    run: Run, loads: list[Load], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_python(load: Load, key: str | None) -> Figures:
        return Figures(answered=1, seconds=1.0, latency_us={"echo": {3000: 7}})

    monkeypatch.setattr(load_wrk, "has_wrk", lambda: False)
    monkeypatch.setattr(load_python, "run_python", run_python)
    result = run("sequential", "--json")
    assert json.loads(result.stdout)["generator"] == "python"
    assert json.loads(result.stdout)["rows"][0]["p50_ms"] == 3.0
    assert "apt-get install wrk" in result.stderr
    assert loads == []
