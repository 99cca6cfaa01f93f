"""Replies too large for a message: kept here until their gateway fetches them, or nobody will.

A gateway fetches a value through Ray's object store, which has no limit on a message; it owns what
it fetched, so that the value outlives this process. Bounded in bytes and in time.
"""

from __future__ import annotations

from thornback.cluster.ids import new_id
from thornback.deployments.clock import Clock

KEPT_S = 30.0
"""Seconds for which a value waits to be fetched."""
MAX_KEPT_BYTES = 512 * 1024 * 1024


class ParkedValues:
    """Encoded replies by id."""

    def __init__(self, clock: Clock, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: dict[str, tuple[float, bytes]] = {}
        """Oldest first, each with the moment at which it was parked."""

    def park(self, value: bytes) -> str | None:
        """Keep a value.

        Returns:
            Its id; None where there is no room for it.
        """
        self._sweep()
        if self._bytes + len(value) > self._max_bytes:
            return None
        value_id = new_id("val")
        self._values[value_id] = (self._clock.monotonic(), value)
        self._bytes += len(value)
        return value_id

    def take(self, value_id: str) -> bytes | None:
        """A value, which is gone here then; None where there is none of this id."""
        _, value = self._values.pop(value_id, (0.0, None))
        if value is not None:
            self._bytes -= len(value)
        return value

    def _sweep(self) -> None:
        stale = self._clock.monotonic() - KEPT_S
        for value_id in [i for i, (at, _) in self._values.items() if at < stale]:
            self.take(value_id)
