"""Tools that stream: how soon the first item is there, and how many come in a second.

Readers are threads of this process: all they do is look for events in what arrives.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.accounting import spent
from benchmarks.measuring import Measured, Point, check_count
from benchmarks.servers import Server
from thornback.deployments.load import FRESH, Load, WrongAnswers
from thornback.deployments.mcp_client import PROTOCOL_VERSION

FIRST_ITEM = "first item"
CHUNK_BYTES = 65536


class Stream(NamedTuple):
    """One call that was read to its end."""

    items: int
    first_item_s: float
    whole_s: float


def measure_stream(server: Server, point: Point, run: int) -> Measured:
    """Read streams of a server, one after the other on each connection, for `seconds`.

    Raises:
        WrongAnswers: items are missing, or out of order.
        CountDiffers: the tools counted other calls.
    """
    load = point.load
    counted = server.counted()
    read_stream(server.url, load)  # warm: connections, imports, code paths
    before, begin_s = server.usage(), time.monotonic()
    with ThreadPoolExecutor(load.connections) as threads:
        readers = [
            threads.submit(_read_until, server.url, load, begin_s + load.seconds)
            for _ in range(load.connections)
        ]
        streams = [stream for reader in readers for stream in reader.result()]
    took_s = time.monotonic() - begin_s
    after = server.usage()
    check_count(server, counted, len(streams) + 1)
    return Measured(
        server=server.name,
        point=point.label,
        run=run,
        calls=len(streams),
        seconds=took_s,
        latency_us={FIRST_ITEM: Counter(round(s.first_item_s * 1e6) for s in streams)},
        cpu_s=spent(before, after),
        unique_bytes=server.unique_bytes(),
        extra={"items_per_s": sum(s.items for s in streams) / took_s},
    )


def _read_until(url: str, load: Load, until_s: float) -> list[Stream]:
    streams = []
    while time.monotonic() < until_s:
        streams.append(read_stream(url, load))
    return streams


def read_stream(url: str, load: Load) -> Stream:
    """Call the tool of a load once, and read its items as they come.

    Raises:
        WrongAnswers: items are missing, or out of order.
    """
    (tool,), text = load.tools, f"{secrets.token_hex(4)}."
    arguments = json.loads(load.arguments.replace(FRESH, text))
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    begin_s = time.monotonic()
    first_s = 0.0
    said = bytearray()
    try:
        connection.request("POST", parts.path, *stream_request(tool, arguments))
        answer = connection.getresponse()
        while chunk := answer.read1(CHUNK_BYTES):
            said += chunk
            if not first_s and text.encode() in said:
                first_s = time.monotonic() - begin_s
    finally:
        connection.close()
    items = items_in(said.decode(), text)
    if answer.status != 200 or items != list(range(arguments["count"])):
        raise WrongAnswers(1, 0, 0, f"{answer.status} with {len(items)} items")
    return Stream(len(items), first_s, time.monotonic() - begin_s)


def items_in(said: str, text: str) -> list[int]:
    """The numbers of the items in the notifications of an event stream, as they came."""
    lines = (line for line in said.splitlines() if "notifications/progress" in line)
    found = (re.search(rf'"message":\s*"{re.escape(text)}(\d+)"', line) for line in lines)
    return [int(match[1]) for match in found if match]


class StreamCheck:
    """Looks at a stream of items as it comes, and keeps none of it."""

    def __init__(self, text: str) -> None:
        self.items = 0
        """That came one after the other, without a gap."""
        self.is_whole = False
        """Whether the final result has come."""
        self._item = re.compile(rb'"message":\s*"%s(\d+)"' % re.escape(text.encode()))
        self._rest = b""

    def take(self, piece: bytes) -> None:
        lines, found, self._rest = (self._rest + piece).rpartition(b"\n")
        for match in self._item.finditer(lines + found):
            self.items += int(match[1]) == self.items
        self.is_whole = self.is_whole or b'"isError":false' in lines.replace(b" ", b"")


def stream_request(tool: str, arguments: dict[str, object]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a call that asks for progress."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1,
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": PROTOCOL_VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    return json.dumps(body).encode(), headers
