"""The autoscaling policy of pools: Serve's context in, a wish for replicas out.

Serve's own counts are of messages, and a message carries many calls. Hosts report calls instead,
and `thornback.cluster.scaling` decides on those. Serve pickles this module by value into its
controller and calls a policy for each pool some ten times a second: nothing here waits, and what
`thornback status` shows later is sent away by another thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thornback.cluster.scaling import Aims, Memory, Points, Seen, look
from thornback.deployments.pool_gauges import show
from thornback.deployments.scaling_events import announce

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

CALLS = "thornback_calls"
HELD = "thornback_held"
MEMORY = "thornback"
"""Key in the policy's state, which Serve keeps until the pool is deployed anew."""


def autoscaling_stats(running: float, held: Mapping[str, int]) -> dict[str, float]:
    """What a host's `record_autoscaling_stats` returns.

    Args:
        running: Calls that this replica had accepted and not finished, on average since its last
            report.
        held: Calls that wait for any replica of the pool, by the gateway that holds them.
    """
    return {CALLS: running, HELD: float(sum(held.values()))}


def calls(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as the calls of a pool ask for; Serve's `policy_function`."""
    return _decided(ctx, shown=True)


def calls_unshown(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """`calls`, where `telemetry.metrics` is off."""
    return _decided(ctx, shown=False)


def _decided(ctx: AutoscalingContext, *, shown: bool) -> tuple[float, dict[str, Any]]:
    reports = ctx.raw_metrics or {}
    seen = Seen(
        now_s=ctx.current_time or 0.0,
        target=ctx.target_num_replicas,
        calls=_points(reports.get(CALLS, {})),
        held=_points(reports.get(HELD, {})),
        scaled_up_at_s=ctx.last_scale_up_time,
    )
    application = ctx.app_name or ""
    memory = ctx.policy_state.get(MEMORY, Memory())
    answer = look(application.rpartition(".")[2], seen, _aims(ctx), memory)
    if shown:
        decided_at_s = None if answer.changed is None else answer.changed.at_s
        # By place: the controller may hold the `pool_gauges` of an earlier version.
        show(application, ctx.current_num_replicas, ctx.target_num_replicas, decided_at_s)
    if answer.changed is not None:
        announce(application, answer.changed)
    return answer.replicas, {MEMORY: answer.memory}


def _points(series_of: dict[Any, Any]) -> dict[str, Points]:
    return {
        replica.unique_id: [(point.timestamp, point.value) for point in series]
        for replica, series in series_of.items()
    }


def _aims(ctx: AutoscalingContext) -> Aims:
    config: Any = ctx.config  # Serve's `AutoscalingConfig`
    return Aims(
        target_ongoing_requests=config.get_target_ongoing_requests(),
        look_back_period_s=config.look_back_period_s,
        aggregation_function=config.aggregation_function.value,
        upscale_delay_s=config.upscale_delay_s,
        downscale_delay_s=config.downscale_delay_s,
        downscale_to_zero_delay_s=config.downscale_to_zero_delay_s,
        min_replicas=ctx.capacity_adjusted_min_replicas,
        max_replicas=ctx.capacity_adjusted_max_replicas,
    )
