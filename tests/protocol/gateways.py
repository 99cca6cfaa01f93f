"""A gateway in this process: the real edge and engine, over pools that run tools right here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from tests.fakes import FakePools
from thornback.cluster.catalog import (
    AccessPolicy,
    Catalog,
    Entry,
    PoolEntry,
    PromptArgument,
    PromptAsk,
    PromptMessage,
    PromptSpec,
    ResourceSpec,
    TemplateSpec,
    key_of,
)
from thornback.cluster.config import GatewayConfig
from thornback.cluster.principals import Principal, PrincipalEntry, key_hash
from thornback.cluster.protocol import RpcId
from thornback.cluster.resources import sha256_of
from thornback.deployments.clock import SystemClock
from thornback.deployments.contents import ContentReader
from thornback.deployments.gateway import GatewayApp, assemble
from thornback.deployments.listen import Listening
from thornback.deployments.routing import PoolFinder
from thornback.deployments.running_calls import Key, RunningCalls
from thornback.deployments.telemetry import CallFacts
from thornback.deployments.tracing import Tracing
from thornback.deployments.uploads import Uploads
from thornback.tools.definition import Tool, tools_of

HOST = "127.0.0.1:8000"
MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
META = "io.modelcontextprotocol/"
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
POOL = PoolEntry(name="here", application="thornback.test.here", modules=("here",))
README = b"# Read me"


class Catalogs:
    """Stands for a `CatalogMirror`: a catalog that a test changes."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def put(self, *entries: Entry) -> tuple[Catalog, Catalog]:
        """Add entries; gives the catalogs before and after."""
        old = self.catalog
        spaces = {space: dict(old.of(space)) for space in SPACE_OF.values()}
        for entry in entries:
            spaces[SPACE_OF[type(entry).__name__]][key_of(entry)] = entry
        self.catalog = Catalog("sto_test", 1, old.number + 1, spaces)  # type: ignore[arg-type]
        return old, self.catalog


SPACE_OF = {
    "ToolSpec": "tools",
    "PromptSpec": "prompts",
    "ResourceSpec": "resources",
    "TemplateSpec": "templates",
    "PoolEntry": "pools",
    "PrincipalEntry": "principals",
}


class Bytes:
    """Stands for a `BlobClient`."""

    def __init__(self) -> None:
        self.by_hash = {sha256_of(README): README}

    async def get(self, sha256: str) -> bytes | None:
        return self.by_hash.get(sha256)


class Cluster:
    """What the gateways of one test share: keys, catalog, tools."""

    def __init__(
        self,
        tools: Iterable[Tool | ModuleType],
        entries: Iterable[Entry] = (),
        *,
        keys: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
        config: Mapping[str, Any] | None = None,
        keep_alive_s: float = 15.0,
        pools: PoolFinder | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Args:
            keys: Bearer key and tool patterns by principal; None: everybody is anonymous.
            config: Of the gateway.
            pools: None: the tools run right here.
            tracing: Of the gateways.
        """
        found = [t for o in tools for t in (tools_of(o) if isinstance(o, ModuleType) else [o])]
        self.pools: Any = pools or FakePools(found)
        self._tracing = tracing
        self.catalogs = Catalogs(Catalog("sto_test", 1, 1, {}))
        principals = [
            PrincipalEntry(name, key_hash(key), allowed)
            for name, (key, allowed) in (keys or {}).items()
        ]
        specs = [tool.spec(POOL.name) for tool in found]
        self.catalogs.put(POOL, *specs, *principals, *entries)
        self._anonymous = keys is None
        self._config = GatewayConfig.model_validate(config or {})
        self._keep_alive_s = keep_alive_s
        self._gateways: list[RunningCalls] = []
        self.listening: list[Listening] = []
        self.observed: list[CallFacts] = []
        """Of the calls that are over, through whichever gateway."""

    def gateway(self, *, with_hot_path: bool = True) -> Client:
        """One more gateway of this cluster, and a client of it."""
        running, listening = RunningCalls(), Listening()
        self._gateways.append(running)
        self.listening.append(listening)
        clock, contents = SystemClock(), ContentReader(Bytes())
        # Nothing is put here: uploads have tests of their own.
        nowhere: Any = None
        uploads = Uploads(self.catalogs, nowhere, nowhere, contents, anonymous=self._anonymous)
        app = assemble(
            self._config,
            anonymous=self._anonymous,
            audience="thornback.test",
            gateway=f"gateway-{len(self._gateways)}",
            keys=[b"k" * 32],
            catalogs=self.catalogs,
            pools=self.pools,
            contents=contents,
            uploads=uploads,
            listening=listening,
            running=running,
            pass_on_cancel=self._pass_on_cancel,
            observe=self.observed.append,
            clock=clock,
            tracing=self._tracing,
            keep_alive_s=self._keep_alive_s,
            with_hot_path=with_hot_path,
        )
        return Client(app, running)

    def put(self, *entries: Entry) -> None:
        """Change the catalog as the registry would, and let the gateways notice."""
        old, new = self.catalogs.put(*entries)
        for listening in self.listening:
            listening.changed(old, new)

    def _pass_on_cancel(self, _: Principal, key: Key) -> None:
        for running in self._gateways:
            running.cancel(key)


@dataclass
class Answered:
    """A response, as a client has it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> dict[str, Any]:
        """The answer: the body, or the last message of the stream."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return json.loads(self.body)
        return self.messages[-1]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Every message of a stream, in order."""
        lines = self.body.decode().split("\r\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    @property
    def notifications(self) -> list[dict[str, Any]]:
        return [m for m in self.messages if "method" in m]

    @property
    def result(self) -> dict[str, Any]:
        assert "result" in self.json, self.json
        return self.json["result"]

    @property
    def error(self) -> dict[str, Any]:
        assert "error" in self.json, self.json
        return self.json["error"]

    @property
    def text(self) -> str:
        """Text of a tool's result."""
        return "".join(block.get("text", "") for block in self.result["content"])


class Exchange:
    """A request on its way, whose response a test watches."""

    def __init__(
        self, app: GatewayApp, scope: dict[str, Any], body: bytes, more_body: Iterable[bytes]
    ) -> None:
        self.answered = Answered()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._moved = asyncio.Condition()
        pieces = [body, *more_body]
        for left, piece in zip(range(len(pieces) - 1, -1, -1), pieces, strict=True):
            message = {"type": "http.request", "body": piece, "more_body": left > 0}
            self._incoming.put_nowait(message)
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))  # type: ignore[arg-type]

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._moved:
            if message["type"] == "http.response.start":
                self.answered.status = message["status"]
                self.answered.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                self.answered.body += message["body"]
            self._moved.notify_all()

    async def until(self, text: str) -> None:
        """Wait until the response so far holds `text`."""
        async with asyncio.timeout(5), self._moved:
            await self._moved.wait_for(lambda: text.encode() in self.answered.body)

    @property
    def unread(self) -> int:
        """Pieces of the body that nobody has read."""
        return self._incoming.qsize()

    def disconnect(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def end(self) -> Answered:
        async with asyncio.timeout(10):
            await self.task
        return self.answered


class Client:
    """Speaks raw HTTP to one gateway."""

    def __init__(self, app: GatewayApp, running: RunningCalls, headers: Any = None) -> None:
        self.app = app
        self.running = running
        self._headers: dict[str, str] = headers or {}

    async def idle(self) -> None:
        """Wait until the gateway works on nothing."""
        async with asyncio.timeout(5):
            await asyncio.gather(*self.running, return_exceptions=True)

    def with_key(self, key: str | None) -> Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return Client(self.app, self.running, headers)

    def begin(
        self,
        body: bytes,
        headers: Mapping[str, str | None] | list[tuple[str, str]] | None = None,
        *,
        method: str = "POST",
        path: str = "/mcp",
        more_body: Iterable[bytes] = (),
    ) -> Exchange:
        """Send a request. Headers given as a mapping change the usual ones, None removes one; a
        list is sent as it is."""
        usual: dict[str, str | None] = {
            "host": HOST,
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "content-length": str(len(body)),
            **self._headers,
        }
        if not isinstance(headers, list):
            merged = {**usual, **(headers or {})}
            headers = [(name, value) for name, value in merged.items() if value is not None]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": raw,
        }
        return Exchange(self.app, scope, body, more_body)

    async def send(self, body: bytes, headers: Any = None, **options: Any) -> Answered:
        return await self.begin(body, headers, **options).end()

    def begin_call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        meta: Mapping[str, Any] | None = None,
        capabilities: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | None] | None = None,
        rpc_id: RpcId = 1,
    ) -> Exchange:
        """A request of 2026-07-28."""
        about = {
            f"{META}protocolVersion": MODERN,
            f"{META}clientCapabilities": capabilities or {},
            **(meta or {}),
        }
        full = {**(params or {}), "_meta": about}
        message = {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": full}
        routing: dict[str, str | None] = {"mcp-protocol-version": MODERN, "mcp-method": method}
        if method in NAMED_BY:
            routing["mcp-name"] = str(full.get(NAMED_BY[method], ""))
        return self.begin(json.dumps(message).encode(), {**routing, **(headers or {})})

    async def call(self, method: str, params: Any = None, **options: Any) -> Answered:
        return await self.begin_call(method, params, **options).end()

    async def tool(self, name: str, arguments: Any = None, **options: Any) -> Answered:
        return await self.call(
            "tools/call", {"name": name, "arguments": arguments or {}}, **options
        )

    async def session(self, revision: str, capabilities: Any = None) -> LegacyClient:
        """Initialize at an older revision."""
        info = {"name": "old", "version": "1"}
        params = {
            "protocolVersion": revision,
            "capabilities": capabilities or {},
            "clientInfo": info,
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        answered = await self.send(json.dumps(message).encode())
        session_id = answered.headers["mcp-session-id"]
        return LegacyClient(self, revision, session_id, answered.result)


@dataclass
class LegacyClient:
    """A client within a session; at revisions that know no version header it sends none."""

    client: Client
    revision: str
    session_id: str
    initialized: dict[str, Any]

    def begin_call(
        self, method: str, params: Any = None, *, meta: Any = None, rpc_id: RpcId | None = 1
    ) -> Exchange:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if meta is not None:
            message["params"] = {**message["params"], "_meta": meta}
        if rpc_id is not None:
            message["id"] = rpc_id
        headers: dict[str, str | None] = {"mcp-session-id": self.session_id}
        if self.revision >= "2025-06-18":
            headers["mcp-protocol-version"] = self.revision
        return self.client.begin(json.dumps(message).encode(), headers)

    async def call(self, method: str, params: Any = None, **options: Any) -> Answered:
        return await self.begin_call(method, params, **options).end()

    async def tool(self, name: str, arguments: Any = None, **options: Any) -> Answered:
        return await self.call(
            "tools/call", {"name": name, "arguments": arguments or {}}, **options
        )

    def on(self, client: Client) -> LegacyClient:
        """The same session, spoken to another gateway."""
        return LegacyClient(client, self.revision, self.session_id, self.initialized)


def offered(*, only: str = "*") -> list[Entry]:
    """A prompt of each kind, a resource and a template, for the principals that `only` names."""
    access = AccessPolicy((only,))
    form = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return [
        PromptSpec(
            name="greet",
            description="Greets.",
            arguments=(PromptArgument("tone", "How.", required=True, values=("warm", "cool")),),
            messages=(PromptMessage(text="Be {{ tone }}."),),
            access=access,
        ),
        PromptSpec(
            name="ask",
            description="Asks for a name.",
            asks=(PromptAsk("who", "Who are you?", _raw(form)),),
            messages=(PromptMessage(text="Hello {{ who.name }}"),),
            access=access,
        ),
        ResourceSpec(
            uri="test://readme",
            name="readme",
            mime_type="text/markdown",
            sha256=sha256_of(README),
            size_bytes=len(README),
            access=access,
        ),
        TemplateSpec(
            uri_template="test://notes/{day}", name="notes", text="On {{ day }}", access=access
        ),
    ]


def _raw(value: Any) -> Any:
    import msgspec

    return msgspec.Raw(json.dumps(value).encode())
