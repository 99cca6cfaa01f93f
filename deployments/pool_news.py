"""How pools do, read from what Serve's dashboard says: plain data in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from thornback.deployments.dashboard import reason

PoolState = Literal["starting", "ready", "idle", "broken", "infeasible", "failed"]


class PoolNews(NamedTuple):
    """How one pool does."""

    pool: str
    state: PoolState
    """`idle`: no replica until the first call."""
    detail: str = ""


def pool_news(
    details: Mapping[str, Any],
    pools: Mapping[str, str],
    broken: Mapping[str, str] | None = None,
    infeasible: Mapping[str, str] | None = None,
) -> list[PoolNews]:
    """The state of each pool.

    Args:
        details: Answer of the dashboard.
        pools: Names of pools by the names of their applications.
        broken: Why a pool cannot be loaded, where it cannot.
        infeasible: What a pool asks for that no node has.
    """
    applications = details.get("applications", {})
    return [
        _one(
            pool, applications.get(name, {}), (broken or {}).get(pool), (infeasible or {}).get(pool)
        )
        for name, pool in pools.items()
    ]


def _one(
    pool: str, application: Mapping[str, Any], broken: str | None, infeasible: str | None
) -> PoolNews:
    if broken is not None:
        return PoolNews(pool, "broken", broken)
    replicas = replicas_of(application)
    running = sum(replica["state"] == "RUNNING" for replica in replicas)
    if infeasible is not None and not running:
        return PoolNews(pool, "infeasible", infeasible)
    status = application.get("status", "NOT_STARTED")
    if status in ("DEPLOY_FAILED", "UNHEALTHY"):
        return PoolNews(pool, "failed", failure_of(application))
    if running:
        return PoolNews(pool, "ready", f"{running} replica{'s' if running > 1 else ''}")
    if status == "RUNNING":
        return PoolNews(pool, "idle", "starts with the first call")
    return PoolNews(pool, "starting")


def replicas_of(application: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every replica of an application, of whatever state."""
    return [
        replica
        for deployment in (application.get("deployments") or {}).values()
        for replica in deployment.get("replicas") or []
    ]


def failure_of(application: Mapping[str, Any]) -> str:
    """What Serve says went wrong; its own text holds tracebacks."""
    deployments = (application.get("deployments") or {}).values()
    texts = [d.get("message") or "" for d in deployments] + [application.get("message") or ""]
    return reason(next(filter(None, texts), ""))
