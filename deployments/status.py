"""How a cluster does: what Serve, the registry and the hosts say, put together.

`gather` asks them; `assess` is the judgement, plain data in and out. A part that does not answer is
a problem in the report and no exception: `status` is asked when something is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import psutil

from thornback.cluster.catalog import Catalog, PoolEntry
from thornback.cluster.config import GATEWAY_APP
from thornback.cluster.errors import LaunchError, RegistryUnavailable, StoreError
from thornback.cluster.scaling import Scaled
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.dashboard import serve_now
from thornback.deployments.discovery import lacking, living_nodes
from thornback.deployments.environment import EXPECTED, missing_settings
from thornback.deployments.front import uncorrected
from thornback.deployments.lean_serve import import_serve
from thornback.deployments.placement import Node
from thornback.deployments.pool_news import pool_news, replicas_of
from thornback.deployments.process_start import FORK_SERVER
from thornback.deployments.ray_driver import join, leave
from thornback.deployments.ray_failures import in_words
from thornback.deployments.ray_process import DASHBOARD, parts_gone
from thornback.deployments.scaling_events import last_events
from thornback.deployments.serve_config import POOL_DEPLOYMENT

if TYPE_CHECKING:
    from thornback.cluster.actors import RegistryInfo

HOST_TIMEOUT_S = 3.0
"""For all hosts of all pools, which are asked side by side."""


class Replica(msgspec.Struct, frozen=True):
    """One process of a deployment."""

    id: str
    state: str
    """As Serve says: `STARTING`, `RUNNING`, `STOPPING`, ..."""
    pid: int | None
    node: str | None


class Decision(msgspec.Struct, frozen=True):
    """One change of a pool's size."""

    at: str
    """When, ISO 8601 in UTC."""
    text: str
    facts: Scaled


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pool."""

    state: str
    """`ready`, `idle`, `starting`, `broken`, `infeasible`, `mismatch`, `failed`; `unknown` where
    Serve could not be asked."""
    reason: str = ""
    modules: list[str] = []
    tools: list[str] = []
    """`name@version` of what the catalog offers from it."""
    lost_tools: list[str] = []
    replicas: dict[str, int] = {}
    """How many replicas are in each state."""
    replica_list: list[Replica] = []
    silent: list[str] = []
    """Ids of those that run, as Serve says, and did not answer."""
    decisions: list[Decision] = []
    """The last changes of its size, oldest first."""


class CatalogStatus(msgspec.Struct, frozen=True):
    store_id: str
    epoch: int
    number: int
    tools: int
    """Number of tool versions."""


class Settings(msgspec.Struct, frozen=True):
    """What makes the data path fast, as replicas find it in their environment."""

    seen: dict[str, str]
    missing: list[str]
    """Lines to add to the environment of every node before Ray starts there."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report."""

    name: str
    url: str
    state: Literal["healthy", "degraded"]
    problems: list[str] = []
    gateways: list[Replica] = []
    pools: dict[str, PoolStatus] = {}
    catalog: CatalogStatus | None = None
    registry_pid: int | None = None
    settings: Settings | None = None
    address: str = ""
    dashboard_url: str = ""
    state_dir: str = ""


class Facts(msgspec.Struct, kw_only=True):
    """What was found out; what could not be stays empty and is named in `problems`."""

    details: dict[str, Any] = {}
    """Answer of the dashboard."""
    catalog: Any = None
    """The `Catalog`, or None."""
    registry_pid: int | None = None
    nodes: list[Node] = []
    decisions: dict[str, list[Scaled]] = {}
    """The last changes of each pool's size."""
    hosts: dict[str, list[dict[str, Any]]] = {}
    """`ToolHost.info` of the replicas of each pool that answered."""
    silent: dict[str, list[str]] = {}
    """Ids of the replicas of each pool that did not."""
    environment: dict[str, str] | None = None
    """Environment of a gateway."""
    problems: list[str] = []


def assess(cluster: ClusterFile, facts: Facts) -> Status:
    """Judge what was found."""
    applications = facts.details.get("applications", {})
    prefix = cluster.namespace + "."
    gateway = applications.get(prefix + GATEWAY_APP, {})
    gateways = [_replica(r) for r in replicas_of(gateway)]
    pools = _pools(cluster, facts)
    problems = list(facts.problems)
    told = bool(facts.details)  # why not, is among the problems
    if told and not any(replica.state == "RUNNING" for replica in gateways):
        problems.append("no gateway is running")
    elif told and gateway.get("status") not in ("RUNNING", "DEPLOYING"):
        problems.append(f"the gateway is {gateway.get('status')}")
    for name, pool in pools.items():
        if pool.state in ("broken", "infeasible", "mismatch", "failed"):
            problems.append(f"pool {name} is {pool.state}: {pool.reason}")
        if pool.silent:
            problems.append(f"pool {name}: {_silence(pool)}")
    catalog = facts.catalog
    return Status(
        name=cluster.name,
        url=cluster.url,
        state="degraded" if problems else "healthy",
        problems=problems,
        gateways=gateways,
        pools=pools,
        catalog=None
        if catalog is None
        else CatalogStatus(
            catalog.store_id,
            catalog.epoch,
            catalog.number,
            sum(len(versions) for versions in catalog.tools.values()),
        ),
        registry_pid=facts.registry_pid,
        settings=None
        if facts.environment is None
        else Settings(
            {key: value for key, value in facts.environment.items() if key in EXPECTED},
            missing_settings(facts.environment),
        ),
        address=cluster.address,
        dashboard_url=cluster.dashboard_url,
        state_dir=cluster.state_dir,
    )


def _pools(cluster: ClusterFile, facts: Facts) -> dict[str, PoolStatus]:
    catalog: Catalog = facts.catalog or Catalog.empty()
    applications = facts.details.get("applications", {})
    prefix = cluster.namespace + "."
    entries = {e.name: e for e in catalog.of("pools").values() if isinstance(e, PoolEntry)}
    deployed = {a.removeprefix(prefix): a for a in applications if a.startswith(prefix)}
    deployed.pop(GATEWAY_APP, None)
    names = sorted(entries.keys() | deployed.keys())
    broken = {e.name: f"{e.failed_module}: {e.cause}" for e in entries.values()
              if e.state == "broken"}  # fmt: skip
    infeasible = {e.name: why for e in entries.values() if (why := lacking(e, facts.nodes))}
    tools: dict[str, list[str]] = {}
    for versions in catalog.tools.values():
        for spec in versions:
            tools.setdefault(spec.pool, []).append(spec.key)
    report = {}
    for news in pool_news(
        facts.details, {prefix + name: name for name in names}, broken, infeasible
    ):
        seen = "unknown" if news.state == "starting" and not facts.details else news.state
        state, reason = _with_hosts(seen, news.detail, facts.hosts.get(news.pool, []))
        replicas = [_replica(r) for r in replicas_of(applications.get(prefix + news.pool, {}))]
        entry = entries.get(news.pool)
        report[news.pool] = PoolStatus(
            state=state,
            reason=reason,
            modules=list(entry.modules) if entry else [],
            tools=tools.get(news.pool, []),
            lost_tools=list(entry.lost_tools) if entry else [],
            replicas=dict(Counter(replica.state for replica in replicas)),
            replica_list=replicas,
            silent=facts.silent.get(news.pool, []),
            decisions=[_decision(event) for event in facts.decisions.get(news.pool, [])],
        )
    return report


def _decision(event: Scaled) -> Decision:
    at = datetime.fromtimestamp(event.at_s, UTC).isoformat(timespec="milliseconds")
    return Decision(at, str(event), event)


def _with_hosts(state: str, reason: str, hosts: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What the hosts themselves say outweighs what Serve can see of them."""
    for host in hosts:
        for module, cause in host.get("broken", {}).items():
            return "broken", f"{module}: {cause}"
        for tool, cause in host.get("mismatches", {}).items():
            return "mismatch", f"{tool}: {cause}"
    return state, reason


def _silence(pool: PoolStatus) -> str:
    """Which replicas of a pool did not answer, in words."""
    pids = {replica.id: replica.pid for replica in pool.replica_list}
    named = ", ".join(f"{each} (pid {pids.get(each)})" for each in pool.silent)
    running = pool.replicas.get("RUNNING", 0)
    return (
        f"{len(pool.silent)} of {running} replica{'s' * (running != 1)} did not answer within "
        f"{HOST_TIMEOUT_S:g} s: {named}"
    )


def _replica(details: Mapping[str, Any]) -> Replica:
    return Replica(
        details["replica_id"], details["state"], details.get("pid"), details.get("node_id")
    )


# --- asking ---------------------------------------------------------------------------------------


def gather(cluster: ClusterFile) -> Facts:
    """Ask the dashboard, the registry and the hosts."""
    facts = Facts()
    if DASHBOARD in parts_gone(cluster):
        facts.problems.append(
            "Ray's dashboard is gone: tools go on, but nothing can be deployed or seen of them, "
            "until `thornback down` and `thornback up`"
        )
    else:
        try:
            facts.details = serve_now(cluster.dashboard_url, cluster.token)
        except LaunchError as error:
            facts.problems.append(str(error))
    try:
        with in_words(cluster.temp_dir):
            join(cluster)
            _ask_ray(cluster, facts)
    except LaunchError as error:
        facts.problems.append(str(error))
    finally:
        leave()
    facts.environment = _gateway_environment(cluster, facts)
    if cluster.temp_dir is not None and (wrong := uncorrected(Path(cluster.temp_dir))):
        facts.problems.append(wrong)
    if lost := without_forks(cluster, _command_of):
        facts.problems.append(lost)
    return facts


def without_forks(cluster: ClusterFile, command_of: Callable[[int], Sequence[str]]) -> str | None:
    """What is wrong where `up` started a fork server that is gone; else None.

    Args:
        cluster: The cluster.
        command_of: From a pid to its command line; empty where there is no such process.
    """
    pid = cluster.pids.get(FORK_SERVER)
    if pid is None or any(part.endswith(FORK_SERVER) for part in command_of(pid)):
        return None
    return (
        "the fork server is gone: each new replica takes seconds longer to start, until "
        "`thornback down` and `thornback up`"
    )


def _command_of(pid: int) -> Sequence[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return ()


def _ask_ray(cluster: ClusterFile, facts: Facts) -> None:
    from thornback.cluster.actors import BlockingRegistryClient, connect

    facts.nodes = living_nodes()
    hear_registry(BlockingRegistryClient(connect(cluster.namespace)), facts)
    hear_hosts(cluster, facts)


class RegistryReader(Protocol):
    """What a report needs of the registry; `BlockingRegistryClient` is one."""

    def catalog(self) -> Catalog: ...

    def info(self) -> RegistryInfo: ...

    def added_notes(self, space: str, keys: list[str]) -> list[list[bytes]]: ...


def hear_registry(registry: RegistryReader, facts: Facts) -> None:
    """Take note of what the registry says, and of what it does not."""
    try:
        facts.registry_pid = registry.info().pid
    except RegistryUnavailable as error:
        facts.problems.append(str(error))
        return
    except StoreError as error:  # of another version, or without its store
        facts.problems.append(str(error))
    try:
        facts.catalog = registry.catalog()
        facts.decisions = last_events(registry, sorted(facts.catalog.of("pools")))
    except (RegistryUnavailable, StoreError) as error:
        if str(error) not in facts.problems:
            facts.problems.append(str(error))


def hear_hosts(cluster: ClusterFile, facts: Facts) -> None:
    """Ask every running replica of every pool for its `info`, and note those that say nothing."""
    prefix = cluster.namespace + "."
    running = {
        name.removeprefix(prefix): ids
        for name, application in facts.details.get("applications", {}).items()
        if name.startswith(prefix)
        and name != prefix + GATEWAY_APP
        and (ids := [r["replica_id"] for r in replicas_of(application) if r["state"] == "RUNNING"])
    }
    if not running:
        return
    serve = import_serve()
    asked = {
        pool: serve.get_deployment_handle(POOL_DEPLOYMENT, prefix + pool).broadcast("info")
        for pool in running
    }
    # Serve sends a broadcast when its results are asked for, and then waits for them.
    with ThreadPoolExecutor(len(asked)) as threads:
        found = dict(zip(asked, threads.map(_results, asked.values()), strict=True))
    for pool, results in found.items():
        infos = facts.hosts[pool] = [result for result in results if isinstance(result, dict)]
        if any(isinstance(result, Exception) and not _is_gone(result) for result in results):
            answered = {info.get("replica_id") for info in infos}
            facts.silent[pool] = [each for each in running[pool] if each not in answered]


def _results(response: Any) -> list[Any]:
    """What each replica answered, or the error that came in place of it."""
    try:
        return list(response.results(timeout_s=HOST_TIMEOUT_S, return_exceptions=True))
    except Exception as error:  # none could be asked
        return [error]


def _is_gone(error: Exception) -> bool:
    """Whether a replica went away while it was asked, as one does whose pool shrinks."""
    from ray.exceptions import ActorDiedError
    from ray.serve.exceptions import DeploymentUnavailableError

    return isinstance(error, (ActorDiedError, DeploymentUnavailableError))


def _gateway_environment(cluster: ClusterFile, facts: Facts) -> dict[str, str] | None:
    """The environment of a gateway of this machine; None where there is none to look at."""
    for host in (info for infos in facts.hosts.values() for info in infos):
        return dict(host.get("environment", {}))
    name = f"{cluster.namespace}.{GATEWAY_APP}"
    for replica in replicas_of(facts.details.get("applications", {}).get(name, {})):
        try:
            return dict(psutil.Process(replica["pid"]).environ())
        except (psutil.Error, TypeError, KeyError):
            continue
    return None
