"""`ToolHost` as Ray Serve runs it: with a name by which a gateway reaches this very replica.

Serve's router sends a request that names a multiplexed model to a replica that has it. Each replica
has exactly one, its own id, so that naming it addresses the replica. Once it is gone Serve takes
another replica, whose answer says so.

Gateways on the same machine have a line to it. What travels there Serve does not see, so the
replica itself ends it well before it goes.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
from ray import serve

from thornback.deployments.autoscaling import autoscaling_stats
from thornback.deployments.local_line import LineServer
from thornback.deployments.log_records import mark_output
from thornback.deployments.tool_host import ToolHost

logger = logging.getLogger(__name__)


class PoolReplica(ToolHost):
    """The deployment of a pool."""

    _lines: LineServer | None = None

    def __init__(self, cluster: str, pool: str, modules: list[str]) -> None:
        mark_output()
        super().__init__(cluster, pool, modules)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        await super().reconfigure(user_config)
        await self._named(self._replica.replica_id)
        if self._lines is None:
            await self._listen()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy decides on; Serve asks now and then."""
        load = self.load()
        return autoscaling_stats(load.running, load.held)

    def __del__(self) -> Coroutine[Any, Any, None] | None:  # type: ignore[override]
        """Serve calls this when it stops the replica, and awaits what it gives; Python later."""
        lines, self._lines = self._lines, None
        if lines is None:
            self.close()
            return None
        return self._leave(lines)

    async def _leave(self, lines: LineServer) -> None:
        """What runs may end as it would if Serve knew of it; Serve kills what takes too long."""
        await lines.drain()
        self.close()

    async def _listen(self) -> None:
        lines, path = LineServer(self.send), _socket_path(self._replica.replica_id)
        try:
            await lines.listen(path)
        except OSError as error:  # a path that is too long, a folder that may not be written
            logger.warning("gateways here have no line to this replica: %s", error)
        else:
            self._lines = lines
            self._replica = msgspec.structs.replace(self._replica, line=str(path))

    @serve.multiplexed(max_num_models_per_replica=1)  # type: ignore[untyped-decorator]
    async def _named(self, replica_id: str) -> str:
        return replica_id


def _socket_path(replica_id: str) -> Path:
    """Beside Ray's own sockets, with a name as short as theirs: a path has at most 107 bytes."""
    worker: Any = importlib.import_module("ray._private.worker")
    name = hashlib.sha256(replica_id.encode()).hexdigest()[:10]
    return Path(worker._global_node.get_sockets_dir_path(), name)
