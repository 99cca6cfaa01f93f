"""HTTP/1.1 as bytes: what no client library would send, and answers as they arrive.

Used where a library would repair, refuse or repeat a request. Answers that no client could read are
errors here: `ProtocolViolation`, or `OSError` and `EOFError` for a connection that was cut.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
MAX_HEAD_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024


class ProtocolViolation(Exception):
    """What came is not HTTP."""


class Answer(NamedTuple):
    """One response, whole."""

    status: int
    headers: dict[str, str]
    """By lower-case name; the last of several."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> dict[str, Any]:
        assert "result" in self.json, self
        result: dict[str, Any] = self.json["result"]
        return result

    @property
    def error(self) -> dict[str, Any]:
        assert "error" in self.json, self
        error: dict[str, Any] = self.json["error"]
        return error


class Connection:
    """One TCP connection to a port of this machine.

    Plain sockets: asyncio's streams forget what has arrived as soon as a send fails, and an answer
    to a request that is still being sent is just that.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._arrived = bytearray()

    @classmethod
    async def open(cls, port: int) -> Self:
        """
        Raises:
            OSError: if nobody listens there.
        """
        connecting = socket.socket()
        connecting.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
        except BaseException:
            connecting.close()
            raise
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connecting)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def end_of_input(self) -> None:
        """Send no more, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def answer(self, *, to: str = "POST") -> Answer:
        """The next response.

        Args:
            to: Method of the request, because a response to HEAD has no body.

        Raises:
            OSError, EOFError: if the connection ended before the response did.
            ProtocolViolation: if what came is not a response.
        """
        while True:
            status, headers = await self._head()
            if status >= 200:
                break
        return Answer(status, headers, b"" if to == "HEAD" else await self._body(status, headers))

    async def exchange(self, request: bytes) -> Answer:
        await self.send(request)
        return await self.answer()

    async def until(self, text: bytes) -> None:
        """Wait until what has arrived, and was not read yet, holds `text`."""
        while text not in self._arrived:
            await self._receive()

    async def rest(self) -> bytes:
        """Everything until the other end closes the connection."""
        try:
            while True:
                await self._receive()
        except (OSError, EOFError):
            return bytes(self._arrived)

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self._socket, PIECE_BYTES)
        if not data:
            raise EOFError("the connection ended")
        self._arrived += data

    async def _exactly(self, size: int) -> bytes:
        while len(self._arrived) < size:
            await self._receive()
        data = bytes(self._arrived[:size])
        del self._arrived[:size]
        return data

    async def _through(self, end: bytes) -> bytes:
        while (found := self._arrived.find(end)) < 0:
            if len(self._arrived) > MAX_HEAD_BYTES:
                raise ProtocolViolation(bytes(self._arrived[:80]))
            await self._receive()
        return await self._exactly(found + len(end))

    async def _head(self) -> tuple[int, dict[str, str]]:
        head = await self._through(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.0", "HTTP/1.1") or not rest[:3].isdigit():
            raise ProtocolViolation(first[:80])
        pairs = (line.partition(":") for line in lines)
        return int(rest[:3]), {name.lower(): value.strip() for name, _, value in pairs}

    async def _body(self, status: int, headers: Mapping[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if "chunked" in headers.get("transfer-encoding", ""):
            pieces = []
            while size := int((await self._through(b"\r\n")).split(b";")[0], 16):
                pieces.append(await self._exactly(size))
                await self._exactly(2)
            await self._through(b"\r\n")
            return b"".join(pieces)
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        return await self.rest()


class Target(NamedTuple):
    """Where requests go, and who sends them."""

    port: int
    """That a connection is made to: the front door's or a gateway's own."""
    host: str
    """`Host` header: the front door's, whichever port it is."""
    key: str | None = None

    def request(
        self,
        body: bytes = b"",
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "POST",
        path: str = "/mcp",
    ) -> bytes:
        """A request with the usual headers; given ones change them, None removes one."""
        usual: dict[str, str | None] = {
            "Host": self.host,
            "Authorization": None if self.key is None else f"Bearer {self.key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Content-Length": str(len(body)),
        }
        merged = {**usual, **(headers or {})}
        pairs = [(name, value) for name, value in merged.items() if value is not None]
        return head(method, path, pairs) + body

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        rpc_id: int | str = 1,
        headers: Mapping[str, str | None] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A request of 2026-07-28."""
        about = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}, **(meta or {})}
        full = {**(params or {}), "_meta": about}
        message = {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": full}
        routing: dict[str, str | None] = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method}
        if method in NAMED_BY:
            routing["Mcp-Name"] = str(full[NAMED_BY[method]])
        return self.request(json.dumps(message).encode(), {**routing, **(headers or {})})

    def tool(self, name: str, arguments: Mapping[str, Any], *, rpc_id: int | str = 1) -> bytes:
        return self.call("tools/call", {"name": name, "arguments": arguments}, rpc_id=rpc_id)

    async def ask(self, request: bytes, timeout_s: float = 10) -> Answer:
        """One exchange on a connection of its own."""
        async with asyncio.timeout(timeout_s), await Connection.open(self.port) as connection:
            return await connection.exchange(request)


def head(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request, exactly so."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
