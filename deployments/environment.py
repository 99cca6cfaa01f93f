"""What Ray and Ray Serve read from the environment, for one cluster.

Serve reads its settings when it is imported, in every process, so they must be there before Ray
starts; `up` sets them for a Ray that it starts, and `status` says which of them replicas do not
see. Nothing here starts a process: names and numbers in, a mapping out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from thornback.cluster.config import ClusterConfig
from thornback.deployments.ports import Ports

HARD_STOP_AFTER_S = 300
"""How long a stream outlives a reload of HAProxy. A port that a replica gave back rests as long."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

DATA_PATH: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MAX_MESSAGE_BYTES),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "thornback.deployments.ingress.middlewares",
}
"""What makes a call fast: a Ray that others started should have these too."""

FRONT_HEALTH: Mapping[str, str] = {
    # Its first start competes with every other process of the cluster for the machine.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # Three failures in a row are death; a check that is merely late must not be one.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.4",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
}
"""What makes a killed front door come back in seconds."""

EXPECTED: Mapping[str, str] = {**DATA_PATH, **FRONT_HEALTH}
"""What `status` looks for in the environment of replicas."""

_QUIET: Mapping[str, str] = {
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    "RAY_SERVE_COMPACT_LONG_POLL_METRIC_TAGS": "1",
    "RAY_SERVE_CONTROLLER_METRICS_INCLUDE_HIGH_CARDINALITY_TAGS": "0",
    "RAY_SERVE_ROUTER_QUEUE_LEN_GAUGE_THROTTLE_S": "5",
    "RAY_SERVE_EVENT_LOOP_MONITORING_INTERVAL_S": "30",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Workers that belong to no job yet cannot be forked, and are ready no sooner than others.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_LOGS: Mapping[str, str] = {
    # In throughput mode Serve takes what tools print into a log of its own, a thousand lines late.
    "RAY_SERVE_LOG_TO_STDERR": "1",
}

_LOG_SIZES: Mapping[str, str] = {
    # Of each file; without the first, Ray lets what a process prints grow for ever.
    "RAY_ROTATION_MAX_BYTES": str(64 * 1024 * 1024),
    "RAY_ROTATION_BACKUP_COUNT": "2",
}

_FAILED_ENVIRONMENTS: Mapping[str, str] = {
    # A pool's environment is a copy of Ray's own, made before pip is asked and removed again while
    # every other pool's has to wait. pip itself tries a network again.
    "RUNTIME_ENV_RETRY_TIMES": "1",
    # Seconds; ten minutes would make an `up` after the mistake was mended fail like the first.
    "BAD_RUNTIME_ENV_CACHE_TTL_SECONDS": "60",
}

_PATIENCE: Mapping[str, str] = {
    # With its agents, of which the first worker needs one: Ray's own 30 s are short for a machine
    # on which much else starts.
    "RAY_agent_register_timeout_ms": "120000",
}

_SYSLOG: Mapping[str, str] = {
    # HAProxy tells it of each request, whether or not anybody listens, and gateways have their own
    # log. One in a million is as near to none as the directive comes.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000000",
}

_AS_THE_OPERATOR_SAYS: Mapping[str, str] = {
    **_LOG_SIZES,
    **_FAILED_ENVIRONMENTS,
    **_PATIENCE,
    **_SYSLOG,
}
"""What an operator may set otherwise in the environment of `up`."""

FORKABLE: Mapping[str, str] = {"OPENBLAS_NUM_THREADS": "1"}
"""What the fork server needs on top: threads do not survive a fork, and NumPy, which Serve imports,
makes none then."""

_ONE_MACHINE: Mapping[str, str] = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's name for a cluster of one machine: every server of its own then listens on loopback, where
it would otherwise listen on every address."""

_OF_ANOTHER_RAY = ("RAY_ADDRESS", "RAY_AUTH_", "RAY_JOB_CONFIG", "RAY_SERVE_")
_OF_A_CALLER = ("THORNBACK_KEY",)
"""The key of whoever runs `up`: nothing for tools to read."""


class Paths(NamedTuple):
    """Where a cluster keeps what does not outlive it, and its token."""

    temp_dir: Path
    """Ray's `--temp-dir`. Short: the path of a Unix socket under it has at most 107 characters,
    of which Ray and HAProxy need 90."""
    token: Path

    @property
    def haproxy_dir(self) -> Path:
        return self.temp_dir / "h"

    @property
    def site(self) -> Path:
        """Put on the path of every Python process of the cluster."""
        return self.temp_dir / "site"

    @property
    def front(self) -> Path:
        """The program that Serve starts as `haproxy`."""
        return self.temp_dir / "haproxy"


def identity_of(config: ClusterConfig) -> int:
    """A number for a cluster on this machine: its name, its state directory, and the user."""
    facts = f"{os.getuid()}\0{config.name}\0{config.state_path.resolve()}"
    return int.from_bytes(hashlib.sha256(facts.encode()).digest()[:8], "big")


def paths_of(config: ClusterConfig) -> Paths:
    return Paths(
        temp_dir=Path("/tmp", f"tb-{identity_of(config):016x}"[:11]),
        token=config.state_path / "ray_token",
    )


def cluster_environment(
    config: ClusterConfig, ports: Ports, paths: Paths, own: Mapping[str, str]
) -> dict[str, str]:
    """The environment of Ray's processes of this cluster.

    Args:
        config: For whether it is a cluster of one machine.
        ports: The cluster's block.
        paths: The cluster's directories.
        own: The environment of `up`; what in it speaks of another Ray is left out.
    """
    haproxy = paths.haproxy_dir
    settings = {
        **EXPECTED,
        **_QUIET,
        **_LOGS,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(paths.front),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, max(1, (os.cpu_count() or 2) // 2))),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(HARD_STOP_AFTER_S),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas_http[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas_http[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replicas_grpc[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replicas_grpc[1]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(paths.token),
    }
    if config.loopback_only:
        settings |= _ONE_MACHINE
    kept = {
        key: value
        for key, value in own.items()
        if key in _SYSLOG or not key.startswith(_OF_ANOTHER_RAY + _OF_A_CALLER)
    }
    path = [str(paths.site), *filter(None, [own.get("PYTHONPATH")])]
    return {**_AS_THE_OPERATOR_SAYS, **kept, **settings, "PYTHONPATH": os.pathsep.join(path)}


def driver_environment(address: str, token_path: str | None) -> dict[str, str]:
    """What a process needs to join the Ray at `address`: how to authenticate, and who it is."""
    environment: dict[str, str] = {}
    if token_path is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_path}
    if address.startswith("127."):
        environment |= _ONE_MACHINE
    return environment


def missing_settings(seen: Mapping[str, str]) -> list[str]:
    """The lines to add to the environment of every node before Ray starts there.

    Args:
        seen: The settings that a replica found in its own environment.
    """
    return [f"export {name}={value}" for name, value in EXPECTED.items() if seen.get(name) != value]
