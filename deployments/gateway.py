"""`Gateway`: the ingress deployment, and the ASGI application that it serves.

The parts are made elsewhere and put together here, inside the replica. Between requests a gateway
keeps only what any other gateway could make again: its copy of the catalog, compiled schemas,
connections. Which tools there are it learns from the registry, never by import.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import msgspec
from ray import serve

from thornback.cluster.actors import connect
from thornback.cluster.blob_actor import BlobClient
from thornback.cluster.config import GatewayConfig
from thornback.deployments.access_log import log_to_output
from thornback.deployments.cancellations import Cancellations
from thornback.deployments.clock import Clock, SystemClock
from thornback.deployments.content_endpoint import PATH as CONTENT_PATH
from thornback.deployments.content_endpoint import ContentEndpoint
from thornback.deployments.contents import ContentReader
from thornback.deployments.dispatch import Pools
from thornback.deployments.draining import when_drained
from thornback.deployments.exchange import Exchange
from thornback.deployments.hot_path import HotPath
from thornback.deployments.http_edge import Neighbours, Receive, Scope, drain
from thornback.deployments.ingress import App, Ingress, is_asked
from thornback.deployments.listen import Listening
from thornback.deployments.lists import Lists
from thornback.deployments.live_numbers import sums_of
from thornback.deployments.mcp_endpoint import (
    Catalogs,
    EndpointSettings,
    McpEndpoint,
    PassOnCancel,
)
from thornback.deployments.mirror import CatalogMirror
from thornback.deployments.reading import Contents, Reading
from thornback.deployments.replies import KEEP_ALIVE_S, Answer, Send, send_answer
from thornback.deployments.request_states import RequestStates
from thornback.deployments.routing import Observe, PoolFinder, RoutingEngine
from thornback.deployments.running_calls import Key, RunningCalls
from thornback.deployments.sdk import Kernel
from thornback.deployments.seal import Seals
from thornback.deployments.sessions import Sessions
from thornback.deployments.telemetry import RaySink, Telemetry
from thornback.deployments.tool_calls import ToolCalls
from thornback.deployments.tracing import Service, Tracing
from thornback.deployments.uploads import Uploads

SERVER_NAME = "thornback"
FIRST_CATALOG_S = 60.0
CANCEL_TIMEOUT_S = 2.0
"""For every gateway to hear of cancellations: one that hangs holds up no others."""
COLLECT_EVERY = 50_000
"""New objects, less those gone, after which the garbage collector looks for cycles. Thousands of
calls that wait are objects which it would look through, with Python's 700, for every few new ones:
that was a third of what a gateway's own code took for each of 2,000 calls at a time."""


class GatewayApp:
    """ASGI: `/mcp`, `/resources/sha256/...`, `/healthz`, `/readyz`, and 404 for the rest; every
    body but a resource's is JSON."""

    def __init__(
        self,
        endpoint: App,
        content_endpoint: App,
        catalogs: Catalogs,
        on_shutdown: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._content_endpoint = content_endpoint
        self._catalogs = catalogs
        self._on_shutdown = on_shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"], scope.get("path"):
            case "lifespan", _:
                await self._lifespan(receive, send)
            case "http", "/mcp":
                await self._endpoint(scope, receive, send)
            case "http", str(path) if path.startswith(CONTENT_PATH):
                await self._content_endpoint(scope, receive, send)
            case "http", path:
                await drain(receive)
                await send_answer(send, self._elsewhere(path))
            case _:
                await send({"type": "websocket.close", "code": 1003})

    def _elsewhere(self, path: str | None) -> Answer:
        # The front end's own checks come with any Host, so none is asked for here.
        if path == "/healthz":
            return Answer(200, b'{"status":"ok"}')
        if path != "/readyz":
            return Answer(404, b'{"error":"not found"}')
        if self._catalogs.catalog.epoch > 0:
            return Answer(200, b'{"status":"ready"}')
        return Answer(503, b'{"status":"starting"}', {"Retry-After": "1"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._on_shutdown()
        await send({"type": "lifespan.shutdown.complete"})


def assemble(
    config: GatewayConfig,
    *,
    anonymous: bool,
    audience: str,
    gateway: str,
    keys: Sequence[bytes],
    catalogs: Catalogs,
    pools: PoolFinder,
    contents: Contents,
    uploads: Uploads,
    listening: Listening,
    running: RunningCalls,
    pass_on_cancel: PassOnCancel,
    observe: Observe | None,
    clock: Clock,
    tracing: Tracing | None = None,
    keep_alive_s: float = KEEP_ALIVE_S,
    with_hot_path: bool = True,
    tell_request_ids: bool = True,
) -> GatewayApp:
    """A gateway's application from its parts.

    Args:
        anonymous: Whether everybody is `anonymous`.
        audience: What seals are bound to: the cluster's namespace.
        gateway: Name of this replica in the access log.
        with_hot_path: False: the SDK's kernel answers everything, to compare with.
        tell_request_ids: False: somebody else adds that to responses.
        keys: The cluster's key ring; the first seals, all open.
        observe: As for `RoutingEngine`.
        tracing: None: nothing is traced.
    """
    seals = Seals(keys, audience)
    states = RequestStates(seals, clock)
    scope = "public" if anonymous else "private"
    lists = Lists(seals, config.page_size, scope)
    reading = Reading(contents, states, scope)
    engine = RoutingEngine(lambda: catalogs.catalog, pools, clock, config.max_timeout_s, observe)
    call = (tracing or Tracing()).calls(ToolCalls(engine, states).call)
    kernel = Kernel(
        SERVER_NAME,
        version("thornback"),
        handlers={
            "prompts/list": lists.prompts,
            "prompts/get": reading.get_prompt,
            "resources/list": lists.resources,
            "resources/templates/list": lists.templates,
            "resources/read": reading.read_resource,
            "resources/subscribe": _accept,
            "resources/unsubscribe": _accept,
            "subscriptions/listen": listening.listen,
            "completion/complete": reading.complete,
            "logging/setLevel": _accept,
        },
        direct={"tools/list": lists.tools, "tools/call": call},
        public=anonymous,
    )
    neighbours = Neighbours(config.host, config.port, config.allowed_hosts, config.allowed_origins)
    endpoint = McpEndpoint(
        EndpointSettings(anonymous, gateway, config.max_body_bytes, keep_alive_s, tell_request_ids),
        neighbours,
        catalogs,
        Sessions(seals, clock),
        kernel,
        running,
        pass_on_cancel,
        clock,
        HotPath(kernel, call=call, list_tools=lists.tools) if with_hot_path else None,
    )
    content_endpoint = ContentEndpoint(
        uploads,
        neighbours,
        catalogs,
        clock,
        anonymous=anonymous,
        gateway=gateway,
        tell_request_ids=tell_request_ids,
    )
    return GatewayApp(endpoint, content_endpoint, catalogs, listening.close)


async def _accept(_: Exchange) -> dict[str, Any]:
    """For what older revisions may ask and no gateway can keep: their sessions live in their ids,
    which are fixed when they begin, and there is no stream beside the calls to send on."""
    return {}


class Gateway:
    """The ingress deployment: one of these in each replica."""

    def __init__(
        self,
        cluster: str,
        anonymous: bool,
        gateway: Mapping[str, Any],
        telemetry: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            cluster: Namespace of the cluster's actors.
            anonymous: Whether everybody is `anonymous`: a cluster without principals.
            gateway: A `GatewayConfig`.
            telemetry: `metrics`: whether calls are counted (None: they are); `traces`: a digest of
                what `user_config` says of them.
        """
        self._cluster = cluster
        self._anonymous = anonymous
        self._config = GatewayConfig.model_validate(gateway)
        self._counts = (telemetry or {}).get("metrics", True)
        self._telemetry: Telemetry | None = None
        self._tracing = Tracing()
        self._clock = SystemClock()
        self._running = RunningCalls()
        self._listening = Listening()
        self._registry = connect(cluster)
        self._mirror = CatalogMirror(self._registry)
        self._draining: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> GatewayApp:
        """Called by Serve in the replica, before it takes requests."""
        gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])
        log_to_output()
        await self._mirror.start(FIRST_CATALOG_S)
        self._mirror.on_change(self._listening.changed)
        # In a context of its own, as the mirror's: it outlives what Serve does at the moment.
        self._draining = asyncio.get_running_loop().create_task(
            when_drained(self._listening.drain), context=contextvars.Context()
        )
        blobs = BlobClient(self._cluster)
        contents = ContentReader(blobs)
        pools = self._pools = Pools(self._clock, gather_s=self._config.gather_s)
        app = assemble(
            self._config,
            anonymous=self._anonymous,
            audience=self._cluster,
            gateway=serve.get_replica_context().replica_tag,
            keys=await self._registry.keys(),
            catalogs=self._mirror,
            pools=pools,
            contents=contents,
            uploads=Uploads(
                self._mirror, self._registry, blobs, contents, anonymous=self._anonymous
            ),
            listening=self._listening,
            running=self._running,
            pass_on_cancel=Cancellations(self._ask_all).pass_on,
            observe=self._observe(pools),
            clock=self._clock,
            tracing=self._tracing,
            tell_request_ids=is_asked(),  # otherwise Serve adds its own
        )
        Ingress.gateway = app
        return app

    def _observe(self, pools: Pools) -> Observe | None:
        if not self._counts:
            return None
        telemetry = self._telemetry = Telemetry(RaySink())
        telemetry.watch(pools.gauged)
        # In a context of its own: it outlives whatever it was begun in.
        self._exporting = asyncio.get_running_loop().create_task(
            telemetry.keep_exporting(), context=contextvars.Context()
        )
        return telemetry.observe

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Learn where traces go: Serve's word, before the first request."""
        replica = serve.get_replica_context().replica_tag
        service = Service(
            "thornback-gateway",
            self._cluster.removeprefix("thornback."),
            replica,
            version("thornback"),
        )
        await self._tracing.begin(user_config, service)

    def __del__(self) -> None:  # what Serve calls when it stops a replica
        with suppress(Exception):
            self._tracing.close()

    async def cancel(self, keys: Sequence[Key]) -> int:
        """Cancel what runs here of these calls; how many did."""
        return sum(self._running.cancel(key) for key in keys)

    async def numbers(self) -> bytes:
        """What this replica has counted, and what it does now: a `GatewaySums`, for `top`."""
        name = serve.get_replica_context().replica_tag
        counted = None if self._telemetry is None else self._telemetry.tools
        return msgspec.msgpack.encode(sums_of(name, counted, self._pools.gauged()))

    async def check_health(self) -> None:
        """A gateway that answers is well: without the registry it serves what it knows."""

    async def _ask_all(self, keys: Sequence[Key]) -> None:
        here = serve.get_replica_context()
        handle = serve.get_deployment_handle(here.deployment, here.app_name)
        await handle.broadcast("cancel", keys).results_async(timeout_s=CANCEL_TIMEOUT_S)


def gateway_deployment(name: str) -> Any:
    """The Serve deployment of `Gateway`, to be bound to its arguments."""
    return serve.deployment(name=name)(serve.ingress()(Gateway))
