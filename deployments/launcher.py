"""`up` and `down` as functions: a config in, a running cluster or none out.

The order is chosen for time, because on a laptop every process of Ray's takes seconds of CPU to
start: Ray comes up while this process imports it. What is then put on it is `serving`'s; here is
what is started and ended, and what is undone when it fails.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import ClusterNotRunning, ConfigError, LaunchError, shown
from thornback.deployments.apply import apply_applications, running_applications
from thornback.deployments.cluster_file import (
    ClusterFile,
    cluster_of,
    remove_cluster_file,
    write_cluster_file,
)
from thornback.deployments.contents import config_entries
from thornback.deployments.dashboard import Dashboard, serve_now
from thornback.deployments.environment import paths_of
from thornback.deployments.lean_serve import import_serve
from thornback.deployments.ports import listen_error, listener_of
from thornback.deployments.private_files import make_private_dir
from thornback.deployments.ray_driver import announce, join, leave, token_file, wants_token
from thornback.deployments.ray_failures import in_words
from thornback.deployments.ray_process import (
    PARTS,
    answers,
    parts_gone,
    start_head,
    stop_processes,
)
from thornback.deployments.serve_config import PoolPlan, plan_pool
from thornback.deployments.serving import VERSION, deploy, unchanged
from thornback.deployments.serving import Tell as Tell
from thornback.deployments.serving import Up as Up

OTHERS_TIMEOUT_S = 15.0
"""How long `down` waits to hear who else uses a Ray, before it ends it."""


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
            if up := unchanged(config, plans, earlier, tell):
                return up
            tell(f"{config.name} is running; applying the config")
            joined = msgspec.structs.replace(
                earlier, url=config.url, config_path=_text(config_path) or earlier.config_path
            )
            return _deploy(config, plans, joined, started=False, tell=tell)
        if address is not None:
            tell(f"joining the Ray at {address}")
            cluster = _joined_file(config, address, config_path)
            return _deploy(config, plans, cluster, started=False, tell=tell)
        if earlier is not None and (gone := parts_gone(earlier)) and len(gone) < len(PARTS):
            tell(f"{config.name} runs without its {' and '.join(gone)}; starting it anew")
        return _start(config, plans, config_path, tell)


def _runs(cluster: ClusterFile) -> bool:
    """Whether all of Ray is there; one whose `up` was killed half way does not count."""
    began_whole = bool(cluster.pids) or not cluster.started_ray
    return began_whole and not parts_gone(cluster) and answers(cluster.address)


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
        one_machine=config.loopback_only,
        temp_dir=str(paths.temp_dir),
    )
    try:
        write_cluster_file(cluster)
        announce(cluster)
        import_serve()  # takes about as long as Ray needs to start

        head = starting.wait()
        cluster = msgspec.structs.replace(cluster, pids=head.pids)
        write_cluster_file(cluster)
        return _deploy(config, plans, cluster, started=True, tell=tell)
    except BaseException:
        with uninterrupted():
            stop_processes(paths.temp_dir, cluster.pids)
            remove_cluster_file(cluster)
        raise


def _deploy(
    config: ClusterConfig, plans: list[PoolPlan], cluster: ClusterFile, *, started: bool, tell: Tell
) -> Up:
    with in_words(cluster.temp_dir):
        join(cluster)
        try:
            return deploy(config, plans, cluster, started=started, tell=tell)
        finally:
            leave()


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
    token_path = token_file(os.environ)
    if token_path is not None and not wants_token(address):
        token_path = None
    return ClusterFile(
        name=config.name,
        url=config.url,
        address=address,
        dashboard_url="",
        namespace=config.namespace,
        state_dir=str(config.state_path),
        config_path=_text(config_path),
        token_path=token_path,
    )


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
        if cluster is None or not _runs(cluster):
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
    try:
        details = serve_now(cluster.dashboard_url, cluster.token, OTHERS_TIMEOUT_S)
    except LaunchError:  # a Ray without its dashboard runs nothing that anybody could reach
        return []
    running = running_applications(config, details)
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
