"""The one id of a request: what its lines in every log name it by, and its response.

A client may choose it (`X-Request-ID`), so that its own logs and ours speak of the same; what does
not fit on a log line, and what is not sent, is replaced by one of ours. An id that a client chose
is nothing but a name: it need not be unique, and nothing is found or ended by it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from typing import Any

from thornback.cluster.ids import new_id
from thornback.deployments.replies import Send

HEADER = b"x-request-id"
_FITS = re.compile(rb"[!#-\[\]-~]{1,128}")
"""Printable ASCII which JSON writes as it is, without spaces."""


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The id that the client chose, or a fresh one."""
    for name, value in scope["headers"]:
        if name == HEADER:
            if _FITS.fullmatch(value):
                return bytes(value).decode("ascii")
            break
    return new_id("req")


def telling(send: Send, request_id: str) -> Send:
    """ASGI's `send`, with the id among the headers of the response."""
    header = (HEADER, request_id.encode())

    def send_with_id(message: dict[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], header]
        return send(message)

    return send_with_id
