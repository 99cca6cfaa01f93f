"""CPU of a gateway for each request, without a cluster: the ASGI application, driven in process.

    python benchmarks/edge.py [--seconds 1] [--rounds 3] [--profile hot]

The same request goes down both paths of `/mcp`, the hot one and the SDK's kernel, and to a bare
`MCPServer` in its default mode; no sockets, no HTTP parser, no Ray. The tool's pool answers at
once, after one turn of the loop. Figures are microseconds of CPU of this process for each request,
less what the driver itself takes, medians over rounds that alternate; access lines are written to
/dev/null.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import pstats
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from mcp.server.mcpserver import MCPServer

from thornback.cluster.catalog import Catalog, PoolEntry
from thornback.cluster.config import GatewayConfig
from thornback.cluster.messages import WIRE_VERSION, CallMessage, Complete, Outcome
from thornback.deployments.access_log import log_to_output
from thornback.deployments.clock import SystemClock
from thornback.deployments.flight import Emit
from thornback.deployments.gateway import assemble
from thornback.deployments.listen import Listening
from thornback.deployments.running_calls import RunningCalls
from thornback.tools import benchmark
from thornback.tools.definition import tools_of

CONNECTIONS = (1, 64)
HOST = b"127.0.0.1:8000"
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
ANSWER = b'{"content":[{"type":"text","text":"hello"}],"structuredContent":{"result":"hello"}}'

App = Callable[[Any, Any, Any], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--profile", metavar="SIDE", help="of one side: where its time goes")
    options = parser.parse_args()
    write_access_lines_to_nowhere()
    asyncio.run(measure(options.seconds, options.rounds, options.profile))


async def measure(seconds: float, rounds: int, profiled: str | None) -> None:
    async with AsyncExitStack() as stack:
        sides = await sides_of(stack)
        if profiled is not None:
            await profile(sides[profiled], seconds)
            return
        print("| method | connections | " + " | ".join(f"{side} us" for side in sides) + " |")
        print("|---|---" + "|---" * len(sides) + "|")
        for method in ("tools/call", "tools/list", "server/discover"):
            for connections in CONNECTIONS:
                request = request_of(method)
                taken: dict[str, list[float]] = {side: [] for side in ("driver", *sides)}
                for _ in range(rounds):
                    for side, app in {"driver": answer_nothing, **sides}.items():
                        taken[side].append(await cpu_us(app, request, connections, seconds))
                median = {side: statistics.median(figures) for side, figures in taken.items()}
                cells = [f"{median[side] - median['driver']:.0f}" for side in sides]
                print(f"| {method} | {connections} | " + " | ".join(cells) + " |", flush=True)


async def sides_of(stack: AsyncExitStack) -> dict[str, App]:
    server = MCPServer("bare")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    bare = server.streamable_http_app()
    await stack.enter_async_context(server.session_manager.run())
    logging.disable(logging.NOTSET)
    return {"hot": gateway(), "kernel": gateway(with_hot_path=False), "bare": bare}


class Pools:
    """A pool whose every call is answered at the loop's next turn."""

    name = "benchmark"

    def get(self, entry: PoolEntry) -> Pools:
        return self

    async def call(self, message: CallMessage, emit: Emit) -> Outcome:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Outcome] = loop.create_future()
        loop.call_soon(answered.set_result, Complete(WIRE_VERSION, ANSWER, False))
        return await answered


class Catalogs:
    def __init__(self) -> None:
        pool = PoolEntry(name="benchmark", application="benchmark", modules=())
        specs = [tool.spec(pool.name) for tool in tools_of(benchmark)]
        tools = {spec.key: spec for spec in specs}
        self.catalog = Catalog("sto_benchmark", 1, 1, {"tools": tools, "pools": {pool.name: pool}})


def gateway(**options: Any) -> App:
    nothing: Any = None
    return assemble(
        GatewayConfig(),
        anonymous=True,
        audience="benchmark",
        gateway="gateway",
        keys=[b"k" * 32],
        catalogs=Catalogs(),
        pools=Pools(),
        contents=nothing,
        uploads=nothing,
        listening=Listening(),
        running=RunningCalls(),
        pass_on_cancel=nothing,
        observe=nothing,
        clock=SystemClock(),
        **options,
    )


def request_of(method: str) -> tuple[dict[str, Any], bytes]:
    """A scope and a body as wrk sends them through HAProxy."""
    about = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
    params: dict[str, Any] = {"_meta": about}
    headers = [
        (b"host", HOST),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json, text/event-stream"),
        (b"mcp-protocol-version", MODERN.encode()),
        (b"mcp-method", method.encode()),
        (b"x-forwarded-for", b"127.0.0.1"),
    ]
    if method == "tools/call":
        params = {"name": "echo", "arguments": {"text": "hello"}, **params}
        headers.append((b"mcp-name", b"echo"))
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    body = json.dumps(message, separators=(",", ":")).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    scope = {"type": "http", "method": "POST", "path": "/mcp", "root_path": "", "query_string": b""}
    return {**scope, "headers": headers}, body


async def cpu_us(
    app: App, request: tuple[dict[str, Any], bytes], connections: int, seconds: float
) -> float:
    """Microseconds of CPU for each request, from so many clients with one request at a time."""
    scope, body = request
    done = 0
    until = time.monotonic() + 0.05

    async def client() -> None:
        nonlocal done
        while time.monotonic() < until:
            await Connection(body).ask(app, scope)
            done += 1

    await asyncio.gather(*(client() for _ in range(connections)))  # warm
    done, until = 0, time.monotonic() + seconds
    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(connections)))
    return (time.process_time() - began) * 1e6 / done


class Connection:
    """One request and its answer, as an ASGI server has them."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._status = 0
        self._answer = b""
        self._over = asyncio.get_running_loop().create_future()

    async def ask(self, app: App, scope: Mapping[str, Any]) -> None:
        """
        Raises:
            SystemExit: the answer is wrong: such figures mean nothing.
        """
        await app(dict(scope), self._receive, self._send)
        if (
            self._status != 200
            or b'"result"' not in self._answer
            or b'"isError":true' in self._answer
        ):
            raise SystemExit(f"{self._status}: {self._answer!r}")

    async def _receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            return
        self._answer += message.get("body", b"")
        if not message.get("more_body") and not self._over.done():
            self._over.set_result(None)


async def answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'{"result":{}}'})


def write_access_lines_to_nowhere() -> None:
    sys.__stdout__ = open("/dev/null", "w")  # type: ignore[misc]  # noqa: SIM115
    log_to_output()


async def profile(app: App, seconds: float) -> None:
    request = request_of("tools/call")
    with cProfile.Profile() as profiler:
        await cpu_us(app, request, 64, seconds)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
