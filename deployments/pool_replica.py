"""`ToolHost` as Ray Serve runs it: with a name by which a gateway reaches this very replica.

Serve's router sends a request that names a multiplexed model to a replica that has it. Each replica
has exactly one, its own id, so that naming it addresses the replica. Once it is gone Serve takes
another replica, whose answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from thornback.deployments.autoscaling import autoscaling_stats
from thornback.deployments.log_records import mark_output, take_back_output
from thornback.deployments.tool_host import ToolHost


class PoolReplica(ToolHost):
    """The deployment of a pool."""

    def __init__(self, cluster: str, pool: str, modules: list[str]) -> None:
        take_back_output()
        mark_output()
        super().__init__(cluster, pool, modules)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        await super().reconfigure(user_config)
        await self._named(self._replica.replica_id)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy decides on; Serve asks now and then."""
        load = self.load()
        return autoscaling_stats(load.running, load.held)

    @serve.multiplexed(max_num_models_per_replica=1)  # type: ignore[untyped-decorator]
    async def _named(self, replica_id: str) -> str:
        return replica_id
