"""The official client, unchanged, over a socket."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import mcp
import mcp.types as wire
import pytest
import uvicorn

from tests.protocol import tools_under_test
from tests.protocol.gateways import Cluster, offered

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def served() -> Iterator[str]:
    """A gateway on a port of this machine; gives its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        cluster = Cluster([tools_under_test], offered(), config={"port": port, "page_size": 3})
        config = uvicorn.Config(cluster.gateway().app, log_level="warning", lifespan="on")  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.mark.requirement("clients:official")
@pytest.mark.parametrize(("mode", "revision"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_the_official_client_works(mode: str, revision: str) -> None:
    told: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(done)

    with served() as url:
        async with mcp.Client(url, mode=mode) as client:  # type: ignore[arg-type]
            assert client.protocol_version == revision
            page = await client.list_tools()
            names = [tool.name for tool in page.tools]
            while page.next_cursor:
                page = await client.list_tools(cursor=page.next_cursor)
                names += [tool.name for tool in page.tools]
            assert names == sorted(names)
            assert len(names) == 7
            result = await client.call_tool("steps", {}, progress_callback=progress)
            assert result.structured_content == {"result": "done"}
            assert told == [1, 2, 3]
            content = (await client.read_resource("test://readme")).contents[0]
            assert isinstance(content, wire.TextResourceContents)
            assert content.text == "# Read me"
            with pytest.raises(mcp.MCPError, match="Unknown tool: nope"):
                await client.call_tool("nope", {})


@pytest.mark.requirement("clients:official")
async def test_the_official_client_answers_what_a_prompt_asks() -> None:
    async def fill_in(_: object, __: object) -> wire.ElicitResult:
        return wire.ElicitResult(action="accept", content={"name": "Ada"})

    with served() as url:
        async with mcp.Client(url, elicitation_callback=fill_in) as client:
            prompt = await client.get_prompt("ask", {})
    content = prompt.messages[0].content
    assert isinstance(content, wire.TextContent)
    assert content.text == "Hello Ada"
