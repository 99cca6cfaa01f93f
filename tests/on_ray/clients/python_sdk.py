"""mcp 2.3, as its README shows it. argv: URL; stdin: {tool: arguments}."""

import asyncio
import json
import sys

from mcp import Client


async def main() -> None:
    calls = json.load(sys.stdin)
    async with Client(sys.argv[1]) as client:
        tools, cursor = [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            tools += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            if not cursor:
                break
        answers = {}
        for name, arguments in calls.items():
            result = await client.call_tool(name, arguments)
            answers[name] = {
                "isError": bool(result.is_error),
                "types": [block.type for block in result.content],
            }
        protocol = client.protocol_version
        print(json.dumps({"protocol": protocol, "tools": tools, "answers": answers}))


asyncio.run(main())
