"""Serve's own autoscaler over a pretended pool, in pretended time.

Everything that Serve does with a policy (its context, delays, factors, bounds) is Serve's code, so
that a test of an option fails when the option stops to mean what Serve says. Pretended are the
clock, the replicas and what they report.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from ray.serve._private import autoscaling_state
from ray.serve._private.common import (
    DeploymentID,
    ReplicaID,
    ReplicaMetricReport,
    TimeStampedValue,
)
from ray.serve.config import AutoscalingConfig

from thornback.cluster.config import parse_config
from thornback.cluster.scaling import Scaled
from thornback.deployments import scaling_events
from thornback.deployments.autoscaling import autoscaling_stats
from thornback.deployments.serve_config import plan_pool, render_pool

TICK_S = 0.1
"""Between two looks of Serve's controller."""
BEGIN_S = 1_700_000_000.0


class Change(NamedTuple):
    """That the number of replicas was decided anew."""

    at_s: float
    """Since the beginning."""
    before: int
    after: int


class PretendedReplica:
    """A host that reports as Serve's replicas do: it records often, and pushes every interval."""

    def __init__(self, replica_id: ReplicaID, begun_s: float) -> None:
        self.id = replica_id
        self.recorded: dict[str, list[TimeStampedValue]] = {}
        self.records_at_s = self.pushes_at_s = begun_s

    def record(self, now_s: float, stats: dict[str, float]) -> None:
        for name, value in stats.items():
            self.recorded.setdefault(name, []).append(TimeStampedValue(now_s, value))

    def report(self, now_s: float, look_back_s: float) -> ReplicaMetricReport:
        metrics = {
            name: [point for point in series if point.timestamp > now_s - look_back_s]
            for name, series in self.recorded.items()
        }
        self.recorded = {name: list(series) for name, series in metrics.items()}
        return ReplicaMetricReport(self.id, metrics, now_s)


class PretendedPool:
    """A pool called `text` under Serve's autoscaler.

    Args:
        load: Calls in the system, from seconds since the beginning.
        starts_in_s: From the decision for a replica until it runs.
        slots: Calls that one replica takes; the gateways hold the rest.
        options: Of `autoscaling_config`, over our defaults.
    """

    def __init__(
        self,
        load: Callable[[float], float],
        *,
        starts_in_s: float = 4.0,
        slots: int = 32,
        policy: str | None = None,
        **options: Any,
    ) -> None:
        self.now_s = BEGIN_S
        self.load, self.starts_in_s, self.slots = load, starts_in_s, slots
        self.changes: list[Change] = []
        self.replica_seconds = 0.0
        self._running: list[PretendedReplica] = []
        self._starting: list[float] = []
        self._made = 0
        self.config = autoscaling_config_of(options, policy)
        self._id = DeploymentID("ToolHost", "thornback.local.text")
        self._serve = autoscaling_state.DeploymentAutoscalingState(self._id)
        self._serve.get_total_num_requests = self._messages  # type: ignore[method-assign]
        deployment = SimpleNamespace(autoscaling_config=self.config, gang_scheduling_config=None)
        deployed: Any = SimpleNamespace(
            deployment_config=deployment,
            target_capacity=None,
            target_capacity_direction=None,
            config_changed=lambda _: True,
        )
        self.target = self._serve.register(deployed, 0)
        self._starting = [self.now_s] * self.target

    @property
    def elapsed_s(self) -> float:
        return self.now_s - BEGIN_S

    @property
    def running(self) -> int:
        return len(self._running)

    def run(self, seconds: float) -> PretendedPool:
        for _ in range(round(seconds / TICK_S)):
            self._tick()
        return self

    def sizes(self) -> list[int]:
        return [change.after for change in self.changes]

    def _messages(self) -> float:
        """What Serve itself sees: with no replica, that a message waits."""
        return float(not self._running and self.load(self.elapsed_s) > 0)

    def _tick(self) -> None:
        self.now_s += TICK_S
        self.replica_seconds += self.target * TICK_S
        self._settle()
        self._report()
        decided = self._serve.get_decision_num_replicas(self.target)
        if decided == self.target:
            return
        self.changes.append(Change(self.elapsed_s, self.target, decided))
        if decided > self.target:
            self._serve.record_scale_up()  # type: ignore[no-untyped-call]
            self._starting += [self.now_s + self.starts_in_s] * (decided - self.target)
        else:
            self._serve.record_scale_down()  # type: ignore[no-untyped-call]
        self.target = decided

    def _settle(self) -> None:
        ready = [at_s for at_s in self._starting if at_s <= self.now_s]
        self._starting = [at_s for at_s in self._starting if at_s > self.now_s]
        for _ in ready:
            self._made += 1
            replica_id = ReplicaID(f"r{self._made}", deployment_id=self._id)
            self._running.append(PretendedReplica(replica_id, self.now_s))
        while len(self._running) + len(self._starting) > self.target:
            if self._starting:
                self._starting.pop()
            else:
                self._serve.on_replica_stopped(self._running.pop().id)
        self._serve.update_running_replica_ids([replica.id for replica in self._running])

    def _report(self) -> None:
        total = self.load(self.elapsed_s)
        taken = min(total, self.slots * len(self._running))
        held = {"gateway": round(total - taken)}
        record_s = min(0.2 * self.config.look_back_period_s, self.config.metrics_interval_s)
        for i, replica in enumerate(self._running):
            if replica.records_at_s <= self.now_s + 1e-9:
                share = (round(taken) + i) // len(self._running)
                replica.record(self.now_s, autoscaling_stats(share, held))
                replica.records_at_s += record_s
            if replica.pushes_at_s <= self.now_s + 1e-9:
                report = replica.report(self.now_s, self.config.look_back_period_s)
                self._serve.record_request_metrics_for_replica(report)
                replica.pushes_at_s += self.config.metrics_interval_s


def autoscaling_config_of(options: dict[str, Any], policy: str | None = None) -> Any:
    """What Serve makes of a pool's options, as they are rendered for it."""
    pool = {"tools": ["my_tools"], "autoscaling_config": options}
    config = parse_config({"pools": {"text": pool}}, "test", Path("/"))
    plan = plan_pool(config, "text", config.pools["text"], version="1")
    (deployment,) = render_pool(config, plan)["deployments"]
    if policy is not None:
        deployment["autoscaling_config"]["policy"]["policy_function"] = policy
    return AutoscalingConfig(**deployment["autoscaling_config"])


def sine(mean: float, swing: float, period_s: float = 60.0) -> Callable[[float], float]:
    return lambda at_s: mean + swing * math.sin(2 * math.pi * at_s / period_s)


def clocked(monkeypatch: pytest.MonkeyPatch) -> type[PretendedPool]:
    """`PretendedPool`, with Serve's clock in the hands of the last one that was made."""
    made: list[PretendedPool] = []

    class Clocked(PretendedPool):
        def __init__(self, *args: Any, **options: Any) -> None:
            made[:] = [self]
            super().__init__(*args, **options)

    clock = SimpleNamespace(time=lambda: made[0].now_s, monotonic=lambda: made[0].now_s)
    monkeypatch.setattr(autoscaling_state, "time", clock)
    monkeypatch.setattr("ray.serve.autoscaling_policy.time", clock)
    return Clocked


def sent_events(monkeypatch: pytest.MonkeyPatch) -> list[Scaled]:
    """Where events go instead of to a registry."""
    events: list[Scaled] = []

    class AtOnce:
        def __init__(self, target: Callable[..., None], args: Any, **_: Any) -> None:
            self.start = lambda: target(*args)

    monkeypatch.setattr(scaling_events, "threading", SimpleNamespace(Thread=AtOnce))
    monkeypatch.setattr(scaling_events, "_send", lambda application, event: events.append(event))
    return events
