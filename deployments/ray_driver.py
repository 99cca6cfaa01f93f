"""This process as a driver of a cluster's Ray: how it joins, and leaves."""

from __future__ import annotations

import os

from thornback.cluster.errors import ClusterNotRunning, LaunchError
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.environment import driver_environment
from thornback.deployments.ray_process import answers


def announce(cluster: ClusterFile) -> None:
    """Put into this process's environment how to join; best before Ray is imported."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(driver_environment(cluster.address, cluster.token_path))


def join(cluster: ClusterFile) -> None:
    """Make this process a driver of the cluster's Ray.

    Raises:
        ClusterNotRunning: if nobody answers there.
        LaunchError: if it cannot be joined.
    """
    # Ray itself would try for minutes.
    if not answers(cluster.address):
        raise ClusterNotRunning(f"no Ray answers at {cluster.address}")
    announce(cluster)
    import ray

    _read_environment_again()
    try:
        ray.init(
            address=cluster.address,
            namespace=cluster.namespace,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LaunchError(f"cannot join the Ray at {cluster.address}: {lines[0]}") from error


def _read_environment_again() -> None:
    """Ray read it when it was imported, which may have been before `announce`."""
    from ray import _raylet
    from ray._private import ray_constants

    one_machine = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR) == "0"
    ray_constants.ENABLE_RAY_CLUSTER = not one_machine
    _raylet.Config.initialize("")  # type: ignore[attr-defined]


def leave() -> None:
    """End being a driver."""
    import ray

    ray.shutdown()
