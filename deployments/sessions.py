"""`Mcp-Session-Id` of the revisions that have one: all that a session is, sealed into its id.

No gateway keeps anything of a session, so any of them can serve its next request. The principal is
in it not to name the caller (only `Authorization` does) but so that another's id is worth nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from thornback.cluster.errors import HttpRefusal, InvalidParams
from thornback.cluster.principals import Principal
from thornback.cluster.revisions import REVISIONS, Revision
from thornback.deployments.clock import Clock
from thornback.deployments.seal import BadSeal, Seals

SESSION_TTL_S = 24 * 3600.0
MAX_SESSION_BYTES = 4096
"""Of what a session carries: its id travels as a header, and front ends cut those at 8 to 16 kB."""
MAX_CLIENT_NAME_CHARS = 100


class Session(msgspec.Struct, frozen=True):
    """What `initialize` agreed on."""

    revision_name: str
    capabilities: dict[str, Any]
    """A `ClientCapabilities`, in wire names."""
    client_name: str
    client_version: str
    principal: Principal
    expires_at: float
    """Wall-clock seconds."""

    @property
    def revision(self) -> Revision:
        return REVISIONS[self.revision_name]


class Sessions:
    """Makes session ids and reads them."""

    def __init__(self, seals: Seals, clock: Clock) -> None:
        self._seals = seals
        self._clock = clock

    def new_id(
        self,
        revision: Revision,
        capabilities: dict[str, Any],
        client_info: dict[str, Any],
        principal: Principal,
    ) -> str:
        """
        Raises:
            InvalidParams: if the client's capabilities are more than an id can carry.
        """
        session = Session(
            revision_name=revision.name,
            capabilities=capabilities,
            client_name=str(client_info.get("name", ""))[:MAX_CLIENT_NAME_CHARS],
            client_version=str(client_info.get("version", ""))[:MAX_CLIENT_NAME_CHARS],
            principal=principal,
            expires_at=self._clock.wall() + SESSION_TTL_S,
        )
        try:
            plain = msgspec.msgpack.encode(session)
        except OverflowError:
            raise InvalidParams("capabilities hold an integer of more than 64 bits") from None
        if len(plain) > MAX_SESSION_BYTES:
            raise InvalidParams(f"capabilities are larger than {MAX_SESSION_BYTES} bytes")
        return self._seals.seal("session", plain)

    def read(self, session_id: str, principal: Principal) -> Session:
        """
        Raises:
            HttpRefusal: 404, the same for an id that is not ours, was tampered with, has expired or
                is another principal's: the client then initializes again.
        """
        try:
            session = _decoder.decode(self._seals.open("session", session_id))
        except (BadSeal, msgspec.MsgspecError):
            raise _GONE from None
        if session.principal != principal or session.expires_at <= self._clock.wall():
            raise _GONE
        if session.revision_name not in REVISIONS:  # sealed by a later version of this program
            raise _GONE
        return session


def session_key(session_id: str) -> str:
    """A short name of a session, for tables and logs: nobody can use it as the id."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:32]


_decoder = msgspec.msgpack.Decoder(Session)
_GONE = HttpRefusal(404, "Session not found: initialize again")
