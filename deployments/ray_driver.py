"""This process as a driver of a cluster's Ray: how it joins, and leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from thornback.cluster.errors import ClusterNotRunning, LaunchError
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.environment import driver_environment
from thornback.deployments.ray_process import answers
from thornback.deployments.ray_settings import read_again


def token_file(environment: Mapping[str, str]) -> str | None:
    """The file with the token for a Ray that others started, as `ray start` finds it for itself.

    None where there is none, or where the environment holds the token or says that none is wanted.
    """
    if environment.get("RAY_AUTH_MODE") == "disabled" or environment.get("RAY_AUTH_TOKEN"):
        return None
    default = Path(environment.get("HOME", "/"), ".ray", "auth_token")
    return environment.get("RAY_AUTH_TOKEN_PATH") or (str(default) if default.exists() else None)


def wants_token(address: str) -> bool:
    """Whether the Ray at `address` refuses who has none; imports Ray.

    A token file lies in the home directory once any Ray of this user's was started with one, and
    says nothing of the others.
    """
    from ray import _raylet

    previous = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    read_again()
    try:
        _raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    except Exception:  # where it is not for want of a token, `join` says what is wrong
        return True
    finally:
        if previous is None:
            del os.environ["RAY_AUTH_MODE"]
        else:
            os.environ["RAY_AUTH_MODE"] = previous
        read_again()
    return False


def announce(cluster: ClusterFile) -> None:
    """Put into this process's environment how to join; best before Ray is imported."""
    os.environ.pop("RAY_ADDRESS", None)
    if os.environ.get("RAY_AUTH_TOKEN"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    elif cluster.token_path is None and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Otherwise Ray would take a token that lies in the home directory, for another Ray.
        os.environ["RAY_AUTH_MODE"] = "disabled"
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

    read_again()  # it may have been imported before `announce`
    _refuse_without_token(cluster.address)
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


def _refuse_without_token(address: str) -> None:
    """Refuse a Ray that does not know this process; Ray itself would ask twenty times.

    Raises:
        LaunchError: with what to do.
    """
    from ray import _raylet
    from ray.exceptions import AuthenticationError

    try:
        _raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    except AuthenticationError as error:
        raise LaunchError(
            f"the Ray at {address} wants another token than this process has: name the file with "
            "its token in RAY_AUTH_TOKEN_PATH"
        ) from error
    except Exception:  # what else is wrong with it, `ray.init` says
        return


def leave() -> None:
    """End being a driver."""
    import ray

    ray.shutdown()
