"""One request on its way through the gateway: what was asked, by whom, on what catalog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from thornback.cluster.catalog import Catalog
from thornback.cluster.messages import LogLevel
from thornback.cluster.principals import Caller
from thornback.cluster.protocol import Request
from thornback.cluster.revisions import LOG_LEVEL_META, Revision
from thornback.deployments.http_edge import Headers

if TYPE_CHECKING:
    from thornback.deployments.spans import CallSpan

Notify = Callable[[str, Mapping[str, Any]], None]
"""Sends a notification on the response of the request it belongs to; never blocks."""
Room = Callable[[], Awaitable[None]]
"""Waits until the response has room for more notifications."""

LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
LEGACY_LOG_LEVEL: LogLevel = "info"
"""Least level sent to older revisions. `logging/setLevel` changes nothing: the level would have to
live in the session id, and that is fixed when the session begins."""


class Incoming(NamedTuple):
    """A request that was admitted and understood, before its context is known."""

    request: Request
    body: bytes
    """The request as it came."""
    headers: Headers
    caller: Caller
    catalog: Catalog
    """One catalog from the first look to the answer, whatever changes meanwhile."""
    request_id: str
    """What log lines and the response name it by; its client may have chosen it."""


@dataclass(slots=True)
class Exchange:
    """A request and everything that its answer is made from."""

    request: Request
    body: bytes
    """The request as it came."""
    revision: Revision
    caller: Caller
    catalog: Catalog
    capabilities: Mapping[str, Any]
    """The client's, in wire names; of this request or of its session."""
    client_info: Mapping[str, Any] | None
    notify: Notify
    room: Room
    request_id: str
    error: str = ""
    """Dotted code of the error inside the answer, for the access log."""
    span: CallSpan | None = None
    """Of a call that is traced."""
    meta: Mapping[str, Any] = field(init=False)
    """The request's `_meta`; empty where it has none."""
    progress_token: str | int | None = field(init=False)
    """The client's token, where it asked for progress."""
    log_level: LogLevel | None = field(init=False)
    """Least level of log messages that may be sent; None: none."""

    def __post_init__(self) -> None:
        self.meta = self.request.meta or {}
        token = self.meta.get("progressToken")
        is_token = isinstance(token, str | int) and not isinstance(token, bool)
        self.progress_token = token if is_token else None
        self.log_level = LEGACY_LOG_LEVEL
        if self.revision.modern:
            asked = self.meta.get(LOG_LEVEL_META)
            self.log_level = asked if asked in LOG_LEVELS else None
