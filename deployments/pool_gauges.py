"""What Ray's metrics show of the size of pools that scale.

Called by the autoscaling policy, in Serve's controller, some ten times a second for each pool: a
gauge is set when its value has changed, and one that cannot be set stops no pool from scaling.
"""

from __future__ import annotations

import logging
from functools import cache

from thornback.deployments.telemetry import (
    LAST_DECISION,
    REPLICAS,
    TARGET_REPLICAS,
    Labels,
    Metric,
    RaySink,
    Sink,
    named,
)

# Serve's controller writes what this logger is given into its own file.
logger = logging.getLogger("ray.serve")


class PoolGauges:
    """The gauges of all pools."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._shown: dict[tuple[str, Labels], float] = {}

    def show(self, pool: str, running: int, target: int, decided_at_s: float | None) -> None:
        """Show a pool as it is.

        Args:
            running: Replicas that run.
            target: Replicas that there shall be.
            decided_at_s: When its size was changed, in seconds since 1970; None: it was not now.
        """
        self._put(REPLICAS, (pool, "running"), running)
        self._put(REPLICAS, (pool, "starting"), max(0, target - running))
        self._put(REPLICAS, (pool, "stopping"), max(0, running - target))
        self._put(TARGET_REPLICAS, (pool,), target)
        if decided_at_s is not None:
            self._put(LAST_DECISION, (pool,), decided_at_s)

    def _put(self, metric: Metric, labels: Labels, value: float) -> None:
        key = (metric.name, labels)
        if self._shown.get(key) == value:
            return
        self._shown[key] = value
        try:
            self._sink.put(metric.name, named(metric.name, labels), value)
        except Exception as error:
            logger.warning("thornback: %s was not shown: %s", metric.name, type(error).__name__)


def show(pool: str, running: int, target: int, decided_at_s: float | None) -> None:
    """`PoolGauges.show`, among the metrics of this process."""
    _of_this_process().show(pool, running, target, decided_at_s)


@cache
def _of_this_process() -> PoolGauges:
    return PoolGauges(RaySink())
