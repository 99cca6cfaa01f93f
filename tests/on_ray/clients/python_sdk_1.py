"""mcp 1.30, as its README shows it. argv: URL; stdin: {tool: arguments}."""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import PaginatedRequestParams


async def main() -> None:
    calls = json.load(sys.stdin)
    async with (
        streamable_http_client(sys.argv[1]) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        protocol = (await session.initialize()).protocolVersion
        tools, cursor = [], None
        while True:
            page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            tools += [tool.name for tool in page.tools]
            cursor = page.nextCursor
            if not cursor:
                break
        answers = {}
        for name, arguments in calls.items():
            result = await session.call_tool(name, arguments)
            answers[name] = {
                "isError": result.isError,
                "types": [block.type for block in result.content],
            }
        print(json.dumps({"protocol": protocol, "tools": tools, "answers": answers}))


asyncio.run(main())
