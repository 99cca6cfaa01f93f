"""HTTP to `/mcp` as uvicorn serves it, with fewer steps: an answer leaves in one piece.

uvicorn writes the head of a response when it is given, and the body after it: two system calls
here, and two pieces that HAProxy reads and passes on one by one. ASGI lets a server keep the head
until there is a body ("must not start sending the response until it has received at least one
Response Body event"; ASGI HTTP, Response Start), and nearly all answers here are one body whose
length is known. Everything but plain requests for `/mcp` is uvicorn's own, as is all that is not
written here: parsing, timeouts, pipelining, streams.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from thornback.deployments.ingress import Ingress

MCP = b"/mcp"
_OF_A_CYCLE = frozenset(
    {
        "scope",
        "transport",
        "flow",
        "logger",
        "access_logger",
        "access_log",
        "default_headers",
        "message_event",
        "expect_100_continue",
        "keep_alive",
        "on_response",
    }
)


def fits() -> bool:
    """Whether this uvicorn is made as the one that this is written for: what is overridden here
    is no promise of its, and nothing that Thornback installs asks for one version."""
    made_of = inspect.signature(RequestResponseCycle).parameters.keys()
    return made_of == _OF_A_CYCLE and hasattr(HttpToolsProtocol, "_start_asgi_task")


class GatewayProtocol(HttpToolsProtocol):
    """One connection."""

    def on_headers_complete(self) -> None:
        gateway: Any = Ingress.gateway
        plain = self.url == MCP and gateway is not None and not self.root_path
        if not plain or self.parser.should_upgrade():
            super().on_headers_complete()
            return
        version, scope = self.parser.get_http_version(), self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"], scope["raw_path"], scope["query_string"] = "/mcp", MCP, b""
        before = self.cycle
        self.cycle = _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, gateway)
        else:  # as uvicorn does with requests that came before their time
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, gateway))


class _Cycle(RequestResponseCycle):
    """One request and its response."""

    _start: Any = None
    """What the response begins with, while it waits for the body."""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and not self.response_started:
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            body = message.get("body", b"")
            if self._is_whole(message) and (head := _head(start, self.default_headers, len(body))):
                self._write(head, body)
                return
            await super().send(start)
        await super().send(message)

    def _is_whole(self, message: Any) -> bool:
        """Whether this ends the response, with a body, and may be written now."""
        return not (
            message["type"] != "http.response.body"
            or message.get("more_body", False)
            or self.scope["method"] == "HEAD"
            or self.access_log
            or self.disconnected
            or self.flow.write_paused
        )

    def _write(self, head: bytes, body: bytes) -> None:
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self.transport.writelines((head, end, body))
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _head(start: Any, defaults: Iterable[tuple[bytes, bytes]], length: int) -> bytes | None:
    """The lines of a head that says no more of its body than how long it is; None: it says more.

    Args:
        length: Of the body, in bytes.
    """
    lines = [STATUS_LINE[start["status"]]]
    has_length = False
    for name, value in (*defaults, *start.get("headers", ())):
        if name == b"content-length":
            has_length = value == b"%d" % length
        elif name in (b"connection", b"transfer-encoding") or HEADER_VALUE_RE.search(value):
            return None
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines) if has_length else None
