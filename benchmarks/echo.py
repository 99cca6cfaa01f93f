"""Calls per second and latency of an echo tool: the cluster against a bare MCP server.

    thornback up benchmark --detach
    python benchmarks/echo.py --url http://127.0.0.1:8080/mcp --out echo.jsonl

Both are measured in the same run, alternating, at 1, 16 and 64 connections; figures are ratios,
because a machine has good and bad days. The load comes from wrk (Debian: `apt-get install wrk`),
which spends about 8 microseconds of CPU on a call: the servers are the bottleneck, not it. One
JSON line for each measurement goes to `--out`, with wrk's own output and the CPU seconds of the
server's processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
CONNECTIONS = (1, 16, 64)
READY_TIMEOUT_S = 30.0
CLUSTER_PROCESSES = ("ray::", "raylet", "gcs_server", "haproxy", "ProxyActor", "ServeReplica")
"""Beginnings and parts of the command lines that belong to a Ray cluster."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="the cluster's /mcp")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--out", type=Path, default=Path("echo.jsonl"))
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")

    port = free_port()
    bare = subprocess.Popen([sys.executable, str(HERE / "bare.py"), str(port)])
    try:
        wait_until_listening(port)
        sides = {
            "bare": (f"http://127.0.0.1:{port}/mcp", lambda: [psutil.Process(bare.pid)]),
            "cluster": (options.url, cluster_processes),
        }
        measured = []
        with options.out.open("a", encoding="utf-8") as raw:
            for connections in CONNECTIONS:
                for url, _ in sides.values():
                    run_wrk(url, connections, 1.0)  # warm: connections, imports, code paths
                for number in range(options.rounds):
                    for side, (url, processes) in sides.items():
                        before = cpu_seconds(processes())
                        figures = run_wrk(url, connections, options.seconds)
                        figures["cpu_s"] = cpu_seconds(processes()) - before
                        figures |= {"side": side, "connections": connections, "round": number}
                        raw.write(json.dumps({"at": time.time(), **figures}) + "\n")
                        measured.append(figures)
        print(report(measured))
    finally:
        bare.terminate()
        bare.wait()


def run_wrk(url: str, connections: int, seconds: float) -> dict[str, Any]:
    """One measurement.

    Raises:
        SystemExit: an answer was wrong, or none came: such figures mean nothing.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    done = subprocess.run(
        [*command, "-s", str(HERE / "echo.lua"), url], capture_output=True, text=True, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON "))
    figures: dict[str, Any] = json.loads(line.removeprefix("JSON "))
    if figures["wrong"] or figures["socket_errors"] or not figures["calls"]:
        sys.exit(f"{url} answered wrongly:\n{done.stdout}")
    figures["calls_per_s"] = figures["calls"] / (figures["duration_us"] / 1e6)
    return figures | {"wrk": done.stdout}


def report(measured: list[dict[str, Any]]) -> str:
    """A Markdown table: medians over the rounds, and the cluster as a multiple of the bare one."""
    lines = [
        "| connections | bare calls/s | cluster calls/s | ratio | bare p50/p99 ms "
        "| cluster p50/p99 ms | bare CPU ms/call | cluster CPU ms/call |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for connections in CONNECTIONS:
        cells = {}
        for side in ("bare", "cluster"):
            rounds = [m for m in measured if m["side"] == side and m["connections"] == connections]
            cells[side] = {
                "rate": statistics.median(m["calls_per_s"] for m in rounds),
                "p50": statistics.median(m["p50_us"] for m in rounds) / 1000,
                "p99": statistics.median(m["p99_us"] for m in rounds) / 1000,
                "cpu": statistics.median(m["cpu_s"] / m["calls"] for m in rounds) * 1000,
            }
        bare, ours = cells["bare"], cells["cluster"]
        lines.append(
            f"| {connections} | {bare['rate']:.0f} | {ours['rate']:.0f} "
            f"| {ours['rate'] / bare['rate']:.2f} | {bare['p50']:.1f} / {bare['p99']:.1f} "
            f"| {ours['p50']:.1f} / {ours['p99']:.1f} | {bare['cpu']:.2f} | {ours['cpu']:.2f} |"
        )
    return "\n".join(lines)


def cluster_processes() -> list[psutil.Process]:
    """Every process of the Rays on this machine: run the benchmark where only one is."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if any(part in command for part in CLUSTER_PROCESSES):
            found.append(process)
    return found


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the bare server did not start")


if __name__ == "__main__":
    main()
