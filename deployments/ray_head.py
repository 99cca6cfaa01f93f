"""`python -m thornback.deployments.ray_head`: start the head of a Ray of our own, and leave.

What `ray start --head` does, less what a cluster for tools has no use for, and twice as fast: the
`ray` command takes seven seconds of CPU to be imported, then starts the dashboard and the raylet
one after the other, a server for Ray Client, an autoscaler monitor, and eight dashboard modules of
which one is needed. Everything that touches Ray's private parts in order to start it is here.

Reads a JSON object of `HeadOptions` from its first argument, writes a JSON object of pids by role
to standard output, and exits; what it started goes on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
from ray import JobID, _raylet
from ray._private import node, parameter, ray_constants, services

from thornback.deployments.environment import FORKABLE
from thornback.deployments.ports import Ports
from thornback.deployments.process_start import FORK_SERVER, FORK_SOCKET

DASHBOARD_MODULES = "ServeHead"
DASHBOARD_NICENESS = 5


class HeadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to start the head."""

    temp_dir: str
    ports: Ports
    loopback_only: bool
    num_cpus: int | None = None
    object_store_memory_bytes: int | None = None


def start(options: HeadOptions) -> dict[str, int]:
    """Start the control store, the dashboard and this node; return the pid of each."""
    pids: dict[str, int] = {}
    start_process = services.start_ray_process
    to_fork_server = _listening_at(Path(options.temp_dir, FORK_SOCKET))

    def start_and_note(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            command = [*command, f"--modules-to-load={DASHBOARD_MODULES}"]
        info = start_process(command, process_type, *args, **kwargs)
        pids[process_type] = info.process.pid
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            # What a cluster waits for starts at the same time.
            psutil.Process(info.process.pid).nice(DASHBOARD_NICENESS)
        return info

    services.start_ray_process = start_and_note
    # Zero: the dashboard comes up beside the raylet, and `up` waits for it where it needs it.
    ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = 0
    ports = options.ports
    parameters: dict[str, Any] = {
        "node_ip_address": "127.0.0.1" if options.loopback_only else None,
        "gcs_server_port": ports.ray,
        "node_manager_port": ports.node_manager,
        "object_manager_port": ports.object_manager,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": ports.dashboard,
        "dashboard_agent_listen_port": ports.dashboard_agent,
        "metrics_agent_port": ports.dashboard_agent_grpc,
        "runtime_env_agent_port": ports.runtime_env_agent,
        "metrics_export_port": ports.metrics_export,
        "min_worker_port": 0,
        "max_worker_port": 0,
        "num_cpus": options.num_cpus,
        "object_store_memory": options.object_store_memory_bytes,
        "temp_dir": options.temp_dir,
        "include_log_monitor": False,
        "no_monitor": True,
    }

    class HeadNode(node.Node):
        def start_ray_processes(self) -> None:
            note_agent_ports(Path(self._session_dir), str(self._node_id), ports)
            super().start_ray_processes()  # type: ignore[no-untyped-call]

    HeadNode(
        parameter.RayParams(**parameters), head=True, shutdown_at_exit=False, spawn_reaper=False
    )
    log = Path(options.temp_dir, f"{FORK_SERVER}.log")
    raylet = pids[ray_constants.PROCESS_TYPE_RAYLET]
    pids[FORK_SERVER] = _start_fork_server(to_fork_server, raylet, log)
    return pids


def note_agent_ports(session_dir: Path, node_id: str, ports: Ports) -> None:
    """Leave word for the raylet where its agents will listen.

    It reads that from files of theirs, even where it has given them the ports itself, and ends when
    one is not there after 15 s, which is what an agent's imports take on a busy machine. Once it
    knows, it waits for the agents themselves as long as `RAY_agent_register_timeout_ms` says.
    """
    raylet: Any = _raylet
    known = {
        raylet.METRICS_AGENT_PORT_NAME: ports.dashboard_agent_grpc,
        raylet.METRICS_EXPORT_PORT_NAME: ports.metrics_export,
        raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME: ports.dashboard_agent,
        raylet.RUNTIME_ENV_AGENT_PORT_NAME: ports.runtime_env_agent,
    }
    for name, port in known.items():
        raylet.persist_port(str(session_dir), node_id, name, port)


def _listening_at(path: Path) -> socket.socket:
    """Before the raylet is there: its first worker must not come too early."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(socket.SOMAXCONN)
    return listener


def _start_fork_server(listener: socket.socket, raylet: int, log: Path) -> int:
    # The first driver of a Ray is `up`, and all that lasts in the cluster is of its job.
    ours = {
        "RAY_JOB_ID": JobID.from_int(1).hex(),
        "RAY_RAYLET_PID": str(raylet),
        **FORKABLE,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "thornback.deployments.fork_server"],
            stdin=listener.fileno(),
            stdout=output,
            stderr=output,
            env={**os.environ, **ours},
            start_new_session=True,
        )
    return process.pid


if __name__ == "__main__":
    chosen = msgspec.json.decode(sys.argv[1], type=HeadOptions)
    Path(chosen.temp_dir).mkdir(mode=0o700, exist_ok=True)
    found = start(chosen)
    sys.stdout.write(msgspec.json.encode(found).decode())
    sys.stdout.flush()
