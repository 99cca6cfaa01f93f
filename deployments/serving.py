"""From a Ray that this process has joined to a cluster that serves: what `up` puts on it.

Serve deploys the gateway while pools are searched for tools, and nothing is waited for before it is
needed. Where Ray comes from, and what becomes of it when this fails, is the launcher's.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import msgspec

from thornback.cluster.catalog import encode_entry
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import LaunchError
from thornback.deployments.apply import (
    all_as_wanted,
    apply_applications,
    running_applications,
)
from thornback.deployments.cluster_file import ClusterFile, write_cluster_file
from thornback.deployments.contents import config_entries
from thornback.deployments.dashboard import Dashboard
from thornback.deployments.example_call import example_call
from thornback.deployments.import_reports import forget_others, keep_report
from thornback.deployments.lean_serve import import_serve
from thornback.deployments.packages import Asked
from thornback.deployments.pool_news import PoolNews, failure_of, pool_news
from thornback.deployments.serve_config import (
    GATEWAY_APP,
    PROXY_LOCATION,
    PoolPlan,
    application_name,
    http_options,
    plan_modules,
    render_gateway,
    render_pool,
)

if TYPE_CHECKING:
    from thornback.deployments.discovery import Discovered

VERSION = importlib.metadata.version("thornback")
DASHBOARD_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 120.0
POLL_S = 0.2

Tell = Callable[[str | PoolNews], None]


class Up(NamedTuple):
    """What `up` came to."""

    cluster: ClusterFile
    started: bool
    """Whether this `up` started Ray."""
    pools: list[PoolNews]


def deploy(
    config: ClusterConfig, plans: list[PoolPlan], cluster: ClusterFile, *, started: bool, tell: Tell
) -> Up:
    """Deploy and register, and wait for what comes up.

    Raises:
        LaunchError: if the gateway does not come up; a pool that does not is told of.
    """
    if not cluster.dashboard_url:
        cluster = msgspec.structs.replace(cluster, dashboard_url=_dashboard_url())
    dashboard = Dashboard(cluster.dashboard_url, cluster.token)
    asked = Asked(plan.runtime_env for plan in plans) if cluster.started_ray else None
    tell = _once(tell)
    try:
        with ThreadPoolExecutor(2, "apply") as beside:
            # Serve's controller comes up while the dashboard does, and the front door while the
            # applications are built; through the dashboard alone it would be one after the other.
            fronted = beside.submit(_start_serve, config)
            # Pools of modules that no pool names are known only when their tools are.
            applied = beside.submit(_apply, config, plans, dashboard, bool(config.modules), tell)
            written = _register(config, plans, asked, tell)
            fronted.result()
            applied.result()
        if config.modules:
            plans = [found.plan for found in written]
            _apply(config, plans, dashboard, False, tell)
        applications = [application_name(config, GATEWAY_APP), *(p.application for p in plans)]
        cluster = msgspec.structs.replace(cluster, applications=applications)
        write_cluster_file(cluster)
        tell("waiting for the gateway")
        _await_gateway(config, dashboard)
        pools = _await_pools(written, dashboard, tell)
        cluster = msgspec.structs.replace(
            cluster,
            applied=applied_digest(config, plans),
            example=example_call(spec for found in written for spec in found.tools),
        )
        write_cluster_file(cluster)
        return Up(cluster, started, pools)
    finally:
        if asked is not None:
            asked.close()
        dashboard.close()


def _start_serve(config: ClusterConfig) -> None:
    """Start Serve where it does not run; one that runs stays as it is."""
    import_serve().start(proxy_location=PROXY_LOCATION, http_options=http_options(config))


def _apply(
    config: ClusterConfig, plans: list[PoolPlan], dashboard: Dashboard, keep: bool, tell: Tell
) -> None:
    dashboard.wait_for_serve(DASHBOARD_TIMEOUT_S)
    applications = rendered(config, plans)
    if apply_applications(dashboard, config, applications, keep=keep):
        tell("deploying")


def _register(
    config: ClusterConfig, plans: list[PoolPlan], asked: Asked | None, tell: Tell
) -> list[Discovered]:
    from thornback.cluster.actors import BlockingRegistryClient, start_registry
    from thornback.cluster.blob_actor import start_blobs
    from thornback.deployments.registration import (
        catalog_as_found,
        find_tools,
        register_config,
        register_pools,
    )

    entries, contents = config_entries(config)

    def put_contents() -> None:
        blobs = start_blobs(config.namespace, config.state_path)
        asyncio.run(blobs.put_missing(contents))

    with ThreadPoolExecutor(1, "contents") as beside:
        stored = beside.submit(put_contents)
        registry = BlockingRegistryClient(start_registry(config.namespace, config.state_path))
        tell("looking for tools")
        loose = plan_modules(config, VERSION)
        found = find_tools(registry, [*plans, *loose], asked)
        stored.result()  # before the catalog names what it stored
    register_config(registry, config, entries)
    discovered = catalog_as_found(config, plans, loose, found, VERSION)
    written = register_pools(registry, _telling_of_broken(config, discovered, tell))
    forget_others(config.state_path, {found.pool.name for found in written})
    order = [plan.name for plan in [*plans, *loose]]
    written.sort(key=lambda found: order.index(found.plan.source))
    return written


def _telling_of_broken(
    config: ClusterConfig, discovered: Iterable[Discovered], tell: Tell
) -> Iterator[Discovered]:
    """Tell of a pool that cannot run when that has been written; others may take a minute yet."""
    for found in discovered:
        keep_report(config.state_path, found.pool.name, found.report)
        yield found
        if found.pool.state == "broken":
            tell(_news_of_broken(found))


def _news_of_broken(found: Discovered) -> PoolNews:
    name, why = found.pool.name, f"{found.pool.failed_module}: {found.pool.cause}"
    more = f" (traceback: `thornback logs {name}`)" if found.report else ""
    return PoolNews(name, "broken", why + more)


def _once(tell: Tell) -> Tell:
    """`tell`, but for news that it has told already."""
    told: set[PoolNews] = set()

    def tell_new(news: str | PoolNews) -> None:
        if isinstance(news, PoolNews):
            if news in told:
                return
            told.add(news)
        tell(news)

    return tell_new


def rendered(config: ClusterConfig, plans: list[PoolPlan]) -> list[dict[str, Any]]:
    """Every Serve application of the cluster."""
    return [render_gateway(config), *(render_pool(config, plan) for plan in plans)]


def applied_digest(config: ClusterConfig, plans: list[PoolPlan]) -> str:
    """A hash of all that `up` applies, code of the pools included."""
    entries, _ = config_entries(config)
    facts = {
        "config": config.model_dump(),
        "applications": rendered(config, plans),
        "contents": [encode_entry(entry) for entry in entries],
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def unchanged(
    config: ClusterConfig, plans: list[PoolPlan], cluster: ClusterFile, tell: Tell
) -> Up | None:
    """The running cluster, if this config is what was applied last and all of it is there."""
    if config.modules or cluster.applied != applied_digest(config, plans):
        return None
    dashboard = Dashboard(cluster.dashboard_url, cluster.token)
    try:
        details = dashboard.serve_details()
    except LaunchError:
        return None
    finally:
        dashboard.close()
    running = running_applications(config, details)
    if not all_as_wanted(running, rendered(config, plans)) or not _is_ready(config):
        return None
    tell(f"{config.name} is running, and nothing has changed")
    return Up(cluster, False, pool_news(details, {plan.application: plan.name for plan in plans}))


def _is_ready(config: ClusterConfig) -> bool:
    try:
        answer = httpx.get(config.url.removesuffix("/mcp") + "/readyz", timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def _await_gateway(config: ClusterConfig, dashboard: Dashboard) -> None:
    """Wait until the endpoint answers through the front door.

    Raises:
        LaunchError: with what Serve says, if the gateway fails or takes too long.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    looked_s = 0.0
    while not _is_ready(config):
        late = time.monotonic() > deadline
        if late or time.monotonic() - looked_s > 2:
            looked_s = time.monotonic()
            found = dashboard.serve_details().get("applications", {})
            gateway = found.get(application_name(config, GATEWAY_APP), {})
            if late or gateway.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise LaunchError(f"the gateway does not start: {failure_of(gateway)}")
        time.sleep(POLL_S)


def _await_pools(written: list[Discovered], dashboard: Dashboard, tell: Tell) -> list[PoolNews]:
    """Tell how the pools come up, until each is up, idle, or known not to come."""
    from thornback.deployments.discovery import lacking, node_resources

    names = {found.plan.application: found.plan.name for found in written}
    broken = {
        found.pool.name: _news_of_broken(found).detail
        for found in written
        if found.pool.state == "broken"
    }
    nodes = node_resources()
    infeasible = {
        found.pool.name: why for found in written if (why := lacking(found.pool.ask, nodes))
    }
    longest_s = max((found.plan.config.import_timeout_s for found in written), default=0)
    deadline = time.monotonic() + longest_s
    told: dict[str, PoolNews] = {}
    while True:
        for news in pool_news(dashboard.serve_details(), names, broken, infeasible):
            if told.get(news.pool) != news:
                told[news.pool] = news
                tell(news)
        waiting = [news for news in told.values() if news.state == "starting"]
        if not waiting or time.monotonic() > deadline:
            return list(told.values())
        time.sleep(POLL_S)


def _dashboard_url() -> str:
    """Where the joined cluster has its dashboard.

    Raises:
        LaunchError: if it has none.
    """
    from ray._private.worker import get_dashboard_url

    found = get_dashboard_url()  # type: ignore[no-untyped-call]
    if not found:
        raise LaunchError("this Ray has no dashboard, through which Thornback deploys: start it so")
    return f"http://{found}"
