"""FastMCP's client, as its README shows it. argv: URL; stdin: {tool: arguments}."""

import asyncio
import json
import sys

from fastmcp import Client


async def main() -> None:
    calls = json.load(sys.stdin)
    async with Client(sys.argv[1]) as client:
        tools = [tool.name for tool in await client.list_tools()]
        answers = {}
        for name, arguments in calls.items():
            result = await client.call_tool(name, arguments, raise_on_error=False)
            answers[name] = {
                "isError": result.is_error,
                "types": [block.type for block in result.content],
            }
        print(json.dumps({"protocol": None, "tools": tools, "answers": answers}))


asyncio.run(main())
