"""The peer that `echo.py` measures against: an `MCPServer` under uvicorn in one process.

SSE default mode, as its documentation shows it; nothing of Thornback is imported.
"""

import sys

import uvicorn
from mcp.server.mcpserver import MCPServer

server = MCPServer("bare")


@server.tool()
async def echo(text: str) -> str:
    """Answer with the text it was given."""
    return text


if __name__ == "__main__":
    uvicorn.run(
        server.streamable_http_app(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
    )
