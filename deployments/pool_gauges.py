"""What Ray's metrics show of the size of pools that scale.

Called by the autoscaling policy, in Serve's controller, some ten times a second for each pool: a
gauge is set when its value has changed, and one that cannot be set stops no pool from scaling.
Nobody says there that a pool is gone; one that is not shown any more is.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import cache

from thornback.deployments.clock import Clock, SystemClock
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

GONE_S = 30.0
"""Since a pool was last shown. A controller that is very busy looks at its pools seldom, and gauges
that fell to zero for that would say that they lost their replicas."""
LOOK_S = 5.0
"""Seconds between two looks for pools that are gone."""

# Serve's controller writes what this logger is given into its own file.
logger = logging.getLogger("ray.serve")


class PoolGauges:
    """The gauges of all pools of all clusters of a Ray."""

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._shown: dict[tuple[Metric, Labels], float] = {}
        self._shown_at_s: dict[Labels, float] = {}
        """By cluster and pool, on the monotonic clock."""
        # Held for some microseconds: the policy never waits for longer.
        self._lock = threading.Lock()

    def show(self, application: str, running: int, target: int, decided_at_s: float | None) -> None:
        """Show a pool as it is.

        Args:
            application: Of the pool: `thornback.CLUSTER.POOL`.
            running: Replicas that run.
            target: Replicas that there shall be.
            decided_at_s: When its size was changed, in seconds since 1970; None: it was not now.
        """
        namespace, _, pool = application.rpartition(".")
        labels = (namespace.removeprefix("thornback."), pool)
        with self._lock:
            self._shown_at_s[labels] = self._clock.monotonic()
            self._put(REPLICAS, (*labels, "running"), running)
            self._put(REPLICAS, (*labels, "starting"), max(0, target - running))
            self._put(REPLICAS, (*labels, "stopping"), max(0, running - target))
            self._put(TARGET_REPLICAS, labels, target)
            if decided_at_s is not None:
                self._put(LAST_DECISION, labels, decided_at_s)

    def forget_gone(self) -> None:
        """Set to zero what is shown of pools that are gone."""
        # Ray shows the last value of a gauge until its process ends, and the controller's goes on.
        with self._lock:
            latest_s = self._clock.monotonic() - GONE_S
            gone = {labels for labels, at_s in self._shown_at_s.items() if at_s < latest_s}
            for metric, labels in [key for key in self._shown if key[1][:2] in gone]:
                self._put(metric, labels, 0)
                del self._shown[metric, labels]
            for labels in gone:
                del self._shown_at_s[labels]

    def _put(self, metric: Metric, labels: Labels, value: float) -> None:
        key = (metric, labels)
        if self._shown.get(key) == value:
            return
        self._shown[key] = value
        try:
            self._sink.put(metric.name, named(metric.name, labels), value)
        except Exception as error:
            logger.warning("thornback: %s was not shown: %s", metric.name, type(error).__name__)


def show(application: str, running: int, target: int, decided_at_s: float | None) -> None:
    """`PoolGauges.show`, among the metrics of this process."""
    _of_this_process().show(application, running, target, decided_at_s)


@cache
def _of_this_process() -> PoolGauges:
    gauges = PoolGauges(RaySink(), SystemClock())
    # Not by the policy: with the last pool it would go, and never look again.
    threading.Thread(target=_keep_looking, args=(gauges,), name="pool gauges", daemon=True).start()
    return gauges


def _keep_looking(gauges: PoolGauges) -> None:
    while True:
        time.sleep(LOOK_S)
        gauges.forget_gone()
