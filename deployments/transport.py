"""How messages reach the replicas of a pool: Ray Serve's handle, one method for each way.

Everything that is Serve's own is here, so that channels and their tests know bytes and streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from thornback.deployments.replicas import Fault

DEPLOYMENT = "ToolHost"
"""Name of the one deployment in each pool's application."""


class Stream(Protocol):
    """Messages from a replica, as Serve's `DeploymentResponseGenerator` gives them."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None: ...


class Transport(Protocol):
    """The way to the replicas of one pool."""

    def send(self, replica_id: str, message: bytes, *, by_reference: bool = False) -> Stream:
        """Send to a replica; where it is known to be gone, to another, whose answer says so.

        No replica gets what another may have begun: then the stream fails.

        Args:
            replica_id: Empty: any replica, for a message that nothing begins with. Waits for one
                where there is none.
            by_reference: Through the object store, where a message has no limit.
        """
        ...

    async def fetch(self, replica_id: str, value_id: str) -> bytes | None:
        """A reply that was too large for a message; None where it is gone."""
        ...

    async def beat(self, gateway: str, held: int, timeout_s: float) -> list[bytes]:
        """Tell every replica that this gateway is there; the `HostState` of those that answer.

        Raises:
            Exception: none did in time.
        """
        ...


class ServeTransport:
    """A pool's application, through its deployment handle."""

    def __init__(self, application: str) -> None:
        from ray.serve.handle import DeploymentHandle

        handle: DeploymentHandle[Any] = DeploymentHandle(DEPLOYMENT, application)
        handle._init(_prefer_local_routing=True)  # type: ignore[no-untyped-call]
        self._handle = handle
        self._sends: dict[tuple[str, bool], Any] = {}
        """Handles by the replica that they address, and whether by reference."""

    def send(self, replica_id: str, message: bytes, *, by_reference: bool = False) -> Stream:
        handle = self._sends.get((replica_id, by_reference))
        if handle is None:
            handle = self._addressed("send", replica_id, stream=True, by_reference=by_reference)
            if len(self._sends) > MAX_HANDLES:  # replicas come and go, each with a new id
                self._sends.clear()
            self._sends[replica_id, by_reference] = handle
        stream: Stream = handle.remote(SentOnce(message) if replica_id else message)
        return stream

    async def fetch(self, replica_id: str, value_id: str) -> bytes | None:
        handle = self._addressed("fetch", replica_id, stream=False, by_reference=True)
        value: bytes | None = await handle.remote(value_id)
        return value

    async def beat(self, gateway: str, held: int, timeout_s: float) -> list[bytes]:
        response = self._handle.broadcast("beat", gateway, held)
        answers = await response.results_async(timeout_s=timeout_s, return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, bytes)]

    def _addressed(self, method: str, replica_id: str, *, stream: bool, by_reference: bool) -> Any:
        return self._handle.options(
            method_name=method,
            multiplexed_model_id=replica_id,
            stream=stream,
            request_serialization="pickle",
            response_serialization="pickle",
            _by_reference=by_reference,
        )


MAX_HANDLES = 256


class SentOnce:
    """A message that goes to one replica: arrives as bytes, and does not leave a second time.

    Serve replays a request whose replica died before its acceptance was heard, while the calls in
    it may have run. It serialises the request anew for that, which is where it is stopped.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._left = False

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        if self._left:
            raise SentBefore
        self._left = True
        return bytes, (self._message,)


class SentBefore(Exception):
    """A message would leave a second time."""

    def __init__(self) -> None:
        super().__init__("a replica may have begun what is in this message")


def fault_of(error: BaseException) -> Fault:
    """What an error of a stream says about the calls in it.

    Whatever is not a refusal may come after their effects.
    """
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    refusals = (BackPressureError, DeploymentUnavailableError)
    return "refused" if isinstance(error, refusals) else "lost"
