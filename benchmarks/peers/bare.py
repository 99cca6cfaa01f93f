"""`MCPServer` of the official SDK under uvicorn, as its documentation shows it.

    python bare.py PORT [--json] [--workers N]

uvicorn takes uvloop and httptools by itself where they are installed; the access log is off.
"""

import argparse
import os

import calls
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette

JSON_VARIABLE = "BENCHMARK_PEER_JSON"
"""How worker processes, which import this module, learn of `--json`."""


def server() -> MCPServer:
    mcp = MCPServer("bare")
    for function in (calls.echo, calls.echo_later, calls.echo_padded, calls.work):
        mcp.add_tool(function)
    for number in range(10):
        mcp.add_tool(calls.echo, name=f"noop_{number}")

    @mcp.tool()
    async def items(text: str, count: int, ctx: Context) -> str:
        """Report so many items as progress, each with the text and its number."""
        calls.count()
        for number in range(count):
            await ctx.report_progress(number, message=f"{text}{number}")
        return text

    return mcp


def app() -> Starlette:
    return server().streamable_http_app(
        json_response=JSON_VARIABLE in os.environ, stateless_http=True
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.json:
        os.environ[JSON_VARIABLE] = "1"
    uvicorn.run(
        "bare:app",
        factory=True,
        host="127.0.0.1",
        port=given.port,
        workers=given.workers,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
