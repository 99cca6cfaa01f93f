"""What every Python process of a Ray of ours runs before anything else.

Python imports `sitecustomize` from its path when it starts; for these processes that is a copy of
this file, in a directory that they have on their `PYTHONPATH`. It does two things.

A worker of Ray asks the fork server (`fork_server`) for a process that has imported Ray, Serve and
our own modules already, and is done: five seconds of CPU for each replica become a hundredth. Where
there is no such server, or it does not want to, the worker goes on as any other.

Ray Serve is corrected in two places that have no setting. It imports pandas, where it is installed,
for one line of its JSON encoder: seconds of CPU, for data frames that nothing of ours sends. And a
replica's server for calls listens on every address, also where the whole cluster is one machine
that shows nothing to the network.

Standard library only: the copy stands alone.
"""

from __future__ import annotations

import array
import importlib.machinery
import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

WORKERS = ("/ray/_private/workers/setup_worker.py", "/ray/_private/workers/default_worker.py")
"""The two programs that a worker of Ray runs, one after the other."""
FORK_SERVER = "fork_server"
"""Its role among a cluster's processes."""
FORK_SOCKET = "fork.sock"
"""Name of its socket, beside the directory of this file's copy."""
FORKED = b"forked"
PATIENCE_S = 30.0
"""Longest wait for a fork server that is itself still importing."""


def ask_for_a_fork(socket_path: str, command: Sequence[str]) -> bool:
    """Have this process's work done by one that is forked for it.

    Args:
        socket_path: Where the fork server listens.
        command: The script and its arguments.

    Returns:
        Whether the forked process goes on in our place.
    """
    request = {
        "command": list(command),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "prefix": sys.prefix,
    }
    body = json.dumps(request).encode()
    streams = array.array("i", (0, 1, 2))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(PATIENCE_S)
        try:
            server.connect(socket_path)
            server.sendmsg(
                [struct.pack("!I", len(body))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
            )
            server.sendall(body)
            return server.recv(len(FORKED)) == FORKED
        except OSError:
            return False


def command_of(arguments: Sequence[str]) -> list[str]:
    """Script and arguments of a Python command line, without Python and its own options."""
    rest = list(arguments[1:])
    while rest and rest[0].startswith("-"):
        rest.pop(0)
    return rest


class CorrectedServe:
    """Finds one module of Ray Serve, and keeps pandas from another."""

    def __init__(self, *, one_machine: bool) -> None:
        self._one_machine = one_machine

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "pandas":
            # Tools import it freely; this module is ready to hear that there is none.
            serve = sys.modules.get("ray.serve._private.utils")
            if serve is not None and not hasattr(serve, "serve_encoders"):
                raise ModuleNotFoundError("not for Ray Serve's own use", name=name)
        if name == "ray.serve._private.replica" and self._one_machine:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if spec is not None and spec.origin is not None:
                spec.loader = LoopbackReplica(name, spec.origin)
            return spec
        return None


class LoopbackReplica(importlib.machinery.SourceFileLoader):
    """Loads Serve's replica so that its server for calls listens on loopback."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        listen = module.add_port_to_grpc_server

        def on_loopback(server: Any, address: str) -> Any:
            return listen(server, address.replace("[::]", "127.0.0.1"))

        module.add_port_to_grpc_server = on_loopback  # type: ignore[attr-defined]


def _start() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    command = command_of(sys.orig_argv)
    if command and command[0].endswith(WORKERS):
        fork_socket = os.path.join(os.path.dirname(here), FORK_SOCKET)
        if ask_for_a_fork(fork_socket, command):
            os._exit(0)
    one_machine = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"
    sys.meta_path.insert(0, CorrectedServe(one_machine=one_machine))
    # Somebody else's module of this name may stand behind ours.
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]
    other = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if other is not None and other.loader is not None:
        other.loader.exec_module(sys.modules["sitecustomize"])


if __name__ == "sitecustomize":
    _start()
