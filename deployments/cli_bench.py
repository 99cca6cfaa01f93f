"""`thornback bench`: how fast an MCP endpoint answers, ours or another's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

import typer

from thornback.cluster.errors import ThornbackError
from thornback.deployments.cli_call import open_client
from thornback.deployments.cli_output import JsonOption, hint, print_json, print_table
from thornback.deployments.cli_target import KeyFileOption, NameOption, UrlOption, key_of, url_of

if TYPE_CHECKING:
    from thornback.deployments.load import Figures, Load
    from thornback.deployments.mcp_client import McpClient

WARM_UP_S = 1.0


class Workload(NamedTuple):
    """What is asked, and by how many at a time."""

    method: str
    connections: tuple[int, ...]


WORKLOADS = {
    "echo": Workload("tools/call", (1, 16, 64, 256)),
    "sequential": Workload("tools/call", (1,)),
    "list": Workload("tools/list", (1, 16)),
}


Revision = Literal["2026-07-28", "2025-11-25", "2025-06-18"]
NOT_UNDERSTOOD = frozenset({400, 404, 405, 406, 415, 426, -32000, -32001, -32022, -32600})
"""HTTP statuses and JSON-RPC codes of servers that want another revision, or a session."""


class NotSpoken(ThornbackError):
    """The server refuses what a request of this revision is made of, whatever it asks for."""

    code = "bench.not_spoken"

    def __init__(self, revision: str, why: str) -> None:
        super().__init__(revision, why)
        self.revision = revision
        self.why = why

    def __str__(self) -> str:
        others = " or ".join(other for other in get_args(Revision) if other != self.revision)
        return (
            f"the server does not answer a request of MCP {self.revision} without a session "
            f"({self.why}). Check the URL, or try --revision {others}; a server that wants "
            "`initialize` and a session first cannot be measured until it runs stateless"
        )


class NotAnEcho(ThornbackError):
    """The tool does not answer with what it is given, so that its answers cannot be checked."""

    code = "bench.not_an_echo"

    def __init__(self, tool: str, argument: str) -> None:
        super().__init__(tool, argument)
        self.tool = tool
        self.argument = argument

    def __str__(self) -> str:
        return (
            f"the answer of {self.tool} does not hold its argument {self.argument}: a benchmark "
            "checks every answer by that. Name another tool with --tool and --argument"
        )


def bench(
    workload: Annotated[
        Literal["echo", "sequential", "list"],
        typer.Argument(
            help="echo: calls from 1 to 256 clients; sequential: from one; list: pages."
        ),
    ],
    tool: Annotated[
        str, typer.Option(help="A tool whose answer holds the text that it is given.")
    ] = "echo",
    argument: Annotated[str, typer.Option(help="Its argument that takes the text.")] = "text",
    connections: Annotated[
        list[int] | None,
        typer.Option("--connections", "-c", min=1, help="So many clients; again for more rows."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each row.")] = 5.0,
    revision: Annotated[
        Revision, typer.Option(help="Of MCP; the older ones without a session.")
    ] = "2026-07-28",
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an MCP endpoint, with a fresh text in each call and every answer checked.

    Opens no session: a server of an older --revision must be stateless. Exits with 1 if an answer
    is wrong or missing.

    Example: thornback bench echo --url http://127.0.0.1:8000/mcp
    """
    from thornback.deployments.load import Load

    given = WORKLOADS[workload]
    with open_client(url, name, key_file, revision) as client:
        _check(client, revision, given.method, tool, argument)
    target, key = url_of(url, name), key_of(key_file)
    rows = []
    for clients in connections or given.connections:
        load = Load(
            url=target,
            revision=revision,
            method=given.method,
            tools=(tool if given.method == "tools/call" else given.method,),
            arguments=_template(argument),
            expected="@" if given.method == "tools/call" else '"tools"',
            connections=clients,
            warm_up_s=WARM_UP_S,
            seconds=seconds,
        )
        rows.append(_row(clients, _generated(load, key)))
    if as_json:
        about = {"url": target, "revision": revision, "workload": workload}
        print_json({**about, "generator": _generator(), "rows": rows})
        return
    columns = ("connections", "calls/s", "p50 ms", "p90 ms", "p99 ms")
    print_table(columns, [[f"{cell:g}" for cell in row.values()] for row in rows])


def _check(client: McpClient, revision: str, method: str, tool: str, argument: str) -> None:
    """Ask once, to say in words what a load would only count as wrong."""
    from thornback.deployments.mcp_client import RefusedByCluster

    text = "thornback-bench-0."
    called = method == "tools/call"
    params = {"name": tool, "arguments": {argument: text}} if called else {}
    try:
        result = client.request(method, params)
    except RefusedByCluster as error:
        if error.number in NOT_UNDERSTOOD:
            raise NotSpoken(revision, str(error)) from error
        raise
    if not called:
        return
    if result.get("isError"):
        said = (part.get("text", "") for part in result.get("content", []))
        raise RefusedByCluster(0, f"{tool} failed: {' '.join(said)}")
    if text not in str(result):
        raise NotAnEcho(tool, argument)


def _template(argument: str) -> str:
    import json

    return json.dumps({argument: "@"})


def _generator() -> str:
    from thornback.deployments.load_wrk import has_wrk

    return "wrk" if has_wrk() else "python"


def _generated(load: Load, key: str | None) -> Figures:
    from thornback.deployments.load_python import run_python
    from thornback.deployments.load_wrk import HOW_TO_GET_IT, has_wrk, run_wrk

    if has_wrk():
        return run_wrk(load, key)
    hint(f"{HOW_TO_GET_IT}. Python makes the load instead: its own speed is a part of what follows")
    return asyncio.run(run_python(load, key))


def _row(connections: int, figures: Figures) -> dict[str, Any]:
    return {
        "connections": connections,
        "calls_per_s": round(figures.calls_per_s, 1),
        "p50_ms": figures.latency_ms(50),
        "p90_ms": figures.latency_ms(90),
        "p99_ms": figures.latency_ms(99),
    }
