"""`cluster_watch`: what runs on the cluster, as it changes.

Its subject is the Ray cluster that it runs on, so it is the one tool that asks Ray; it changes
nothing there. What becomes of Ray's answers is plain data, decided by functions that know no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_json

from thornback.tools import ToolContext, tool

CLOSING_S = 1.0
"""Left of the call's time when the watch ends by itself, so that the result arrives."""


@dataclass
class DeploymentState:
    """One Serve deployment and its replicas."""

    name: str
    status: str
    """HEALTHY, UPDATING, UPSCALING, DOWNSCALING, UNHEALTHY, ..."""
    replicas: dict[str, int]
    """How many are STARTING, RUNNING, STOPPING, ..."""


@dataclass
class ApplicationState:
    """One Serve application: a pool of tools, a gateway, or somebody else's."""

    name: str
    status: str
    deployments: list[DeploymentState]


@dataclass
class ResourceState:
    """One resource of all nodes together; bytes where the name says memory."""

    name: str
    used: float
    total: float


@dataclass
class ClusterState:
    """What runs at one moment."""

    nodes: int
    applications: list[ApplicationState]
    resources: list[ResourceState]


@tool(
    title="Watch the cluster",
    read_only=True,
    idempotent=True,
    open_world=False,
    timeout_s=3600,
    tags=["operations"],
)
async def cluster_watch(
    ctx: ToolContext,
    interval_s: Annotated[float, Field(ge=0.2, le=60)] = 2.0,
    for_s: Annotated[float, Field(gt=0, le=3600)] | None = None,
) -> AsyncGenerator[ClusterState, None]:
    """Watch what runs on the cluster: applications, deployments, replicas by state, resources.

    Use it to see whether pools start, scale up or down, or are unhealthy. The present state is
    sent first, then the whole state again each time it has changed, until `for_s` is over or
    the caller closes the call; for one look, use a small `for_s` such as 0.5. Each look is also
    a progress message.

    Args:
        interval_s: Seconds between two looks, 0.2 to 60.
        for_s: Seconds to watch; left out, until the caller closes or the call's time ends.

    Returns:
        Each state that was seen, in order. A deployment with no replica is asleep: its first
        call wakes it.
    """
    async for state in watched(ctx, _look, interval_s, for_s):
        yield state


async def watched(
    ctx: ToolContext, look: Callable[[], ClusterState], interval_s: float, for_s: float | None
) -> AsyncGenerator[ClusterState, None]:
    """The states that `look` finds, each as it first differs from the one before.

    Ends when `for_s` or the call's time is over, or when the states fill half of what a result
    may hold.
    """
    until_s = max(0.0, ctx.remaining_s - min(for_s or float("inf"), ctx.remaining_s - CLOSING_S))
    room_bytes = ctx.max_result_bytes // 2
    last = None
    looks = 0
    while True:
        # Ray's calls block, and the loop has other calls to serve.
        state = await asyncio.to_thread(look)
        looks += 1
        if state != last:
            room_bytes -= len(to_json(state))
            if room_bytes < 0:
                return
            yield state
            last = state
        ctx.progress(looks, message=summary(state))
        left_s = ctx.remaining_s - until_s
        if left_s <= interval_s:
            return
        await asyncio.sleep(interval_s)


def summary(state: ClusterState) -> str:
    """One line: replicas by state over all applications."""
    counts: dict[str, int] = {}
    for application in state.applications:
        for deployment in application.deployments:
            for name, count in deployment.replicas.items():
                counts[name] = counts.get(name, 0) + count
    replicas = ", ".join(f"{count} {name.lower()}" for name, count in sorted(counts.items()))
    return f"{len(state.applications)} applications; replicas: {replicas or 'none'}"


def state_of(
    nodes: int, serve: Any, total: Mapping[str, float], available: Mapping[str, float]
) -> ClusterState:
    """What Ray says, as data that hides where it runs.

    Args:
        nodes: Nodes alive.
        serve: A `ray.serve.schema.ServeStatus`.
        total: `ray.cluster_resources()`.
        available: `ray.available_resources()`.
    """
    applications = [
        ApplicationState(
            name=name,
            status=_word(application.status),
            deployments=[
                DeploymentState(
                    name=deployment_name,
                    status=_word(deployment.status),
                    replicas={_word(k): n for k, n in deployment.replica_states.items() if n},
                )
                for deployment_name, deployment in sorted(application.deployments.items())
            ],
        )
        for name, application in sorted(serve.applications.items())
    ]
    resources = [
        # Ray also counts a resource per node, named after its address.
        ResourceState(name, round(amount - available.get(name, 0.0), 3), round(amount, 3))
        for name, amount in sorted(total.items())
        if not name.startswith("node:")
    ]
    return ClusterState(nodes, applications, resources)


def _word(status: Any) -> str:
    return str(getattr(status, "value", status))


def _look() -> ClusterState:
    """The cluster that this replica belongs to, now."""
    import ray
    from ray import serve

    api: Any = ray  # these functions have no types
    nodes = sum(bool(node["Alive"]) for node in api.nodes())
    return state_of(nodes, serve.status(), api.cluster_resources(), api.available_resources())
