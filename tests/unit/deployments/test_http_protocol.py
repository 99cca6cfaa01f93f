"""A client reads the same bytes of uvicorn's protocol and of ours, in fewer pieces."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.importer import import_from_string
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from thornback.deployments.http_protocol import GatewayProtocol
from thornback.deployments.ingress import PROTOCOL, Ingress, middlewares

POST = b"POST /mcp HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"
START = {"type": "http.response.start", "status": 200}
KNOWN_LENGTH = [(b"content-type", b"application/json"), (b"content-length", b"4")]


class Pieces(asyncio.Transport):
    """A connection whose other end reads what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.written.append(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class App:
    """Reads the request and answers with these messages; says what it was asked for."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = messages
        self.asked: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope)
        self.bodies.append((await receive())["body"])
        for message in self._messages:
            await send(message)


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {**START, "status": status, "headers": list(headers)}


def connected(
    kind: type[HttpToolsProtocol], app: Any
) -> tuple[HttpToolsProtocol, Pieces, set[Any]]:
    """A connection, its other end, and the requests that are answered."""
    config = uvicorn.Config(
        app, lifespan="off", proxy_headers=False, ws="none", access_log=False, log_config=None
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"server", b"uvicorn")]
    protocol, transport = kind(config, state, {}), Pieces()
    protocol.connection_made(transport)
    return protocol, transport, state.tasks


def served(kind: type[HttpToolsProtocol], app: Any, *requests: bytes) -> Pieces:
    """What one connection was answered that sent this."""

    async def serve() -> Pieces:
        protocol, transport, tasks = connected(kind, app)
        for request in requests:
            protocol.data_received(request)
        while tasks:
            await asyncio.wait(set(tasks))
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        return transport

    return asyncio.run(serve())


async def unread(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers before it reads."""
    for message in WHOLE:
        await send(message)
    await receive()


@contextlib.contextmanager
def gateway(app: Any) -> Iterator[None]:
    """The gateway of this process."""
    before, Ingress.gateway = Ingress.gateway, app
    try:
        yield
    finally:
        Ingress.gateway = before


WHOLE = (start(*KNOWN_LENGTH), body(b"true"))
REQUESTS = {
    "plain": POST,
    "closing": POST.replace(b"Host", b"Connection: close\r\nHost"),
    "of HTTP/1.0": POST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HEAD": b"HEAD /mcp HTTP/1.1\r\nHost: here\r\n\r\n",
    "with a query": POST.replace(b"/mcp", b"/mcp?a=b"),
    "with another path": POST.replace(b"/mcp", b"/mcp/"),
    "that waits to be told to go on": POST.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    "two at once": POST + POST,
    "broken": b"POST /mcp HTTP/1.1\r\nHost here\r\n\r\n",
}
ANSWERS: dict[str, tuple[dict[str, Any], ...]] = {
    "whole": WHOLE,
    "empty": (start((b"content-length", b"0"), status=202), body(b"")),
    "of unknown length": (start((b"content-type", b"text/plain")), body(b"true")),
    "without headers": (START, body(b"true")),
    "stream": (start(), body(b"one", more=True), body(b"two")),
    "that closes": (start(*KNOWN_LENGTH), body(b"true", more=True), body(b"")),
    "that says so": (start((b"connection", b"close"), *KNOWN_LENGTH), body(b"true")),
    "longer than it said": (start(*KNOWN_LENGTH), body(b"longer")),
    "with a broken header": (start((b"x", b"a\nb"), *KNOWN_LENGTH), body(b"true")),
    "never": (),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("messages", ANSWERS.values(), ids=ANSWERS)
def test_a_client_reads_what_it_would_of_uvicorn(
    request_: bytes, messages: tuple[dict[str, Any], ...]
) -> None:
    theirs = served(HttpToolsProtocol, App(*messages), request_)
    app = App(*messages)
    with gateway(app):
        ours = served(GatewayProtocol, app, request_)
    assert b"".join(ours.written) == b"".join(theirs.written)
    assert ours.closed == theirs.closed


def test_an_answer_of_known_length_leaves_in_one_piece() -> None:
    with gateway(App(*WHOLE)):
        ours = served(GatewayProtocol, App(), POST, POST)
    assert [piece.partition(b"\r\n\r\n")[2] for piece in ours.written] == [b"true", b"true"]


def test_an_application_that_gives_up_before_the_body_is_answered_for() -> None:
    with gateway(App(start(*KNOWN_LENGTH))):
        written = served(GatewayProtocol, App(), POST).written
    assert b"".join(written).startswith(b"HTTP/1.1 500 ")


def test_an_application_sees_what_it_would_of_uvicorn() -> None:
    theirs, ours = App(*WHOLE), App(*WHOLE)
    served(HttpToolsProtocol, theirs, POST)
    with gateway(ours):
        served(GatewayProtocol, App(), POST)
    assert ours.asked == theirs.asked
    assert ours.bodies == theirs.bodies == [b"{}"]


def test_what_is_not_for_the_gateway_goes_to_serve() -> None:
    serve, ours = App(*WHOLE), App(*WHOLE)
    with gateway(ours):
        served(GatewayProtocol, serve, POST.replace(b"/mcp", b"/-/healthz"))
    served(GatewayProtocol, serve, POST)  # a process without a gateway
    assert [scope["path"] for scope in serve.asked] == ["/-/healthz", "/mcp"]
    assert not ours.asked


def test_nobody_is_told_to_go_on_who_has_the_answer() -> None:
    request = REQUESTS["that waits to be told to go on"]
    theirs = served(HttpToolsProtocol, unread, request)
    with gateway(unread):
        ours = served(GatewayProtocol, App(), request)
    assert b"".join(ours.written) == b"".join(theirs.written)
    assert b"100 Continue" not in ours.written[-1]


def test_an_answer_waits_for_a_client_that_does_not_read() -> None:
    async def serve() -> tuple[list[bytes], list[bytes]]:
        protocol, transport, tasks = connected(GatewayProtocol, App())
        protocol.pause_writing()
        protocol.data_received(POST)
        await asyncio.wait(set(tasks), timeout=0.01)
        before = list(transport.written)
        protocol.resume_writing()
        await asyncio.wait(set(tasks))
        protocol.connection_lost(None)
        return before, transport.written

    with gateway(unread):
        before, after = asyncio.run(serve())
    assert not before
    assert b"".join(after).endswith(b"\r\n\r\ntrue")


def test_nothing_is_written_to_a_client_that_has_gone() -> None:
    async def serve() -> list[bytes]:
        protocol, transport, tasks = connected(GatewayProtocol, App())
        protocol.data_received(POST)
        protocol.connection_lost(None)
        await asyncio.wait(set(tasks))
        return transport.written

    with gateway(unread):
        assert not asyncio.run(serve())


def test_a_uvicorn_that_is_made_otherwise_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One before 0.45, say, which Ray and the SDK are content with."""
    own = "uvicorn.protocols.http.auto:AutoHTTPProtocol"
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", own)
    monkeypatch.delattr(HttpToolsProtocol, "_start_asgi_task")
    middlewares()
    assert HTTP_PROTOCOLS["auto"] == own


def test_servers_that_serve_makes_speak_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    middlewares()
    config = uvicorn.Config(App())
    config.load()
    assert config.http_protocol_class is GatewayProtocol is import_from_string(PROTOCOL)
