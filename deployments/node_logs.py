"""Logs of every machine of a cluster: of this one from its files, of others through Ray.

Ray has no public way to a file of another machine that every dashboard offers, and `up` starts one
that offers none. So each other machine is sent a task that reads there; only lines that are wanted
travel. A machine that does not answer is named and the others are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from thornback.cluster.errors import LaunchError
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.log_files import Ask, Found, read_logs

NODE_TIMEOUT_S = 30.0
"""For a machine to start a worker, where none is idle, and read."""
FILES_PERIOD_S = 0.3
HEAD = "node:__internal_head__"
"""A resource that Ray gives its head."""
HERE = ""
"""Stands for this machine among nodes."""

Positions = Mapping[str, Mapping[str, int]]
"""`Found.positions` by node."""
Tell = Callable[[str], None]


class Logs(Protocol):
    """Where the lines of some nodes come from."""

    @property
    def period_s(self) -> float:
        """Seconds between two looks of who follows."""

    def look(self, ask: Ask, positions: Positions | None = None) -> dict[str, Found]:
        """What each node has; `positions`, as `read_logs` takes them, for what came since."""


@contextmanager
def logs_of(cluster: ClusterFile, tell: Tell) -> Iterator[Logs]:
    """The logs of a cluster's nodes.

    Args:
        tell: Told of each node that cannot be asked, once.

    Raises:
        LaunchError: if Ray cannot be asked, and nothing of it is known to be on this machine.
    """
    folder = logs_folder(cluster)
    if folder is not None and cluster.one_machine:
        yield _Together(folder, None)
        return
    with _joined(cluster, tell) as is_driver:
        yield _Together(folder, RayNodes(tell, but_head=folder is not None) if is_driver else None)


def logs_folder(cluster: ClusterFile) -> Path | None:
    """Where Ray keeps logs on this machine; None: `up` did not start that Ray, and cannot know."""
    return None if cluster.temp_dir is None else Path(cluster.temp_dir, "session_latest", "logs")


class _Together:
    """This machine's files, and what others answer."""

    def __init__(self, folder: Path | None, others: Logs | None) -> None:
        self._folder = folder
        self._others = others

    @property
    def period_s(self) -> float:
        return FILES_PERIOD_S if self._others is None else self._others.period_s

    def look(self, ask: Ask, positions: Positions | None = None) -> dict[str, Found]:
        found = {}
        if self._folder is not None:
            before = None if positions is None else positions.get(HERE)
            found[HERE] = read_logs(self._folder, ask, before)
        if self._others is not None:
            found |= self._others.look(ask, positions)
        return found


# --- through Ray ----------------------------------------------------------------------------------


@contextmanager
def _joined(cluster: ClusterFile, tell: Tell) -> Iterator[bool]:
    """Be a driver; False where that cannot be, and this machine's files will do."""
    # Not at the top: it brings Ray, which takes seconds, and one machine needs none of it.
    from thornback.deployments.ray_driver import join, leave

    try:
        join(cluster)
    except LaunchError as error:
        if logs_folder(cluster) is None:
            raise
        tell(f"only logs of this machine are searched: {error}")
        yield False
        return
    try:
        yield True
    finally:
        leave()


class RayNodes:
    """Every living node of the Ray that this process has joined."""

    period_s = 1.0

    def __init__(self, tell: Tell, *, but_head: bool) -> None:
        """
        Args:
            but_head: Whether the head's files are read without Ray, because it is this machine.
        """
        import ray

        self._but_head = but_head
        self._tell = tell
        self._task = ray.remote(num_cpus=0, max_retries=0)(_read_there)
        self._silent: set[str] = set()

    def look(self, ask: Ask, positions: Positions | None = None) -> dict[str, Found]:
        import ray

        known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["NodeID"] for node in known if self._is_asked(node)]
        asked = {self._send(node, ask, positions): node for node in nodes}
        if not asked:
            return {}
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_TIMEOUT_S)
        found = {}
        for answer in done:
            try:
                found[asked[answer]] = msgspec.msgpack.decode(ray.get(answer), type=Found)
            except Exception as error:  # Ray raises what it likes of a node that goes away
                self._say_silent(asked[answer], type(error).__name__)
        for answer in late:
            ray.cancel(answer, force=True)
            self._say_silent(asked[answer], f"no answer within {NODE_TIMEOUT_S:g} s")
        return found

    def _is_asked(self, node: Mapping[str, Any]) -> bool:
        return node["Alive"] and not (self._but_head and HEAD in node["Resources"])

    def _send(self, node: str, ask: Ask, positions: Positions | None) -> Any:
        """Have a node read; gives the reference of its answer."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        # A node that joined meanwhile is new as a whole.
        before = None if positions is None else positions.get(node, {})
        asked = msgspec.msgpack.encode((ask, before))
        return self._task.options(scheduling_strategy=there).remote(asked)

    def _say_silent(self, node: str, why: str) -> None:
        if node not in self._silent:
            self._silent.add(node)
            self._tell(f"node {node} does not show its logs: {why}")


def _read_there(asked: bytes) -> bytes:
    """Runs on the node."""
    from ray._private import worker

    ask, positions = msgspec.msgpack.decode(asked, type=tuple[Ask, dict[str, int] | None])
    node: Any = worker._global_node
    return msgspec.msgpack.encode(read_logs(Path(node.get_logs_dir_path()), ask, positions))
