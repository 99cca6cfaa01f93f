"""What a profile trades: the first call of a cluster and its idle memory, beside its speed."""

from __future__ import annotations

import time

import msgspec

from benchmarks.measuring import Measured, Point, measure
from benchmarks.servers import Server, Variant
from thornback.deployments.mcp_client import McpClient

SETTLE_S = 3.0
"""After which a pool that keeps a replica has it."""


def measure_profile(server: Server, point: Point, run: int) -> Measured:
    """`measure`; for one client on a cluster that nobody has called, and after its first call."""
    assert isinstance(server, Variant)
    if point.load.connections > 1:
        return measure(server, point, run)
    server.begin_anew()
    time.sleep(SETTLE_S)
    idle_mb = sum(server.unique_bytes().values()) / 1e6
    began_s = time.monotonic()
    with McpClient(server.url) as client:
        client.request("tools/call", {"name": "echo", "arguments": {"text": "first"}})
    first_call_ms = (time.monotonic() - began_s) * 1000
    done = measure(server, point, run)
    extra = {**done.extra, "first_call_ms": first_call_ms, "idle_mb": idle_mb}
    return msgspec.structs.replace(done, extra=extra)
