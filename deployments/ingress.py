"""From the HTTP server of a gateway's replica straight to its `Gateway`.

Serve wraps each request in contexts, tasks and metrics of its own, which cost more than all that
a gateway does with a call. What they are for is done here already: a client that leaves is noticed
(`replies`), calls are counted and timed (`telemetry`), a queue has its limit (`dispatch`), and a
server that is taken away first ends what it has begun. So Serve's own door is left to Serve's own
paths, and to processes that have no gateway. Serve asks `middlewares` for this in every process
with an HTTP server, where `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvicorn.config
from starlette.middleware import Middleware

from thornback.deployments.http_edge import Receive, Scope
from thornback.deployments.replies import Send

logger = logging.getLogger(__name__)

PROTOCOL = "thornback.deployments.http_protocol:GatewayProtocol"
SERVES_PATHS = "/-/"
"""Health checks of HAProxy, which hear from Serve alone that a replica is taken away."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Ingress:
    """ASGI: passes requests to the gateway of this process; Serve's paths, and all where there is
    none, to Serve."""

    gateway: App | None = None
    """Set once, by the gateway that this process is."""

    def __init__(self, app: App) -> None:
        """
        Args:
            app: Serve's.
        """
        self._serve = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = Ingress.gateway
        if gateway is None or scope["path"].startswith(SERVES_PATHS):
            await self._serve(scope, receive, send)
        else:
            await gateway(scope, receive, send)


def middlewares() -> list[Any]:
    """What Serve puts around its own application, the outermost last.

    Asked before Serve makes the server, for whose protocol it has no option.
    """
    if _protocol_fits():
        uvicorn.config.HTTP_PROTOCOLS["auto"] = PROTOCOL
    else:
        logger.warning(
            "uvicorn %s is made otherwise than Thornback knows it: answers are as they are "
            "elsewhere, at some more CPU a call",
            uvicorn.__version__,
        )
    return [Middleware(Ingress)]


def _protocol_fits() -> bool:
    try:  # it imports this module, and parts of uvicorn that others may not have
        from thornback.deployments.http_protocol import fits
    except ImportError:
        return False
    return fits()


def is_asked() -> bool:
    """Whether Serve asks for `middlewares` in this process."""
    from ray.serve._private import constants

    return bool(constants.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)
