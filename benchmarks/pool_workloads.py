"""Workloads of pools: how they share, hold their limits, batch, scale, and what presets trade."""

from __future__ import annotations

from functools import partial

from benchmarks.crowds import measure_added, measure_limit, measure_shares, measure_stopped
from benchmarks.measuring import Point
from benchmarks.presets import measure_profile
from benchmarks.scaling import measure_step, measure_target, measure_wave
from benchmarks.servers import CONFIGS
from benchmarks.shared_batches import ALIKE, ODD, measure_shared
from benchmarks.workload import CLUSTER, Workload, clear_of, difference_of, figure_of, ratio_of
from thornback.deployments.load import Load

MIXED_S = (0.005, 0.5)
TARGETS = {"target 1": 1, "target 4": 4, "target 16": 16}
WAVE_TARGET = 8
PROFILES = ("latency", "balanced", "throughput")


def _working(label: str, connections: int) -> Point:
    """Clients that call `work`; how long a call takes is the measure's."""
    return Point(label=label, load=Load(url="", tools=("work",), connections=connections))


def _echo(connections: int) -> Point:
    return Point(label=f"c={connections}", load=Load(url="", connections=connections))


POOL_WORKLOADS = {
    "shares": Workload(
        about="calls of 5 and 500 ms on four replicas: is each as busy as the others",
        config=CONFIGS / "work.yaml",
        points=(_working("one connection", 1), _working("64 connections", 64)),
        measure=partial(measure_shares, work_s=MIXED_S),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 4}}}},
        seconds=60,
        bars=tuple(
            figure_of(
                f"5 and 500 ms on 4 replicas, {label}: the least busy short of the busiest",
                "busy_spread_percent",
                label,
                most=20,
                unit=" %",
                digits=1,
            )
            for label in ("one connection", "64 connections")
        ),
    ),
    "added": Workload(
        about="a fourth replica beside three under load: how soon it has its share",
        config=CONFIGS / "work.yaml",
        points=(_working("64 connections", 64),),
        measure=partial(measure_added, work_s=MIXED_S, pool="work", to=4),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 3}}}},
        bars=(
            figure_of(
                "a replica that is added has its share, from when Serve says that it runs",
                "share_s",
                "64 connections",
                most=2,
                unit=" s",
            ),
        ),
    ),
    "limit": Workload(
        about="64 clients of a tool whose replicas take four calls at a time",
        config=CONFIGS / "work.yaml",
        points=(_working("64 clients", 64),),
        measure=partial(measure_limit, work_s=(0.02, 0.05)),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 2, "max_ongoing_requests": 4}}}},
        bars=(
            figure_of(
                "max_ongoing_requests 4, 64 clients: most calls that the tool saw at once",
                "most_at_once",
                "64 clients",
                most=4,
                digits=0,
            ),
        ),
    ),
    "stopped": Workload(
        about="one of two replicas stands still (SIGSTOP) for four seconds, under load",
        config=CONFIGS / "work.yaml",
        points=(_working("16 clients", 16),),
        measure=partial(measure_stopped, work_s=(0.02, 0.05)),
        variants={CLUSTER: {"pools": {"work": {"num_replicas": 2}}}},
        bars=(
            figure_of(
                "one of two replicas stopped: longest wait of a call that it had not begun",
                "longest_wait_s",
                "16 clients",
                most=1.5,
                unit=" s",
            ),
        ),
    ),
    "step": Workload(
        about="from 1 to 64 calls of 200 ms at once, on a pool that may grow from 1 to 4",
        config=CONFIGS / "scaling.yaml",
        points=(_working("1 to 64 clients", 64),),
        measure=partial(measure_step, pool="work"),
        bars=(
            figure_of(
                "step to 64 calls: first answer of a new replica",
                "first_new_s",
                "1 to 64 clients",
                most=10,
                unit=" s",
                digits=1,
            ),
            figure_of(
                "step to 64 calls: decisions up (and no failed call, or there are no figures)",
                "decisions_up",
                "1 to 64 clients",
                least=1,
                most=1,
                digits=0,
            ),
        ),
    ),
    "wave": Workload(
        about="1 to 32 clients and back in each minute, beside Serve's own policy",
        config=CONFIGS / "scaling.yaml",
        points=(_working("1 to 32 clients", 32),),
        peers=("Serve's policy",),
        variants={
            CLUSTER: {
                "pools": {"work": {"autoscaling_config": {"target_ongoing_requests": WAVE_TARGET}}}
            }
        },
        measure=partial(measure_wave, target=WAVE_TARGET, most=4),
        seconds=600,
        runs=1,
        bars=(
            figure_of(
                "sine of 60 s: changes of the number of replicas in a period",
                "changes_per_period",
                "1 to 32 clients",
                most=2,
            ),
            figure_of(
                "sine of 60 s: replica-seconds over those of the ideal",
                "times_ideal",
                "1 to 32 clients",
                most=1.5,
                unit=" times",
            ),
            ratio_of(
                "sine of 60 s: p99, over that of Serve's policy",
                "p99_ms",
                ("1 to 32 clients", CLUSTER),
                ("1 to 32 clients", "Serve's policy"),
            ),
        ),
    ),
    "targets": Workload(
        about="steady loads worth four replicas, for target_ongoing_requests 1, 4 and 16",
        config=CONFIGS / "scaling.yaml",
        points=(_working("worth 4 replicas", 64),),
        variants={
            name: {
                "pools": {
                    "work": {
                        "autoscaling_config": {"target_ongoing_requests": target, "max_replicas": 8}
                    }
                }
            }
            for name, target in TARGETS.items()
        },
        measure=partial(measure_target, targets=TARGETS, replicas=4),
        bars=tuple(
            figure_of(
                f"{name}: running + queued a replica, off by",
                "off_target_percent",
                "worth 4 replicas",
                name,
                most=25,
                unit=" %",
                digits=1,
            )
            for name in TARGETS
        ),
    ),
    "shared": Workload(
        about="64 calls in shared batches, four of which hurt: one leaves, one returns 100 MB, ...",
        config=CONFIGS / "shared.yaml",
        points=tuple(
            Point(label=label, load=Load(url="", tools=("shared",), connections=64))
            for label in (ALIKE, ODD)
        ),
        measure=measure_shared,
        bars=(
            figure_of(
                "64 calls in shared batches, 4 of them odd: of the other 60 were answered",
                "answered_of_60",
                ODD,
                least=60,
                digits=0,
            ),
            ratio_of(
                "their p99, over that of 64 alike",
                "p99_ms",
                (ODD, CLUSTER),
                (ALIKE, CLUSTER),
                most=2,
            ),
        ),
    ),
    "profiles": Workload(
        about="echo from 1, 64 and 256 clients under each profile",
        config=CONFIGS / "profiles.yaml",
        points=(_echo(1), _echo(64), _echo(256)),
        variants={name: {"profile": name} for name in PROFILES},
        measure=measure_profile,
        bars=(
            clear_of(
                ("latency", "throughput"),
                "`balanced`: idle, MB below every run of the others by",
                "idle_mb",
                "c=1",
                "balanced",
                highest=False,
            ),
            clear_of(
                ("balanced", "throughput"),
                "`latency`: the first call, ms below every run of the others by",
                "first_call_ms",
                "c=1",
                "latency",
                highest=False,
            ),
            clear_of(
                ("throughput",),
                "`latency`, c=1: p50 below every run of `throughput` by (ms)",
                "p50_ms",
                "c=1",
                "latency",
                highest=False,
            ),
            difference_of(
                "`latency`, c=1: p50 above that of `balanced`, which presets nothing",
                "p50_ms",
                ("c=1", "latency"),
                ("c=1", "balanced"),
                unit=" ms",
            ),
            clear_of(
                ("latency", "balanced"),
                "`throughput`, c=256: calls/s above every run of the others by",
                "calls_per_s",
                "c=256",
                "throughput",
                highest=True,
            ),
        ),
    ),
}
