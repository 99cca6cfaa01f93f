"""`requestState`: what a tool leaves with the client while it asks for input.

Sealed, and bound to the caller, the target and its arguments: a client can neither read nor change
it, nor spend it on another call, and after `STATE_TTL_S` not at all.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from thornback.cluster.errors import InvalidParams, ToolFailure
from thornback.cluster.principals import Principal
from thornback.deployments.clock import Clock
from thornback.deployments.exchange import Exchange
from thornback.deployments.seal import MAX_TOKEN_CHARS, BadSeal, Seals

STATE_TTL_S = 600.0


class State(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed."""

    principal: Principal
    target: str
    """Method and name."""
    digest: str
    """Of the arguments."""
    expires_at: float
    """Wall-clock seconds."""
    plain: str


class StateTooLarge(ToolFailure):
    """What the tool would keep until the client answers is more than the client can carry."""

    code = "tool.state_too_large"

    def __init__(self, tool: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(tool, size_bytes, limit_bytes)
        self.tool = tool
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.tool} asks for input with a state of {self.size_bytes} bytes, and "
            f"{self.limit_bytes} can be kept: it must keep less, the client's answers included"
        )


class RequestStates:
    """Seals what goes out with `input_required`, and opens what comes back."""

    def __init__(self, seals: Seals, clock: Clock) -> None:
        self._seals = seals
        self._clock = clock

    def seal(self, exchange: Exchange, plain: str) -> str:
        """
        Raises:
            StateTooLarge: if the client could not bring it back.
        """
        state = State(*_bound_to(exchange), self._clock.wall() + STATE_TTL_S, plain)
        try:
            return self._seals.seal("state", msgspec.msgpack.encode(state))
        except ValueError:
            name, size_bytes = exchange.request.params["name"], len(plain.encode())
            raise StateTooLarge(name, size_bytes, MAX_TOKEN_CHARS // 2) from None

    def open(self, exchange: Exchange) -> str | None:
        """The plain state of a request, None where it brings none.

        Raises:
            InvalidParams: for anything but a state that was sealed for this very call.
        """
        sealed = exchange.request.params.get("requestState")
        if sealed is None:
            return None
        try:
            state = _decoder.decode(self._seals.open("state", sealed))
        except (BadSeal, msgspec.MsgspecError):
            raise _refused() from None
        bound_to = (state.principal, state.target, state.digest)
        if bound_to != _bound_to(exchange) or state.expires_at <= self._clock.wall():
            raise _refused()
        return state.plain


_decoder = msgspec.msgpack.Decoder(State)


def _refused() -> InvalidParams:
    return InvalidParams("invalid or expired requestState", "invalid_request_state")


def _bound_to(exchange: Exchange) -> tuple[Principal, str, str]:
    params: dict[str, Any] = exchange.request.params
    name = params.get("name", params.get("uri", ""))
    # By value, not by spelling: a client may write its arguments in another order the second time.
    canonical = json.dumps(params.get("arguments") or {}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return exchange.caller.principal, f"{exchange.request.method} {name}", digest
