"""From the config to the documents that Ray Serve is given.

One application for the gateway, at `/`, and one for each pool, with no route: a pool is reached
through its handle alone. `args` holds names and modules only, because Serve replaces every replica
when they change; every option is written out under `deployments`, where most can change in place.
Nothing here speaks to a cluster or imports Ray: a config goes in, JSON comes out.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.config import GATEWAY_APP, ClusterConfig, PoolConfig
from thornback.cluster.settings import effective_pool
from thornback.cluster.telemetry_config import trace_variables
from thornback.deployments.module_source import ModuleSource, source_of
from thornback.deployments.tracing import TRACES, digest_of, encoded

GATEWAY_DEPLOYMENT = "Gateway"
POOL_DEPLOYMENT = "ToolHost"
PROXY_LOCATION = "EveryNode"
MAX_NAME = 40
AUTOSCALING_POLICY = "thornback.deployments.autoscaling:calls"
"""Without `policy_kwargs`: a change of those would restart the pool."""
UNSHOWN_POLICY = "thornback.deployments.autoscaling:calls_unshown"
"""The same where `telemetry.metrics` is off. From one to the other the pool restarts, too."""
GATEWAY_STREAMS = 20_000
"""`max_ongoing_requests` of a gateway: to Serve each open stream is a request that goes on."""
POOL_STREAMS = 20_000
"""`max_ongoing_requests` of a pool as Serve has it: it counts messages. Calls are counted by the
tool host, which gets the pool's own number as `user_config`, and can get another while it runs."""


class PoolPlan(NamedTuple):
    """One pool as it will be deployed."""

    name: str
    application: str
    config: PoolConfig
    """With every layer filled in."""
    runtime_env: dict[str, Any]
    """The whole environment of its replicas, and of the task that finds its tools."""
    only: tuple[str, ...] = ()
    """`tool@version` of the only tools it offers; empty: all tools of its modules."""
    source: str = ""
    """Name of the plan whose findings hold for this one too."""


def application_name(config: ClusterConfig, part: str) -> str:
    """Name of the Serve application of the gateway or of a pool."""
    return f"{config.namespace}.{part}"


def is_ours(config: ClusterConfig, application: str) -> bool:
    """Whether a Serve application belongs to this cluster, by its name."""
    return application.startswith(config.namespace + ".")


def plan_pool(
    config: ClusterConfig,
    name: str,
    pool: PoolConfig,
    *,
    version: str,
    only: tuple[str, ...] = (),
    source: str = "",
) -> PoolPlan:
    """Work out a pool's options and environment.

    Args:
        config: The whole config.
        name: The pool.
        pool: The pool as the config has it.
        version: Thornback's, so that an upgrade replaces the replicas.
        only: As in `PoolPlan`.
        source: As in `PoolPlan`; empty: its own.

    Raises:
        ConfigError: if two layers of the config do not fit together.
    """
    effective = effective_pool(config, name, pool)
    sources = [source_of(module, Path(config.base_dir)) for module in effective.tools]
    return PoolPlan(
        name=name,
        application=application_name(config, name),
        config=effective,
        runtime_env=_runtime_env(config, name, effective, sources, version),
        only=only,
        source=source or name,
    )


def plan_modules(config: ClusterConfig, version: str) -> list[PoolPlan]:
    """A plan to find tools with, for each module that no pool names."""
    return [
        plan_pool(
            config,
            f"module-{hashlib.sha256(module.encode()).hexdigest()[:8]}",
            PoolConfig(tools=[module]),
            version=version,
        )
        for module in config.modules
    ]


def split_plan(
    config: ClusterConfig, plan: PoolPlan, tools: list[ToolSpec], version: str
) -> list[PoolPlan]:
    """A pool for each tool version that was found with `plan`; `plan` itself if none was."""
    pool = PoolConfig(tools=plan.config.tools)
    return [
        plan_pool(
            config,
            pool_name_for(spec.name, spec.version),
            pool,
            version=version,
            only=(spec.key,),
            source=plan.name,
        )
        for spec in tools
    ] or [plan]


def pool_name_for(tool: str, version: str) -> str:
    """Name of the pool of a tool version whose module no pool names.

    Names of tools may hold what names of pools may not; what is changed or cut is told apart by a
    digest.
    """
    plain = f"{tool}-{version}"
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if len(name) <= MAX_NAME and name == plain.replace(".", "-"):
        return name
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9].strip('-')}-{digest}"


def _runtime_env(
    config: ClusterConfig,
    name: str,
    pool: PoolConfig,
    sources: list[ModuleSource],
    version: str,
) -> dict[str, Any]:
    merged = _merged_env(pool.ray_actor_options.runtime_env, pool.runtime_env)
    threads = str(pool.threads)
    ours = {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "POLARS_MAX_THREADS": threads,
        "THORNBACK_THREADS": threads,
        "THORNBACK_CLUSTER": config.namespace,
        "THORNBACK_POOL": name,
        "THORNBACK_DATASETS": msgspec.json.encode(datasets(config)).decode(),
        "THORNBACK_CODE": _code_hash(sources, version),
        "THORNBACK_TRACES": digest_of(_traces(config)),
        # A host serves nothing over HTTP, so it has nothing to drain there.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    env_vars = {**ours, **merged.get("env_vars", {})}
    roots = [source.root for source in sources if source.root is not None]
    if roots:
        # Ray puts the node's own value in place of the reference.
        rest = env_vars.get("PYTHONPATH", "${PYTHONPATH}")
        env_vars["PYTHONPATH"] = ":".join(dict.fromkeys([*roots, rest]))
    return {**merged, "env_vars": env_vars}


def _traces(config: ClusterConfig) -> dict[str, str]:
    return trace_variables(config.telemetry.traces, config.environment)


def _merged_env(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Runtime environments, later over earlier; variables one by one."""
    merged: dict[str, Any] = {}
    for layer in layers:
        env_vars = {**merged.get("env_vars", {}), **layer.get("env_vars", {})}
        merged = {**merged, **layer, **({"env_vars": env_vars} if env_vars else {})}
    return merged


def datasets(config: ClusterConfig) -> dict[str, str]:
    """Where each dataset lies, as a host finds it: an absolute path or glob, or `package:...`."""
    return {
        name: where
        if where.startswith("package:")
        else str(Path(config.base_dir, Path(where).expanduser()))
        for name, where in config.datasets.items()
    }


def _code_hash(sources: list[ModuleSource], version: str) -> str:
    digest = hashlib.sha256(f"{version} {sys.version_info[:2]}".encode())
    for source in sources:
        digest.update(f"\0{source.module}\0{source.code_hash}".encode())
    return digest.hexdigest()[:16]


def render_pool(config: ClusterConfig, plan: PoolPlan) -> dict[str, Any]:
    """The Serve application of a pool."""
    args = {"cluster": config.name, "pool": plan.name, "modules": plan.config.tools}
    return {
        "name": plan.application,
        "route_prefix": None,
        "import_path": "thornback.deployments.builder:pool_app",
        "args": args,
        "deployments": [_pool_deployment(config, plan)],
    }


def _pool_deployment(config: ClusterConfig, plan: PoolPlan) -> dict[str, Any]:
    pool = plan.config
    policy = AUTOSCALING_POLICY if config.telemetry.metrics else UNSHOWN_POLICY
    options = pool.model_dump(
        exclude_none=True,
        exclude={"tools", "threads", "import_timeout_s", "runtime_env"},
    )
    actor = options["ray_actor_options"]
    actor = {key: value for key, value in actor.items() if value != {}}
    if "autoscaling_config" in options:
        options["autoscaling_config"]["policy"] = {"policy_function": policy}
    return {
        **options,
        "name": POOL_DEPLOYMENT,
        "max_ongoing_requests": POOL_STREAMS,
        "max_queued_requests": -1,
        "user_config": {
            "max_ongoing_requests": pool.max_ongoing_requests,
            TRACES: encoded(_traces(config)),
        },
        "ray_actor_options": {**actor, "runtime_env": plan.runtime_env},
    }


def render_gateway(config: ClusterConfig) -> dict[str, Any]:
    """The Serve application of the gateway."""
    gateway, traces = config.gateway, _traces(config)
    return {
        "name": application_name(config, GATEWAY_APP),
        "route_prefix": "/",
        "import_path": "thornback.deployments.builder:gateway_app",
        "args": {
            "cluster": config.namespace,
            "anonymous": config.anonymous,
            "gateway": gateway.model_dump(exclude={"num_replicas", "num_cpus"}),
            "telemetry": {"metrics": config.telemetry.metrics, TRACES: digest_of(traces)},
        },
        "deployments": [
            {
                "name": GATEWAY_DEPLOYMENT,
                "num_replicas": gateway.num_replicas,
                "max_ongoing_requests": GATEWAY_STREAMS,
                "user_config": {TRACES: encoded(traces)},
                "max_queued_requests": -1,
                "health_check_period_s": 1,
                "health_check_timeout_s": 30,
                "graceful_shutdown_wait_loop_s": 0.2,
                "graceful_shutdown_timeout_s": 40,
                "max_surge_percent": 100,
                # At INFO, Serve has a line for each call that its client cancels.
                "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
                "ray_actor_options": {"num_cpus": gateway.num_cpus},
            }
        ],
    }


def render_document(
    config: ClusterConfig, applications: list[dict[str, Any]], foreign: list[dict[str, Any]]
) -> dict[str, Any]:
    """The whole of what Serve shall run: a PUT names every application or removes it.

    Args:
        config: For where to listen; only the first PUT to a cluster decides that.
        applications: Ours.
        foreign: The applications of others, exactly as Serve has them.
    """
    return {
        "proxy_location": PROXY_LOCATION,
        "http_options": http_options(config),
        "applications": [*foreign, *applications],
    }


def http_options(config: ClusterConfig) -> dict[str, Any]:
    """Where the front door listens, and on the same address every replica behind it."""
    return {"host": config.gateway.host, "port": config.gateway.port}
