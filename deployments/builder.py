"""Builders that Serve calls by import path: arguments in, an application out.

The only module that calls `bind`, and it decides nothing: every option of a deployment comes from
the rendered document, over the names that are given here.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from thornback.deployments.serve_config import GATEWAY_DEPLOYMENT, POOL_DEPLOYMENT


def gateway_app(args: dict[str, Any]) -> Application:
    """The gateway.

    Args:
        args: `cluster` (namespace), `anonymous`, `gateway` (a `GatewayConfig`) and `telemetry`
            (as in `Gateway`).
    """
    from thornback.deployments.gateway import gateway_deployment

    application: Application = gateway_deployment(GATEWAY_DEPLOYMENT).bind(**args)
    return application


def pool_app(args: dict[str, Any]) -> Application:
    """The tool hosts of one pool.

    Args:
        args: `cluster` (name), `pool` and `modules`.
    """
    from thornback.deployments.pool_replica import PoolReplica

    return serve.deployment(name=POOL_DEPLOYMENT)(PoolReplica).bind(**args)
