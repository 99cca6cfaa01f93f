"""Changes of the registry while a cluster is under load, and how soon every gateway shows them.

A process of its own makes them, because it must join the cluster's Ray:

    python -m benchmarks.changes STATE_DIR FROM UNTIL COUNT

writes COUNT changes evenly between two moments of `time.monotonic`, looks for some of them in the
`tools/list` of each gateway, at its own port, and prints one JSON object.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil

from benchmarks.accounting import tree, usage
from benchmarks.measuring import Measured, Point, measure
from benchmarks.servers import NotStarted, Server, Variant
from thornback.cluster.actors import connect
from thornback.cluster.registry import edit_of
from thornback.deployments.cluster_file import ClusterFile, read_cluster_file
from thornback.deployments.load_wrk import CONNECT_S
from thornback.deployments.mcp_client import PROTOCOL_VERSION
from thornback.deployments.ray_driver import join, leave

CHANGED = "listed_0"
"""A tool on the first page of the list."""
EVERY = 50
"""One change in so many is looked for."""
SEEN_TIMEOUT_S = 10.0
START_S = 6.0
"""Until this process has joined the cluster."""


def measure_changing(server: Server, point: Point, run: int) -> Measured:
    """`measure`, with the changes of the point while the load is counted.

    Raises:
        NotStarted: the changes could not be made.
    """
    if not point.changes:
        return measure(server, point, run)
    assert isinstance(server, Variant)
    load = msgspec.structs.replace(point.load, warm_up_s=max(point.load.warm_up_s, START_S))
    from_s = time.monotonic() + CONNECT_S + load.warm_up_s
    with _changing(server.state_dir, from_s, from_s + load.seconds, point.changes) as changes:
        done = measure(server, msgspec.structs.replace(point, load=load), run)
        said, complaint = changes.communicate(timeout=60)
    if changes.returncode != 0:
        raise NotStarted(complaint)
    return msgspec.structs.replace(done, extra={**done.extra, **json.loads(said)})


@contextmanager
def _changing(
    state_dir: Path, from_s: float, until_s: float, count: int
) -> Iterator[subprocess.Popen[str]]:
    words = [str(state_dir), str(from_s), str(until_s), str(count)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.changes", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def moments(from_s: float, until_s: float, count: int) -> list[float]:
    """So many moments, evenly between two."""
    return [from_s + (until_s - from_s) * number / count for number in range(count)]


async def _make(cluster: ClusterFile, when: list[float]) -> dict[str, float]:
    registry = connect(cluster.namespace)
    catalog = await registry.catalog()
    tool: Any = next(t for t in catalog.of("tools").values() if getattr(t, "name", "") == CHANGED)
    seen_ms: list[float] = []
    gateways = [Gateway(port, cluster.url) for port in gateway_ports(cluster)]
    for number, moment in enumerate(when):
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        title = f"Revision {number}."
        await registry.write(edit_of(msgspec.structs.replace(tool, title=title)))
        if number % EVERY == 0:
            looks = (asyncio.to_thread(gateway.shows_after_s, title) for gateway in gateways)
            seen_ms.append(max(await asyncio.gather(*looks)) * 1000)
    await registry.write(edit_of(tool))
    late_s = time.monotonic() - when[-1]
    return {
        "changes_per_s": len(when) / (when[-1] - when[0] + late_s),
        "seen_p50_ms": statistics.median(seen_ms),
        "seen_max_ms": max(seen_ms),
        "gateways": float(len(gateways)),
    }


class Gateway:
    """One gateway, past the front door."""

    def __init__(self, port: int, front: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SEEN_TIMEOUT_S)
        body, headers = list_request()
        self._body, self._headers = body, {**headers, "Host": urlsplit(front).netloc}

    def shows_after_s(self, title: str) -> float:
        """Seconds until the first page of its list holds a text.

        Raises:
            TimeoutError: it does not.
        """
        began_s = time.monotonic()
        while time.monotonic() < began_s + SEEN_TIMEOUT_S:
            self._connection.request("POST", "/mcp", self._body, self._headers)
            if title.encode() in self._connection.getresponse().read():
                return time.monotonic() - began_s
        raise TimeoutError(f"{title} is not in the list after {SEEN_TIMEOUT_S:g} s")


def gateway_ports(cluster: ClusterFile) -> list[int]:
    """Where the gateways of a cluster listen themselves."""
    processes = tree(cluster.pids.values())
    gateways = {found.pid for found in usage(processes) if found.role == "gateway"}
    return sorted(
        port for process in processes if process.pid in gateways for port in _http_ports(process)
    )


def _http_ports(process: psutil.Process) -> list[int]:
    settings = process.environ()
    first, last = (
        int(settings[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")
    )
    listening = (c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    return [c.laddr.port for c in listening if first <= c.laddr.port <= last]


def list_request() -> tuple[bytes, dict[str, str]]:
    """Body and headers of a `tools/list` of 2026-07-28."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": PROTOCOL_VERSION,
        "Mcp-Method": "tools/list",
    }
    return json.dumps(body).encode(), headers


def main(state_dir: str, from_s: str, until_s: str, count: str) -> None:
    cluster = read_cluster_file(Path(state_dir))
    if cluster is None:
        raise SystemExit(f"no cluster has its state in {state_dir}")
    join(cluster)
    try:
        when = moments(float(from_s), float(until_s), int(count))
        print(json.dumps(asyncio.run(_make(cluster, when))))
    finally:
        leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
