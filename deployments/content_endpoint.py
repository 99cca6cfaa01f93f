"""`/resources/sha256/<hex>` in HTTP: PUT, GET, HEAD and DELETE of the resources that callers put.

The rules are `uploads.py`'s; here are methods, headers, ranges and bodies in pieces. What callers
put is served so that no browser runs it in this origin.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import parse_qsl

import msgspec

from thornback.cluster.catalog import ResourceSpec
from thornback.cluster.errors import HttpRefusal, StoreError, ThornbackError
from thornback.cluster.ids import new_id
from thornback.cluster.protocol import rpc_error
from thornback.deployments.access_log import AccessRecord, recorded
from thornback.deployments.clock import Clock
from thornback.deployments.http_edge import (
    ClientGone,
    Headers,
    Neighbours,
    Receive,
    Scope,
    drain,
    ending,
    next_piece,
)
from thornback.deployments.mcp_endpoint import Catalogs, caller_of
from thornback.deployments.replies import Answer, Send, send_answer
from thornback.deployments.request_ids import request_id_of, telling
from thornback.deployments.uploads import Uploads, too_large

PATH = "/resources/sha256/"
METHODS = ("DELETE", "GET", "HEAD", "PUT")
PIECE_BYTES = 256 * 1024
MAX_PARAMETERS = 16
UPLOAD_TIMEOUT_S = 600.0
"""Longest that a body may take as a whole: few contents can arrive at a time, so that slow senders
would keep all others out."""

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)

logger = logging.getLogger(__name__)


class ContentEndpoint:
    """Answers HTTP requests below `PATH`."""

    def __init__(
        self,
        uploads: Uploads,
        neighbours: Neighbours,
        catalogs: Catalogs,
        clock: Clock,
        *,
        anonymous: bool,
        gateway: str,
        tell_request_ids: bool = True,
    ) -> None:
        """
        Args:
            anonymous: Whether everybody is `anonymous`.
            gateway: Name of this gateway in the access log.
            tell_request_ids: Whether responses name their requests.
        """
        self._uploads = uploads
        self._neighbours = neighbours
        self._catalogs = catalogs
        self._clock = clock
        self._anonymous = anonymous
        self._gateway = gateway
        self._tell_request_ids = tell_request_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, receive = scope["method"], ending(receive)
        request_id = request_id_of(scope)
        if self._tell_request_ids:
            send = telling(send, request_id)
        with recorded(self._clock, self._gateway, request_id) as record:
            record.method, record.name = f"resources {method}", scope["path"]
            try:
                await self._answer(scope, receive, send, record)
            except ThornbackError as error:
                await drain(receive)
                answer = _refusal(error)
                record.status, record.error = answer.status, error.code
                await send_answer(send, answer)
            except ClientGone:
                raise
            except Exception:
                error_id = new_id("err")
                about = {"request_ids": [request_id]}
                logger.exception("%s of a resource failed (%s)", method, error_id, extra=about)
                record.status, record.error = 500, "internal"
                await send_answer(send, _error(500, f"Internal error ({error_id})", "internal"))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: AccessRecord
    ) -> None:
        headers = Headers(scope["headers"])
        self._neighbours.check(headers)
        caller = caller_of(headers, self._catalogs.catalog, anonymous=self._anonymous)
        record.principal = caller.principal.name
        sha256 = scope["path"].removeprefix(PATH)
        about = _parameters(scope["query_string"])
        record.status = 200
        match scope["method"]:
            case "PUT":
                record.status = 201
                self._check_length(headers)
                body = _body(receive, headers, self._clock)
                spec = await self._uploads.upload(caller, sha256, about, body)
                await send_answer(send, _json(201, _wire(spec)))
            case "GET" | "HEAD":
                await drain(receive)
                spec, data = await self._uploads.download(caller, sha256)
                record.status = await _send_content(send, spec, data, headers, scope["method"])
            case "DELETE":
                await drain(receive)
                gone = await self._uploads.withdraw(caller, sha256, about.get("uri"))
                await send_answer(send, _json(200, {"withdrawn": gone}))
            case _:
                raise HttpRefusal(405, "use PUT, GET or DELETE", {"Allow": ", ".join(METHODS)})

    def _check_length(self, headers: Headers) -> None:
        """Refuse what says itself that it is too large; `Uploads` counts what comes."""
        said = headers.get("content-length", "")
        if said.isdecimal() and int(said[:20]) > self._uploads.max_bytes:
            raise too_large(self._uploads.max_bytes)


async def _body(receive: Receive, headers: Mapping[str, str], clock: Clock) -> AsyncIterator[bytes]:
    """A request's body as it comes.

    Raises:
        HttpRefusal: 408 if it stops coming or takes too long, 415 if it is encoded.
        ClientGone: if the client goes away before its end.
    """
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpRefusal(415, "Content-Encoding is not supported", {"Accept-Encoding": "identity"})
    latest = clock.monotonic() + UPLOAD_TIMEOUT_S
    more = True
    while more:
        piece, more = await next_piece(receive, clock, latest)
        if piece:
            yield piece


async def _send_content(
    send: Send, spec: ResourceSpec, data: bytes, headers: Mapping[str, str], method: str
) -> int:
    """Write content, or the range of it that was asked for; gives the status."""
    found = _range_of(headers.get("range"), len(data))
    status, (start, end) = (200, (0, len(data))) if found is None else (206, found)
    said = {
        "content-type": spec.mime_type,
        "content-length": str(end - start),
        "etag": f'"{spec.sha256}"',
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": "attachment",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
    }
    if found is not None:
        said["content-range"] = f"bytes {start}-{end - 1}/{len(data)}"
    lines = [(name.encode(), value.encode("latin-1", "replace")) for name, value in said.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    view = memoryview(data)[start:end] if method == "GET" else memoryview(b"")
    for at in range(0, len(view), PIECE_BYTES):
        piece = bytes(view[at : at + PIECE_BYTES])
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    return status


def _range_of(asked: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Begin and end of the one range asked for; None where all is to be sent.

    Several ranges, and what is no range of bytes, are ignored (RFC 9110, section 14.2).

    Raises:
        HttpRefusal: 416 for a range beyond the end.
    """
    matched = _RANGE.fullmatch(asked.replace(" ", "")) if asked else None
    if matched is None or not any(matched.groups()):
        return None
    first, last = matched.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1) if last else size_bytes
    if start >= end:
        raise HttpRefusal(416, "no such range", {"Content-Range": f"bytes */{size_bytes}"})
    return start, end


def _parameters(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise HttpRefusal(400, "the query is not name=value pairs in UTF-8") from None
    if len(dict(pairs)) < len(pairs):
        raise HttpRefusal(400, "a parameter is given twice")
    return dict(pairs)


def _wire(spec: ResourceSpec) -> dict[str, object]:
    said = {
        "uri": spec.uri,
        "name": spec.name,
        "title": spec.title,
        "mimeType": spec.mime_type,
        "size": spec.size_bytes,
        "sha256": spec.sha256,
    }
    return {key: value for key, value in said.items() if value is not None}


def _refusal(error: ThornbackError) -> Answer:
    if isinstance(error, StoreError):
        return _error(500, str(error), error.code)
    wire = rpc_error(error)
    return _error(wire.status if wire.status >= 400 else 503, str(error), error.code, wire.headers)


def _error(
    status: int, message: str, code: str, headers: Mapping[str, str] | None = None
) -> Answer:
    return _json(status, {"error": {"code": code, "message": message}}, headers)


def _json(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, msgspec.json.encode(value), headers or {})
