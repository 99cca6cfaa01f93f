"""FastMCP under uvicorn, stateless, as its documentation shows it for production.

python fastmcp_server.py PORT
"""

import sys

import calls
import uvicorn
from fastmcp import Context, FastMCP

mcp = FastMCP("fastmcp")
for function in (calls.echo, calls.echo_later, calls.echo_padded):
    mcp.tool(function)
for number in range(10):
    mcp.tool(calls.echo, name=f"noop_{number}")


@mcp.tool
async def items(text: str, count: int, ctx: Context) -> str:
    """Report so many items as progress, each with the text and its number."""
    calls.count()
    for number in range(count):
        await ctx.report_progress(number, message=f"{text}{number}")
    return text


if __name__ == "__main__":
    uvicorn.run(
        mcp.http_app(stateless_http=True),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
