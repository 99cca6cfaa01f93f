"""Which cluster a command speaks to, and with which key.

`up` leaves a pointer for each cluster that it started on this machine; without options a command
takes the one that runs. A key comes from a file or the environment, never from the command line,
which every user of the machine can read in the process list.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from thornback.cluster.errors import ClusterNotRunning, ConfigError

if TYPE_CHECKING:
    from thornback.deployments.cluster_file import ClusterFile

KEY_VARIABLE = "THORNBACK_KEY"
KNOCK_TIMEOUT_S = 0.5

UrlOption = Annotated[
    str | None, typer.Option(help="URL of the cluster's /mcp; default: the one that runs here.")
]
NameOption = Annotated[
    str | None,
    typer.Option("--cluster", "--name", help="Name of a cluster that was started on this machine."),
]
KeyFileOption = Annotated[
    Path | None, typer.Option(help=f"File with the bearer key; default: ${KEY_VARIABLE}.")
]


def cluster_here(name: str | None, how: str = "add --cluster and one of") -> ClusterFile:
    """The cluster `name` of this machine, or the only one that runs.

    Args:
        name: As the user gave it.
        how: How this command is told the name, where it must be.

    Raises:
        ClusterNotRunning: there is none, or more than one; the message says what to do.
    """
    # Not at the top: it brings pydantic, which `thornback --help` can do without.
    from thornback.deployments.cluster_file import known_clusters

    clusters = {cluster.name: cluster for cluster in known_clusters()}
    if name is not None:
        if name not in clusters:
            known = f"; here are {', '.join(clusters)}" if clusters else ""
            raise ClusterNotRunning(f"no cluster called {name} was started here{known}")
        return clusters[name]
    running = [cluster for cluster in clusters.values() if _answers(cluster.url)]
    if not running:
        from thornback.deployments.ray_process import half_dead

        for cluster in clusters.values():
            if wrong := half_dead(cluster):
                raise ClusterNotRunning(
                    f"no cluster runs here; {wrong}: `thornback down {cluster.name}` ends what is "
                    "left"
                )
        raise ClusterNotRunning("no cluster runs here: start one with `thornback up`")
    if len(running) > 1:
        names = ", ".join(cluster.name for cluster in running)
        raise ClusterNotRunning(f"several clusters run here: {how} {names}")
    return running[0]


def url_of(url: str | None, name: str | None) -> str:
    """The URL of `/mcp` to speak to.

    Raises:
        ClusterNotRunning: as `cluster_here`.
    """
    return url if url is not None else cluster_here(name).url


def key_of(key_file: Path | None) -> str | None:
    """The bearer key to send, None for none.

    Raises:
        ConfigError: the file cannot be read, or what is there is no key.
    """
    if key_file is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
    else:
        try:
            key = key_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{key_file}: the key cannot be read") from error
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{key_file or KEY_VARIABLE}: a key is one line of ASCII; this is none")
    return key or None


def _answers(url: str) -> bool:
    """Whether somebody listens at a URL; a pointer outlives a machine that lost its power."""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or 80)
        with socket.create_connection(address, timeout=KNOCK_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False
