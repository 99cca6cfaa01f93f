"""Which ports a cluster takes, so that two clusters on one machine do not meet.

Each cluster has a block of its own, found from a digest of what it is; when that block is in use
the next one is tried. Blocks lie below the range from which Linux hands out ports by itself, and
clear of Ray's and Ray Serve's defaults.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import msgspec
import psutil

FIRST, LAST, BLOCK = 20_000, 29_999, 500


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The ports of one cluster, beside the gateway's own."""

    ray: int
    dashboard: int
    dashboard_agent: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    metrics_export: int
    node_manager: int
    object_manager: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback_http: int
    fallback_grpc: int
    replicas_http: tuple[int, int]
    """First and last port that replicas may listen on for HTTP. A freed port rests for minutes, so
    the range is wider than the number of replicas."""
    replicas_grpc: tuple[int, int]


def blocks_for(digest: int) -> Iterator[Ports]:
    """Every block, the one that belongs to this digest first."""
    count = (LAST + 1 - FIRST) // BLOCK
    for step in range(count):
        yield _block(FIRST + (digest + step) % count * BLOCK)


def _block(base: int) -> Ports:
    names = Ports.__struct_fields__[:-2]
    return Ports(
        **{name: base + i for i, name in enumerate(names)},
        replicas_http=(base + 50, base + 449),
        replicas_grpc=(base + 450, base + 499),
    )


def free_ports(digest: int, is_free: Callable[[int], bool]) -> Ports | None:
    """The first block whose single ports are all free; None when there is none left."""
    for ports in blocks_for(digest):
        if all(is_free(port) for port in _single_ports(ports)):
            return ports
    return None


def _single_ports(ports: Ports) -> list[int]:
    return [value for value in msgspec.structs.astuple(ports) if isinstance(value, int)]


def is_free(port: int, host: str = "") -> bool:
    """Whether a server could listen on this port now; `host` empty: on every address."""
    return listen_error(port, host) is None


def listen_error(port: int, host: str = "") -> OSError | None:
    """What a server would run into that listened there now; None: nothing.

    A `gaierror` where `host` is neither an address nor a name of one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do, so that connections of a server that is gone do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except TypeError:  # what `bind` says of a name that cannot be encoded
        return socket.gaierror(socket.EAI_NONAME, "not a host name")
    except OSError as error:
        return error
    return None


def listener_of(port: int) -> psutil.Process | None:
    """The process that listens on a port, where this user may know."""
    try:
        for connection in psutil.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                return psutil.Process(connection.pid) if connection.pid else None
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return None
