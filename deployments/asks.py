"""What one replica of a pool asks of the nodes that hold it, read from the pool's options: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from thornback.cluster.catalog import Bundle
from thornback.deployments.serve_config import PoolPlan


def bundles_of(plan: PoolPlan) -> tuple[Bundle, ...]:
    """What one replica asks of each node that it is spread over, under Ray's names for resources.

    Bundles of a placement group that must share a node are one.
    """
    pool, options = plan.config, plan.config.ray_actor_options
    ask: dict[str, float] = {"CPU": options.num_cpus, "GPU": options.num_gpus}
    if options.memory is not None:
        ask["memory"] = options.memory
    if options.accelerator_type is not None:
        ask[f"accelerator_type:{options.accelerator_type}"] = 0.001
    ask.update(options.resources)
    first, *others = pool.placement_group_bundles or [{}]
    # The replica itself is in the first bundle.
    parts = [_largest(ask, first), *others]
    wishes = pool.placement_group_bundle_label_selector or []
    if pool.placement_group_strategy == "STRICT_PACK":
        parts = [_sum(parts)]
        wishes = wishes and [{key: wish for each in wishes for key, wish in each.items()}]
    if len(wishes) == 1:
        wishes = wishes * len(parts)
    selectors: list[tuple[dict[str, str], ...]] = [(wish,) for wish in wishes]
    if not wishes:
        selectors = [selectors_of(plan), *[()] * (len(parts) - 1)]
    return tuple(map(Bundle, map(_some, parts), selectors))


def selectors_of(plan: PoolPlan) -> tuple[dict[str, str], ...]:
    """Ray's label selectors of a replica, those to fall back to behind; empty: any node will do."""
    options = plan.config.ray_actor_options
    if not options.label_selector:
        return ()
    others = [fallback["label_selector"] for fallback in options.fallback_strategy or []]
    return (options.label_selector, *others)


def ask_of(plan: PoolPlan) -> dict[str, float]:
    """What one replica asks for in all."""
    return _sum([bundle.resources for bundle in bundles_of(plan)])


def _largest(*asks: Mapping[str, float]) -> dict[str, float]:
    names = dict.fromkeys(chain.from_iterable(asks))
    return {name: max(ask.get(name, 0.0) for ask in asks) for name in names}


def _sum(asks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(chain.from_iterable(asks))
    return {name: sum(ask.get(name, 0.0) for ask in asks) for name in names}


def _some(ask: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in ask.items() if amount}
