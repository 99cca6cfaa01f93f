"""Make Serve run our applications, and leave those of others exactly as they are.

A PUT to Serve is the whole set and has no compare-and-set: what others run is read before, sent
along, and read again after; an application that somebody added in between is put back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import LaunchError
from thornback.deployments.dashboard import Dashboard
from thornback.deployments.serve_config import is_ours, render_document

ATTEMPTS = 3


class Running(NamedTuple):
    """What Serve runs, told apart."""

    ours: dict[str, dict[str, Any]]
    """Our applications as they were last put, by name."""
    foreign: dict[str, dict[str, Any]]
    """Those of others that were put too."""
    imperative: dict[str, dict[str, Any]]
    """Those of others that `serve.run` made: a PUT does not touch them. Name to details."""


def running_applications(config: ClusterConfig, details: dict[str, Any]) -> Running:
    """Tell applications apart, from what the dashboard says of Serve."""
    running = Running({}, {}, {})
    for name, application in details.get("applications", {}).items():
        if application.get("status") == "DELETING":
            continue
        deployed = application.get("deployed_app_config")
        if is_ours(config, name):
            running.ours[name] = deployed or {}
        elif deployed is not None:
            running.foreign[name] = deployed
        else:
            running.imperative[name] = application
    return running


def refuse_conflicts(running: Running, applications: list[dict[str, Any]]) -> None:
    """Refuse what would take a route from somebody.

    Raises:
        LaunchError: naming the application that has the route.
    """
    routes = {app["route_prefix"] for app in applications if app["route_prefix"] is not None}
    for name, other in {**running.foreign, **running.imperative}.items():
        if other.get("route_prefix") in routes:
            raise LaunchError(
                f"the Serve application {name!r} on this cluster already has the route "
                f"{other['route_prefix']!r}, which Thornback's gateway needs; move it to another "
                "route_prefix, or run Thornback on a Ray of its own"
            )


def refuse_address(config: ClusterConfig, details: dict[str, Any]) -> None:
    """Refuse a Serve that listens elsewhere than the config says: that cannot be changed later.

    Raises:
        LaunchError: with both addresses.
    """
    options = details.get("http_options") or {}
    host, port = options.get("host"), options.get("port")
    wanted = config.gateway
    if port is None or (host, port) == (wanted.host, wanted.port):
        return
    raise LaunchError(
        f"Ray Serve on this cluster listens on {host}:{port}, and the config says "
        f"{wanted.host}:{wanted.port}; it cannot move while it runs. Write that address into "
        "gateway.host and gateway.port, or take Serve down first (`thornback down`)"
    )


def apply_applications(
    dashboard: Dashboard,
    config: ClusterConfig,
    applications: list[dict[str, Any]],
    *,
    keep: bool = False,
) -> bool:
    """Make our part of Serve be exactly `applications`.

    Args:
        dashboard: The way in.
        config: Ours, for names and addresses.
        applications: Rendered; none removes all of ours.
        keep: Leave our other running applications as they are.

    Returns:
        Whether anything had to be changed.

    Raises:
        LaunchError: if Serve refuses, or an application of others is in the way.
    """
    details = dashboard.serve_details()
    before = running_applications(config, details)
    if applications:
        refuse_address(config, details)
    refuse_conflicts(before, applications)
    if keep:
        named = {app["name"] for app in applications}
        kept = [app for name, app in before.ours.items() if name not in named and app]
        applications = [*kept, *applications]
    if all_as_wanted(before, applications):
        return False
    foreign = dict(before.foreign)
    for _ in range(ATTEMPTS):
        dashboard.put(render_document(config, applications, list(foreign.values())))
        after = running_applications(config, dashboard.serve_details())
        lost = {name: app for name, app in foreign.items() if name not in after.foreign}
        late = {name: app for name, app in after.foreign.items() if name not in foreign}
        if not lost:
            return True
        foreign = {**foreign, **late}
    raise LaunchError(
        f"Serve lost applications that are not ours: {', '.join(sorted(lost))}; "
        "is somebody deploying at the same time?"
    )


def all_as_wanted(running: Running, applications: list[dict[str, Any]]) -> bool:
    """Whether Serve was last told the very same."""
    wanted = {app["name"]: app for app in applications}
    return wanted.keys() == running.ours.keys() and all(
        contains(running.ours[name], app) for name, app in wanted.items()
    )


def contains(whole: Any, part: Any) -> bool:
    """Whether `whole` says all that `part` says; Serve adds its defaults to what it is given."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, int | float) and isinstance(whole, int | float):
        return float(whole) == float(part)
    return bool(whole == part)
