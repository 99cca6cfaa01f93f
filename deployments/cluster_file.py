"""`ClusterFile`: what a running cluster leaves on disk, so that other commands find it.

The file lies in the cluster's state directory; a pointer in `state_home()/clusters` leads there by
name. It says where things are, never whether they run: that is asked of the processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from thornback.cluster.config import ClusterConfig, state_home
from thornback.deployments.private_files import write_private

FILE_NAME = "cluster.json"


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cluster is, and what of it `up` started."""

    name: str
    url: str
    """Of the MCP endpoint."""
    address: str
    """Of Ray's control store, `host:port`."""
    dashboard_url: str
    namespace: str
    state_dir: str
    config_path: str | None = None
    """The config as it was given to `up`; None for one that came from elsewhere."""
    token_path: str | None = None
    """File with Ray's token; None where the environment says how to authenticate."""
    started_ray: bool = False
    """Whether `up` started this Ray, so that `down` may stop it."""
    one_machine: bool = False
    """Whether no other machine can be a part of this Ray."""
    temp_dir: str | None = None
    """Ray's own files; every process that `up` started names it on its command line."""
    pids: dict[str, int] = {}
    """Processes that `up` started, by role."""
    applications: list[str] = []
    """Names of our Serve applications."""
    example: str = ""
    """A command to try."""
    applied: str = ""
    """Digest of what `up` last applied."""

    @property
    def token(self) -> str | None:
        """Ray's token, read when it is needed."""
        if self.token_path is None:
            return os.environ.get("RAY_AUTH_TOKEN")
        try:
            return Path(self.token_path).read_text("utf-8").strip()
        except OSError:
            return None


def write_cluster_file(cluster: ClusterFile) -> None:
    """Write the file and its pointer, each readable by its owner alone."""
    path = Path(cluster.state_dir, FILE_NAME)
    write_private(path, msgspec.json.format(msgspec.json.encode(cluster), indent=2))
    write_private(_pointer(cluster.name), str(path).encode())


def read_cluster_file(state_dir: Path) -> ClusterFile | None:
    """The file of a state directory; None where there is none that can be read."""
    try:
        return msgspec.json.decode((state_dir / FILE_NAME).read_bytes(), type=ClusterFile)
    except (OSError, msgspec.DecodeError):
        return None


def find_cluster(name: str) -> ClusterFile | None:
    """The cluster of this name that `up` last brought up on this machine."""
    try:
        path = Path(_pointer(name).read_text("utf-8"))
    except OSError:
        return None
    return read_cluster_file(path.parent)


def known_clusters() -> Iterator[ClusterFile]:
    """Every cluster that left a pointer, by name."""
    for pointer in sorted(_pointer("x").parent.glob("*.json")):
        if cluster := find_cluster(pointer.stem):
            yield cluster


def remove_cluster_file(cluster: ClusterFile) -> None:
    """Forget a cluster that no longer runs. Its state stays."""
    Path(cluster.state_dir, FILE_NAME).unlink(missing_ok=True)
    _pointer(cluster.name).unlink(missing_ok=True)


def cluster_of(config: ClusterConfig) -> ClusterFile | None:
    """What `up` left of the cluster that this config describes."""
    return read_cluster_file(config.state_path)


def _pointer(name: str) -> Path:
    return state_home() / "clusters" / f"{name}.json"
