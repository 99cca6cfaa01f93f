"""`python -m thornback.deployments.fork_server`: the process that workers of Ray are forked from.

Each worker of Ray is a new Python that imports Ray, Serve and the module of its actor, five seconds
of CPU, before it does anything: on a small machine that is what a first call waits for, and what a
killed gateway takes from those that live. Here one process imports all that once, and each worker
that asks (`process_start`) is a copy of it. Copies share their memory until they change it.

A copy must be what the worker would have been, so it is refused where what was imported here would
have been another thing there: another Python, another job, a variable that is read on import. Such
a worker starts as Ray's workers do, and so do all when this process is gone. What Ray's private
parts must be told so that they notice that they are a copy is here and nowhere else.

Standard input is the socket to listen at; the environment is that of the workers, their job and
their raylet included. Ends with that raylet.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from thornback.deployments.environment import FORKABLE
from thornback.deployments.process_start import FORKED
from thornback.deployments.ray_settings import read_again

PRELOADED = (
    "ray._private.runtime_env.context",
    "ray._private.workers.default_worker",
    "ray.serve._private.controller",
    "ray.serve._private.haproxy",
    "ray.serve._private.proxy",
    "ray.serve._private.replica",
    "thornback.cluster.actors",
    "thornback.cluster.blob_actor",
    "thornback.deployments.builder",
    "thornback.deployments.discovery",
    "thornback.deployments.gateway",
    "thornback.deployments.pool_replica",
)
READ_ON_IMPORT = ("RAY_", "PYTHON", "LD_", "GRPC_", "OTEL_", "MALLOC_", "NPY_", *FORKABLE)
"""How the names of variables begin that what is imported here reads only then."""
MAY_DIFFER = {
    "PYTHONPATH",  # the copy's path is made anew
    "RAY_LD_PRELOAD_ON_WORKERS",  # for the raylet
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",  # told to the copy
}
REQUEST_TIMEOUT_S = 5.0
OOM_SCORE = 1000
"""What Ray's raylet gives its workers: the kernel ends them before Ray itself."""


class Request(msgspec.Struct, frozen=True):
    """What a worker would have been."""

    command: list[str]
    environment: dict[str, str]
    directory: str
    prefix: str
    """`sys.prefix`: which Python, with which packages."""


class Asked(NamedTuple):
    """A request, and the worker's standard streams."""

    streams: tuple[int, int, int]
    request: Request


def why_not(request: Request, own: Mapping[str, str], own_prefix: str) -> str | None:
    """Why a copy of this process would not be what the worker would have been; None: it would.

    Args:
        request: The worker's.
        own: The environment that this process imported with.
        own_prefix: Its `sys.prefix`.
    """
    if request.prefix != own_prefix:
        return f"it runs {request.prefix}"
    wanted = {**FORKABLE, **request.environment}
    for name in sorted({*own, *wanted} - MAY_DIFFER):
        if name.startswith(READ_ON_IMPORT) and own.get(name) != wanted.get(name):
            return f"its {name} differs"
    return None


def path_of(script: str, python_path: str, own_path: list[str], own_python_path: str) -> list[str]:
    """`sys.path` of a Python that runs `script`, from that of this one."""
    ours = [*filter(None, own_python_path.split(os.pathsep))]
    theirs = [*filter(None, python_path.split(os.pathsep))]
    rest = [entry for entry in own_path[1:] if entry not in ours and entry not in theirs]
    return [os.path.dirname(script), *theirs, *rest]


def main() -> None:
    """Import, listen, and fork; returns in a copy when the worker's program has ended."""
    listener = socket.socket(fileno=os.dup(0))
    raylet = os.pidfd_open(int(os.environ["RAY_RAYLET_PID"]))
    began_s = time.monotonic()
    with _no_random_numbers():
        for module in PRELOADED:
            importlib.import_module(module)
    # Run again as the program of each copy: it must not be there yet.
    del sys.modules["ray._private.workers.default_worker"]
    if problem := _unfit():
        _say(f"no worker is forked here: {problem}")
        return
    gc.collect()
    gc.freeze()  # a collection would write to the pages that copies share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies that end leave nothing behind
    _say(f"ready after {time.monotonic() - began_s:.1f} s")
    request = _next_copy(listener, raylet)
    if request is not None:
        listener.close()
        os.close(raylet)
        _tell_libraries()
        runpy.run_path(request.command[0], run_name="__main__")


def _say(text: str) -> None:
    # No logger: copies would inherit its handlers.
    print(text, file=sys.stderr, flush=True)


def _next_copy(listener: socket.socket, raylet: int) -> Request | None:
    """Answer workers. Returns in each copy, with what it is now; None: the raylet ended."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(raylet, select.POLLIN)
    while True:
        if raylet in {ready for ready, _ in poll.poll()}:
            return None
        connection, _ = listener.accept()
        with contextlib.closing(connection):
            try:
                asked = _receive(connection)
            except (OSError, ValueError, msgspec.DecodeError, struct.error) as error:
                _say(f"a worker asked in vain: {type(error).__name__}")
                continue
            if reason := why_not(asked.request, os.environ, sys.prefix):
                _say(f"a worker starts by itself: {reason}")
            elif os.fork() == 0:
                _become(asked)
                # Not sooner: where that failed the worker must go on by itself.
                connection.sendall(FORKED)
                return asked.request
            for stream in asked.streams:
                os.close(stream)


def _receive(connection: socket.socket) -> Asked:
    connection.settimeout(REQUEST_TIMEOUT_S)
    length, control, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i")
    for _, kind, data in control:
        if kind == socket.SCM_RIGHTS:
            streams.frombytes(data)
    (left,) = struct.unpack("!I", length)
    parts = []
    while left:
        part = connection.recv(left)
        if not part:
            raise ValueError("the request ends too early")
        parts.append(part)
        left -= len(part)
    request = msgspec.json.decode(b"".join(parts), type=Request)
    stdin, stdout, stderr = streams
    return Asked((stdin, stdout, stderr), request)


def _become(asked: Asked) -> None:
    """Be as a Python that was started for the worker's program."""
    request = asked.request
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), "ascii")
    for number, stream in enumerate(asked.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.directory)
    own_python_path = os.environ.get("PYTHONPATH", "")
    os.environ.clear()
    os.environ.update(request.environment)
    script = request.command[0]
    sys.argv[:] = request.command
    sys.path[:] = path_of(script, os.environ.get("PYTHONPATH", ""), sys.path, own_python_path)
    importlib.invalidate_caches()


# --- what a library must be told, or kept from ----------------------------------------------------


@contextlib.contextmanager
def _no_random_numbers() -> Iterator[None]:
    """Keep Ray's generator of ids unseeded: its state would be the same in every copy.

    Each class of actors that a module declares gets a random id; here the system makes it.
    """
    actor: Any = importlib.import_module("ray.actor")
    ids = actor.ActorClassID

    class SystemIds:
        def __new__(cls, data: bytes) -> Any:
            return ids(data)

        @staticmethod
        def from_random() -> Any:
            return ids(os.urandom(ids.size()))

    actor.ActorClassID = SystemIds
    try:
        yield
    finally:
        actor.ActorClassID = ids


def _unfit() -> str | None:
    """Why this process must not be copied; None: it may be."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"it has {threads} threads"
    if _random_id_of_a_copy() == _random_id_of_a_copy():
        return "its copies would make the same random ids"
    return None


def _random_id_of_a_copy() -> bytes:
    from ray import ObjectID

    reading, writing = os.pipe()
    if (copy := os.fork()) == 0:
        os.write(writing, ObjectID.from_random().binary())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as made:
        drawn = made.read()
    os.waitpid(copy, 0)
    return drawn


def _tell_libraries() -> None:
    """What libraries read or drew when they were imported, in a copy."""
    numpy: Any = importlib.import_module("numpy")
    replica: Any = importlib.import_module("ray.serve._private.replica")
    read_again()
    numpy.random.seed()
    draining = os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S")
    if draining is not None:
        replica.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S = float(draining)


if __name__ == "__main__":
    main()
