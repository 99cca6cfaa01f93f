"""What HTTP itself decides, before anything is understood: who may knock, with what, how large.

Headers in, a verdict out, and the body read to its limit. Nothing here knows a method of MCP, a
caller or a tool. A request that is refused is first read to a bound, because a client that still
sends does not read the answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from thornback.cluster.errors import HeaderMismatch, HttpRefusal, InvalidRequest
from thornback.deployments.at_once import AtOnceOrWithin
from thornback.deployments.clock import Clock

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]

MAX_HEADER_BYTES = 32 * 1024
MAX_DRAINED_BYTES = 8 * 1024 * 1024
"""Of a body that is refused: read so that the client can read the answer."""
BODY_PAUSE_S = 30.0
"""Longest pause between two pieces of a body."""
BODY_TIMEOUT_S = 60.0
"""Longest that the body of a request may take as a whole: 70 kB/s for the largest by default."""
DRAIN_TIMEOUT_S = 5.0

JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"

SINGLE_HEADERS = frozenset(
    {
        "authorization",
        "content-length",
        "content-type",
        "host",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "origin",
    }
)
"""Of two copies, two readers would believe different ones."""
ROUTING_HEADERS = frozenset({"mcp-method", "mcp-name", "mcp-protocol-version"})
PARAM_PREFIX = "mcp-param-"
SERVE_SWITCHES = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Ray Serve obeys these from any client, and they switch off our deadlines and cancellation."""


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Headers(dict[str, str]):
    """The headers of one request, by lower-case name; none that must be single came twice."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        """
        Raises:
            HttpRefusal: 431 for too many bytes, 401 for two keys, 400 for other doubled headers.
            HeaderMismatch: if a header that says what the request is about came twice.
        """
        self.pairs: Sequence[tuple[str, str]] = [
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw
        ]
        """Every line of the header, as it came."""
        if sum([len(name) + len(value) for name, value in self.pairs]) > MAX_HEADER_BYTES:
            raise HttpRefusal(431, f"headers are larger than {MAX_HEADER_BYTES} bytes")
        super().__init__(self.pairs)
        if len(self) < len(self.pairs):
            _check_doubled(self.pairs)


def _check_doubled(pairs: Sequence[tuple[str, str]]) -> None:
    counts = Counter(name for name, _ in pairs)
    for name in sorted(counts):
        single = name in SINGLE_HEADERS or name.startswith(PARAM_PREFIX)
        if counts[name] > 1 and single:
            _refuse_doubled(name)


def _refuse_doubled(name: str) -> None:
    why = f"{name} header appears more than once"
    if name in ROUTING_HEADERS or name.startswith(PARAM_PREFIX):
        raise HeaderMismatch(why)
    if name == "authorization":
        challenge = 'Bearer realm="thornback", error="invalid_request"'
        raise HttpRefusal(401, why, {"WWW-Authenticate": challenge})
    raise HttpRefusal(400, why)


class Neighbours:
    """Whose `Host` and `Origin` are accepted: exact spellings, nothing by pattern.

    A page of a foreign site can make its name resolve to this machine and have a browser call us;
    what gives it away are these two headers.
    """

    def __init__(
        self, host: str, port: int, hosts: Sequence[str] = (), origins: Sequence[str] = ()
    ) -> None:
        """
        Args:
            host: Address that the front listens on; a wildcard stands for no name.
            port: Port that clients connect to, which is not the port of a replica behind HAProxy.
            hosts: Further `Host` headers, with port where it is not the scheme's.
            origins: Further `Origin` headers.
        """
        names = ["127.0.0.1", "localhost", "[::1]", *_own_name(host)]
        own = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
        self._hosts = own | set(hosts)
        self._origins = {f"http://{name}" for name in own} | set(origins)

    def check(self, headers: Mapping[str, str]) -> None:
        """
        Raises:
            HttpRefusal: 421 for a `Host`, 403 for an `Origin` that is not on the list.
        """
        if headers.get("host") not in self._hosts:
            raise HttpRefusal(421, "Host is not one that this cluster answers for")
        if "origin" in headers and headers["origin"] not in self._origins:
            raise HttpRefusal(403, "Origin is not allowed")


def _own_name(host: str) -> list[str]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [host] if host else []
    if address.is_unspecified:
        return []
    return [f"[{address}]" if address.version == 6 else str(address)]


def check_post(headers: Mapping[str, str]) -> None:
    """What a POST must say about its body and the answer it can read.

    Raises:
        HttpRefusal: 415 for a body that is not plain JSON, 406 for a client that cannot read both
            forms of answer, 400 for switches of Ray Serve and for two lengths of one body.
    """
    for switch in SERVE_SWITCHES:
        if switch in headers:
            raise HttpRefusal(400, f"{switch} is not for clients of this cluster")
    if "transfer-encoding" in headers and "content-length" in headers:
        raise HttpRefusal(400, "content-length and transfer-encoding exclude each other")
    if not _is_plain_json(headers.get("content-type", "")):
        raise HttpRefusal(415, f"Content-Type must be {JSON_TYPE}")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpRefusal(415, "Content-Encoding is not supported", {"Accept-Encoding": "identity"})
    if not _reads_both_forms(headers.get("accept", "*/*")):
        raise HttpRefusal(406, f"Accept must name {JSON_TYPE} and {STREAM_TYPE}")


# Nearly all clients spell these two headers in one of a few ways.


@lru_cache(maxsize=64)
def _is_plain_json(content_type: str) -> bool:
    kind, _, parameters = content_type.partition(";")
    charset = parameters.replace(" ", "").lower()
    return kind.strip().lower() == JSON_TYPE and charset in (
        "",
        'charset="utf-8"',
        "charset=utf-8",
    )


@lru_cache(maxsize=64)
def _reads_both_forms(accept: str) -> bool:
    return _accepts(accept, JSON_TYPE) and _accepts(accept, STREAM_TYPE)


def _accepts(accept: str, media_type: str) -> bool:
    wanted = {media_type, media_type.partition("/")[0] + "/*", "*/*"}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        refused = any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00") for p in parameters)
        if kind in wanted and not refused:
            return True
    return False


async def read_body(
    receive: Receive, headers: Mapping[str, str], max_bytes: int, clock: Clock
) -> bytes:
    """The whole body.

    Raises:
        HttpRefusal: 413 for one larger than `max_bytes`, after it was drained to a bound; 408 for
            one that stopped coming, or still came after `BODY_TIMEOUT_S`.
        ClientGone: if the client went away.
    """
    if _said_length(headers) > max_bytes:
        await drain(receive)
        raise _too_large(max_bytes)
    latest = clock.monotonic() + BODY_TIMEOUT_S
    pieces, size, more = [], 0, True
    while more:
        piece, more = await next_piece(receive, clock, latest)
        size += len(piece)
        if size > max_bytes:
            if more:
                await drain(receive, size)
            raise _too_large(max_bytes)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def next_piece(receive: Receive, clock: Clock, latest: float) -> tuple[bytes, bool]:
    """What comes next of a body, and whether more follows.

    Args:
        receive: ASGI's.
        clock: What `latest` is on.
        latest: When the whole body must be here.

    Raises:
        HttpRefusal: 408 if the body stops coming, or still comes after `latest`.
        ClientGone: if the client went away.
    """
    try:
        message = await AtOnceOrWithin(BODY_PAUSE_S, receive())
    except TimeoutError:
        raise HttpRefusal(408, "the body stopped coming", {"Connection": "close"}) from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    if clock.monotonic() > latest:
        raise HttpRefusal(408, "the body came too slowly", {"Connection": "close"})
    return message.get("body", b""), message.get("more_body", False)


def ending(receive: Receive) -> Receive:
    """A `receive` that says once more that the body is at its end, where ASGI's would wait for the
    client to leave: it may be drained by who does not know how far it was read."""
    end: Mapping[str, Any] | None = None

    async def next_message() -> Mapping[str, Any]:
        nonlocal end
        if end is not None:
            return end
        message = await receive()
        if not message.get("more_body", False):
            end = {"type": message["type"]}
        return message

    return next_message


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def drain(receive: Receive, size: int = 0) -> None:
    """Read what is left of a body and forget it, up to `MAX_DRAINED_BYTES` and a few seconds."""
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while size <= MAX_DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _said_length(headers: Mapping[str, str]) -> int:
    said = headers.get("content-length", "0")
    if not (said.isascii() and said.isdigit()):
        raise InvalidRequest("Content-Length is not a number")
    return int(said[:20])


def _too_large(max_bytes: int) -> HttpRefusal:
    why = f"the body is larger than {max_bytes} bytes"
    return HttpRefusal(413, why, {"Connection": "close"})
