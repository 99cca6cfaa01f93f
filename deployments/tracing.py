"""Whether this process traces its calls. What a span is and what it says is `spans.py`'s.

Until a replica is told where traces go, there are none, and neither OpenTelemetry's SDK nor its
exporter is imported here: that takes a second and some megabytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from thornback.deployments.exchange import Exchange
    from thornback.deployments.sdk import Handler
    from thornback.deployments.spans import Spans

TRACES = "traces"
"""Key of `user_config`. Not a variable of the environment and no argument of the application: Ray
writes those to its logs, and a key may be among the headers."""
FLUSH_S = 3.0
"""Longest wait of a process that ends for spans to leave."""

logger = logging.getLogger(__name__)


def encoded(variables: Mapping[str, str]) -> str:
    """OpenTelemetry's variables for a replica's `user_config`; empty: no traces."""
    return msgspec.json.encode(variables, order="deterministic").decode() if variables else ""


def digest_of(variables: Mapping[str, str]) -> str:
    """What a replica's deployment holds of them, so that another word brings other replicas."""
    return hashlib.sha256(encoded(variables).encode()).hexdigest()[:16] if variables else ""


class Service(msgspec.Struct, frozen=True):
    """What a process is called in its traces."""

    name: str
    cluster: str
    instance: str
    version: str


class Tracing:
    """The spans of one process, from when it is told where they go."""

    def __init__(self, spans: Spans | None = None) -> None:
        self.spans = spans
        """None: calls are not traced."""

    async def begin(
        self, user_config: Mapping[str, Any], service: Service, *, for_tools: bool = False
    ) -> None:
        """Trace from now on, if a replica's `user_config` says so. Raises nothing.

        Args:
            for_tools: Whether the spans that tools make go the same way.
        """
        told = user_config.get(TRACES)
        if not told or self.spans is not None:
            return
        try:
            self.spans = await asyncio.to_thread(_begun, told, service, for_tools)
        except Exception as error:  # a trace is not worth a replica; values may be keys
            logger.error("calls are not traced: %s", type(error).__name__)

    def calls(self, handler: Handler) -> Handler:
        """The handler of `tools/call`, with a span around each call while there are any."""

        def call(exchange: Exchange) -> Awaitable[dict[str, Any]]:
            return handler(exchange) if self.spans is None else self.spans.serve(exchange, handler)

        return call

    def close(self) -> None:
        """Send what there is, and wait for that at most `FLUSH_S`."""
        spans, self.spans = self.spans, None
        if spans is not None:
            # In a thread that can be left behind: the exporter waits up to its own time-outs.
            flushing = threading.Thread(target=spans.close, name="flush-traces", daemon=True)
            flushing.start()
            flushing.join(FLUSH_S)


def _begun(told: str, service: Service, for_tools: bool) -> Spans:
    os.environ.update(msgspec.json.decode(told, type=dict[str, str]))
    from thornback.deployments.spans import Spans, exporting, set_global

    provider = exporting(service)
    if for_tools:
        set_global(provider)
    return Spans(provider)
