"""One request on its way through the gateway: what was asked, by whom, on what catalog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from thornback.cluster.catalog import Catalog
from thornback.cluster.messages import LogLevel
from thornback.cluster.principals import Caller
from thornback.cluster.protocol import Request
from thornback.cluster.revisions import LOG_LEVEL_META, Revision

Notify = Callable[[str, Mapping[str, Any]], None]
"""Sends a notification on the response of the request it belongs to; never blocks."""
Room = Callable[[], Awaitable[None]]
"""Waits until the response has room for more notifications."""

LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
LEGACY_LOG_LEVEL: LogLevel = "info"
"""Least level sent to older revisions. `logging/setLevel` changes nothing: the level would have to
live in the session id, and that is fixed when the session begins."""


@dataclass
class Exchange:
    """A request and everything that its answer is made from."""

    request: Request
    body: bytes
    """The request as it came."""
    revision: Revision
    caller: Caller
    catalog: Catalog
    """One catalog from the first look to the answer, whatever changes meanwhile."""
    capabilities: Mapping[str, Any]
    """The client's, in wire names; of this request or of its session."""
    client_info: Mapping[str, Any] | None
    notify: Notify
    room: Room
    call_id: str
    error: str = field(default="")
    """Dotted code of the error inside the answer, for the access log."""

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.request.meta or {}

    @property
    def progress_token(self) -> str | int | None:
        """The client's token, where it asked for progress."""
        token = self.meta.get("progressToken")
        return token if isinstance(token, str | int) and not isinstance(token, bool) else None

    @property
    def log_level(self) -> LogLevel | None:
        """Least level of log messages that may be sent; None: none."""
        if not self.revision.modern:
            return LEGACY_LOG_LEVEL
        asked = self.meta.get(LOG_LEVEL_META)
        return next((level for level in LOG_LEVELS if level == asked), None)
