"""`up` and `down` as functions: a config in, a running cluster or none out.

The order is chosen for time, because on a laptop every process of Ray's takes seconds of CPU to
start: Ray comes up while this process imports it, Serve deploys the gateway while pools are
searched for tools, and nothing is waited for before it is needed. Deciding is elsewhere; here is
what happens, and what is undone when it fails.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import importlib.metadata
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import msgspec

from thornback.cluster.catalog import encode_entry
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import ClusterNotRunning, ConfigError, LaunchError, shown
from thornback.deployments.apply import (
    all_as_wanted,
    apply_applications,
    running_applications,
)
from thornback.deployments.cluster_file import (
    ClusterFile,
    cluster_of,
    remove_cluster_file,
    write_cluster_file,
)
from thornback.deployments.contents import config_entries
from thornback.deployments.dashboard import Dashboard
from thornback.deployments.environment import paths_of
from thornback.deployments.example_call import example_call
from thornback.deployments.lean_serve import import_serve
from thornback.deployments.packages import Asked
from thornback.deployments.pool_news import PoolNews, failure_of, pool_news
from thornback.deployments.ports import listen_error, listener_of
from thornback.deployments.private_files import make_private_dir
from thornback.deployments.ray_driver import announce, join, leave, token_file
from thornback.deployments.ray_failures import in_words
from thornback.deployments.ray_process import answers, start_head, stop_processes
from thornback.deployments.serve_config import (
    GATEWAY_APP,
    PROXY_LOCATION,
    PoolPlan,
    application_name,
    http_options,
    plan_modules,
    plan_pool,
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


@contextmanager
def only_one(config: ClusterConfig) -> Iterator[None]:
    """Keep a second `up` or `down` of the same cluster away while this one works.

    Raises:
        LaunchError: if another is at work.
        ConfigError: if the state directory cannot be made.
    """
    try:
        make_private_dir(config.state_path)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"state_dir: {config.state_path}: {why}") from error
    with (config.state_path / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError(
                f"another `thornback up` or `down` of {config.name} is at work"
            ) from None
        yield


def bring_up(
    config: ClusterConfig, *, address: str | None, config_path: Path | None, tell: Tell
) -> Up:
    """Bring a cluster to what its config says.

    Args:
        config: Valid.
        address: `host:port` of a Ray to join; None: the one that an earlier `up` of this cluster
            started, or a new one.
        config_path: For the cluster file.
        tell: Called with each step.

    Raises:
        LaunchError: if it cannot be done; then nothing that this call started is left.
    """
    with only_one(config):
        plans = [
            plan_pool(config, name, pool, version=VERSION) for name, pool in config.pools.items()
        ]
        config_entries(config)  # what is wrong with them is said before anything starts
        earlier = cluster_of(config)
        if address is None and earlier is not None and _runs(earlier):
            if up := _unchanged(config, plans, earlier, tell):
                return up
            tell(f"{config.name} is running; applying the config")
            joined = msgspec.structs.replace(
                earlier, url=config.url, config_path=_text(config_path) or earlier.config_path
            )
            with in_words(joined.temp_dir):
                join(joined)
                return _deploy(config, plans, joined, started=False, tell=tell)
        if address is not None:
            tell(f"joining the Ray at {address}")
            cluster = _joined_file(config, address, config_path)
            with in_words(None):
                join(cluster)
                return _deploy(config, plans, cluster, started=False, tell=tell)
        return _start(config, plans, config_path, tell)


def _runs(cluster: ClusterFile) -> bool:
    """Whether Ray answers; one whose `up` was killed before it had come up whole does not count."""
    began_whole = bool(cluster.pids) or not cluster.started_ray
    return began_whole and answers(cluster.address)


def _start(
    config: ClusterConfig, plans: list[PoolPlan], config_path: Path | None, tell: Tell
) -> Up:
    paths = paths_of(config)
    if left := stop_processes(paths.temp_dir, {}):
        tell(f"ended {left} processes that an earlier cluster left behind")
    _refuse_address(config)
    tell("starting Ray")
    starting = start_head(config)
    cluster = ClusterFile(
        name=config.name,
        url=config.url,
        address=starting.address,
        dashboard_url=starting.dashboard_url,
        namespace=config.namespace,
        state_dir=str(config.state_path),
        config_path=_text(config_path),
        token_path=str(paths.token),
        started_ray=True,
        temp_dir=str(paths.temp_dir),
    )
    try:
        write_cluster_file(cluster)
        announce(cluster)
        import_serve()  # takes about as long as Ray needs to start

        head = starting.wait()
        cluster = msgspec.structs.replace(cluster, pids=head.pids)
        write_cluster_file(cluster)
        with in_words(cluster.temp_dir):
            join(cluster)
            return _deploy(config, plans, cluster, started=True, tell=tell)
    except BaseException:
        with uninterrupted():
            stop_processes(paths.temp_dir, cluster.pids)
            remove_cluster_file(cluster)
        raise


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish what is inside: a second Ctrl-C must not leave half a cluster behind."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)  # None: set in C


def _refuse_address(config: ClusterConfig) -> None:
    gateway = config.gateway
    error = listen_error(gateway.port, gateway.host)
    if error is None:
        return
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        raise LaunchError(
            f"gateway.host {shown(gateway.host)} is no address of this machine: {error.strerror}"
        )
    if error.errno != errno.EADDRINUSE:
        raise LaunchError(
            f"cannot listen on {gateway.host} port {gateway.port}: {error.strerror}; choose "
            "another gateway.host or gateway.port in the config"
        )
    holder = listener_of(gateway.port)
    who = f" by {holder.name()} (pid {holder.pid})" if holder else ""
    raise LaunchError(
        f"port {gateway.port} is taken{who}: end it, or choose another gateway.port in the config"
    )


def _joined_file(config: ClusterConfig, address: str, config_path: Path | None) -> ClusterFile:
    if not answers(address):
        raise ClusterNotRunning(f"no Ray answers at {address}")
    return ClusterFile(
        name=config.name,
        url=config.url,
        address=address,
        dashboard_url="",
        namespace=config.namespace,
        state_dir=str(config.state_path),
        config_path=_text(config_path),
        token_path=token_file(os.environ),
    )


def _deploy(
    config: ClusterConfig, plans: list[PoolPlan], cluster: ClusterFile, *, started: bool, tell: Tell
) -> Up:
    """Deploy and register, on a Ray that this process has joined."""
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
            plans = [plan for plan, _ in written]
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
            example=example_call(spec for _, found in written for spec in found.tools),
        )
        write_cluster_file(cluster)
        return Up(cluster, started, pools)
    finally:
        if asked is not None:
            asked.close()
        dashboard.close()
        leave()


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
) -> list[tuple[PoolPlan, Discovered]]:
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
    written = register_pools(registry, _telling_of_broken(discovered, tell))
    order = [plan.name for plan in [*plans, *loose]]
    written.sort(key=lambda found: order.index(found.plan.source))
    return [(found.plan, found) for found in written]


def _telling_of_broken(discovered: Iterable[Discovered], tell: Tell) -> Iterator[Discovered]:
    """Tell of a pool that cannot run when that has been written; others may take a minute yet."""
    for found in discovered:
        yield found
        if found.pool.state == "broken":
            tell(_news_of_broken(found))


def _news_of_broken(found: Discovered) -> PoolNews:
    return PoolNews(found.pool.name, "broken", f"{found.pool.failed_module}: {found.pool.cause}")


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


def _unchanged(
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


def _await_pools(
    written: list[tuple[PoolPlan, Discovered]], dashboard: Dashboard, tell: Tell
) -> list[PoolNews]:
    """Tell how the pools come up, until each is up, idle, or known not to come."""
    from thornback.deployments.discovery import lacking, node_resources

    names = {plan.application: plan.name for plan, _ in written}
    broken = {
        found.pool.name: _news_of_broken(found).detail
        for _, found in written
        if found.pool.state == "broken"
    }
    nodes = node_resources()
    infeasible = {
        found.pool.name: why for _, found in written if (why := lacking(found.pool.ask, nodes))
    }
    deadline = time.monotonic() + max((p.config.import_timeout_s for p, _ in written), default=0)
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


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


class Down(NamedTuple):
    """What `down` came to."""

    ended: int
    """Processes of Ray that were ended."""
    left: list[str]
    """Applications of others, because of which this Ray goes on."""


def bring_down(config: ClusterConfig, cluster: ClusterFile | None) -> Down:
    """Remove what is ours; end Ray if `up` started it and nobody else uses it. State stays.

    Raises:
        ClusterNotRunning: if nothing of this cluster runs.
        LaunchError: if a process does not end.
    """
    with only_one(config):
        temp_dir = paths_of(config).temp_dir
        if cluster is None or not answers(cluster.address):
            ended = stop_processes(temp_dir, {})
            if cluster is not None:
                remove_cluster_file(cluster)
            if not ended:
                raise ClusterNotRunning(f"{config.name} does not run")
            return Down(ended, [])
        others = _foreign_applications(config, cluster)
        if cluster.started_ray and not others:
            ended = stop_processes(temp_dir, cluster.pids)
            remove_cluster_file(cluster)
            return Down(ended, [])
        _remove_ours(config, cluster)
        if cluster.started_ray:
            write_cluster_file(msgspec.structs.replace(cluster, applications=[], applied=""))
        else:
            remove_cluster_file(cluster)
        return Down(0, others)


def _foreign_applications(config: ClusterConfig, cluster: ClusterFile) -> list[str]:
    dashboard = Dashboard(cluster.dashboard_url, cluster.token)
    try:
        running = running_applications(config, dashboard.serve_details())
    except LaunchError:  # a Ray without its dashboard runs nothing that anybody could reach
        return []
    finally:
        dashboard.close()
    return sorted({**running.foreign, **running.imperative})


def _remove_ours(config: ClusterConfig, cluster: ClusterFile) -> None:
    dashboard = Dashboard(cluster.dashboard_url, cluster.token)
    try:
        apply_applications(dashboard, config, [])
    finally:
        dashboard.close()
    with in_words(cluster.temp_dir):
        join(cluster)
        import ray
        from ray.util import list_named_actors

        try:
            for actor in list_named_actors(all_namespaces=True):
                if actor["namespace"] == config.namespace:
                    ray.kill(ray.get_actor(actor["name"], config.namespace), no_restart=True)
        finally:
            leave()
