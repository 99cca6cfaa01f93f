"""Which cluster a command speaks to, and with which key.

`up` leaves a pointer file for each cluster under `state_home()/clusters`; without options a command
takes the one that runs. A key comes from a file or the environment, never from the command line,
which every user of the machine can read in the process list.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from thornback.cluster.errors import ClusterNotRunning, ConfigError

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


def clusters_here() -> dict[str, dict[str, Any]]:
    """What the pointer files say of each cluster that was started on this machine, by name."""
    from thornback.cluster.config import state_home

    found = {}
    for path in sorted((state_home() / "clusters").glob("*.json")):
        try:
            pointer = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):  # removed, or being written, while we look
            continue
        if isinstance(pointer, dict) and isinstance(pointer.get("url"), str):
            found[path.stem] = pointer
    return found


def pointer_of(name: str | None) -> dict[str, Any]:
    """The pointer of the cluster `name`, or of the only one that runs.

    Raises:
        ClusterNotRunning: none, or more than one; the message says what to do.
    """
    pointers = clusters_here()
    if name is not None:
        if name not in pointers:
            known = f"; here are {', '.join(pointers)}" if pointers else ""
            raise ClusterNotRunning(f"no cluster called {name} was started here{known}")
        return pointers[name]
    running = {n: p for n, p in pointers.items() if _answers(p["url"])}
    if not running:
        raise ClusterNotRunning("no cluster runs here: start one with `thornback up`")
    if len(running) > 1:
        raise ClusterNotRunning(f"several clusters run here; add --name {'|'.join(running)}")
    return next(iter(running.values()))


def url_of(url: str | None, name: str | None) -> str:
    """The URL of `/mcp` to speak to.

    Raises:
        ClusterNotRunning: as `pointer_of`.
    """
    return url if url is not None else str(pointer_of(name)["url"])


def key_of(key_file: Path | None) -> str | None:
    """The bearer key to send, None for none.

    Raises:
        ConfigError: the file cannot be read.
    """
    if key_file is None:
        return os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        return key_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key_file}: the key cannot be read") from error


def _answers(url: str) -> bool:
    """Whether somebody listens at a URL; a pointer outlives a machine that lost its power."""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or 80)
        with socket.create_connection(address, timeout=KNOCK_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False
