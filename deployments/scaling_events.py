"""What is kept of the changes of a pool's size: the registry has the last ones, logs have all.

The policy that makes them runs in Serve's controller, which must not wait: an event is sent by a
thread of its own, and one that cannot be sent stands in the controller's log all the same.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import msgspec

from thornback.cluster.errors import ThornbackError
from thornback.cluster.news import unreadable
from thornback.cluster.scaling import Scaled

KEEP = 20
"""Events that are kept of each pool."""
SPACE = "scaling"
SEND_TIMEOUT_S = 60.0
"""Long enough for a registry that restarts."""

# Serve's controller writes what this logger is given into its own file.
logger = logging.getLogger("ray.serve")


def announce(application: str, event: Scaled) -> None:
    """Log an event and send it to the registry; returns at once.

    Args:
        application: Of the pool: the cluster's namespace, a dot and the pool.
        event: Its change of size.
    """
    logger.info("thornback: %s", event)
    threading.Thread(
        target=_send, args=(application, event), name="scaling event", daemon=True
    ).start()


class AddedNotes(Protocol):
    """What is asked of the registry; `BlockingRegistryClient` is one."""

    def added_notes(self, space: str, keys: list[str]) -> list[list[bytes]]: ...


def last_events(registry: AddedNotes, pools: list[str]) -> dict[str, list[Scaled]]:
    """The last events of each pool, oldest first.

    Raises:
        RegistryUnavailable: if it does not answer.
        StoreError: if this version cannot read its answer.
    """
    found = {}
    for pool, notes in zip(pools, registry.added_notes(SPACE, pools), strict=True):
        try:
            events = [msgspec.json.decode(note, type=Scaled) for note in notes]
        except msgspec.DecodeError as error:
            raise unreadable(error) from None
        # Each was sent by a thread of its own.
        found[pool] = sorted(events, key=lambda event: event.at_s)
    return found


def _send(application: str, event: Scaled) -> None:
    from thornback.cluster.actors import BlockingRegistryClient, connect  # imports Ray

    namespace, _, pool = application.rpartition(".")
    registry = BlockingRegistryClient(connect(namespace))
    try:
        registry.add_note(SPACE, pool, msgspec.json.encode(event), KEEP, SEND_TIMEOUT_S)
    except ThornbackError as error:
        logger.warning("thornback: not kept for `thornback status` (%s): %s", error, event)
