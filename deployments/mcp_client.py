"""The command line's own MCP client: one request, one answer, without a session.

It is not `mcp.Client`, because importing that takes two seconds and a call takes ten milliseconds.
What it knows is the little that revision 2026-07-28 needs: no session, no handshake, every request
complete in itself; in an older one it can ask servers that want no session either. It knows no
command and prints nothing.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from thornback.cluster.errors import ClusterNotRunning, ThornbackError
from thornback.cluster.revisions import MODERN, REVISIONS

PROTOCOL_VERSION = MODERN.name
CONNECT_TIMEOUT_S = 5.0
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose `Mcp-Name` header repeats a parameter."""

Notify = Callable[[str, dict[str, Any]], None]
"""Takes each notification that comes before the answer: its method and its params."""


class RefusedByCluster(ThornbackError):
    """The cluster understood the request and said no: a JSON-RPC error or an HTTP refusal."""

    code = "client.refused"

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number = number
        """JSON-RPC error code, or HTTP status."""
        self.why = why

    def __str__(self) -> str:
        return self.why


class GaveUpWaiting(ThornbackError):
    """The answer did not come within the time that the user gave."""

    code = "client.timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no answer within {self.timeout_s:g} s; the call was cancelled"


class McpClient:
    """Speaks to one cluster; closing it while a request runs cancels that request there."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        revision: str = PROTOCOL_VERSION,
    ) -> None:
        """
        Args:
            revision: `PROTOCOL_VERSION`, or an older one: its requests say it by header alone.
        """
        self.url = url
        """Of `/mcp`."""
        self._revision = revision
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # The environment's proxies are not for clusters: those are on this machine or at hand.
        self._http = httpx.Client(
            headers=headers, transport=transport, trust_env=False, follow_redirects=False
        )
        self._last_id = 0

    def __enter__(self) -> McpClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        notify: Notify | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Ask, pass on what is notified before the answer, and return the `result`.

        Args:
            notify: Given, progress is asked for.
            timeout_s: Seconds to wait; None: as long as the cluster lets the call run.

        Raises:
            RefusedByCluster: the answer is an error.
            GaveUpWaiting: `timeout_s` passed; the cluster was told by closing the response.
            ClusterNotRunning: nobody listens at the URL.
        """
        self._last_id += 1
        body = self._body(method, params or {}, progress=notify is not None)
        named = (params or {})[NAMED_BY[method]] if method in NAMED_BY else None
        headers = headers_of(self._revision, method, named)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=timeout_s, write=None, pool=None)
        try:
            with (
                self._reached(),
                self._http.stream(
                    "POST", self.url, json=body, headers=headers, timeout=timeout
                ) as response,
            ):
                for message in _messages(response):
                    if message is not None and "method" not in message:
                        return _result_of(message)
                    if message is not None and notify is not None:
                        notify(message["method"], message.get("params") or {})
                    if deadline is not None and time.monotonic() > deadline:
                        raise GaveUpWaiting(timeout_s or 0.0)
        except httpx.ReadTimeout as error:
            raise GaveUpWaiting(timeout_s or 0.0) from error
        raise RefusedByCluster(response.status_code, "the answer ended before it was complete")

    def pages(self, method: str, items: str) -> Iterator[dict[str, Any]]:
        """Every item of a paged list, e.g. `pages("tools/list", "tools")`."""
        cursor: str | None = None
        while True:
            result = self.request(method, {"cursor": cursor} if cursor else {})
            yield from result.get(items, [])
            cursor = result.get("nextCursor")
            if not cursor:
                return

    def put(self, sha256: str, content: Iterator[bytes], about: dict[str, str]) -> dict[str, Any]:
        """Upload content under its hash; `about`: `uri`, `name`, `title`, `mime_type`.

        Raises:
            RefusedByCluster: it was not kept.
            ClusterNotRunning: nobody listens at the URL.
        """
        parts = urlsplit(self.url)
        url = urlunsplit((parts.scheme, parts.netloc, f"/resources/sha256/{sha256}", "", ""))
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=None, write=None, pool=None)
        with self._reached():
            response = self._http.put(url, params=about, content=content, timeout=timeout)
        answer = _json_of(response)
        if response.is_error:
            raise _refusal(response.status_code, answer)
        return answer

    def _body(self, method: str, params: dict[str, Any], *, progress: bool) -> dict[str, Any]:
        meta = meta_of(self._revision)
        if meta:
            meta["io.modelcontextprotocol/clientInfo"] = {
                "name": "thornback-cli",
                "version": version("thornback"),
            }
        if progress:
            meta["progressToken"] = self._last_id
        return {
            "jsonrpc": "2.0",
            "id": self._last_id,
            "method": method,
            "params": {**params, "_meta": {**params.get("_meta", {}), **meta}},
        }

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ClusterNotRunning(f"nothing answers at {self.url}") from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise RefusedByCluster(0, f"the connection broke: {error}") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise RefusedByCluster(0, f"{self.url} is not an http URL") from error


def headers_of(revision: str, method: str, named: object | None) -> dict[str, str]:
    """The headers of a request.

    Args:
        named: What the method is asked of, for those that say it in `Mcp-Name`.
    """
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": revision,
    }
    if REVISIONS[revision].modern:
        headers["Mcp-Method"] = method
        if named is not None:
            headers["Mcp-Name"] = header_value(str(named))
    return headers


def meta_of(revision: str) -> dict[str, Any]:
    """What each request says of its client in `_meta`; nothing in older revisions."""
    if not REVISIONS[revision].modern:
        return {}
    return {
        "io.modelcontextprotocol/protocolVersion": revision,
        "io.modelcontextprotocol/clientCapabilities": {},
    }


def header_value(value: str) -> str:
    """A header value that carries any text (2026-07-28, transports, "Header Value Encoding")."""
    plain = value.isascii() and value.isprintable() and value == value.strip()
    if plain and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _messages(response: httpx.Response) -> Iterator[dict[str, Any] | None]:
    """The JSON-RPC messages of an answer as they come; None for a sign of life without one."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        response.read()
        answer = _json_of(response)
        if "jsonrpc" not in answer:
            raise _refusal(response.status_code, answer)
        yield answer
        return
    data: list[str] = []
    for line in response.iter_lines():
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            text = "\n".join(data)
            yield json.loads(text) if text else None  # an event may carry nothing but its id
            data.clear()
        else:
            yield None


def _json_of(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {}


def _result_of(message: dict[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise _refusal(message["error"].get("code", 0), message)
    result: dict[str, Any] = message.get("result", {})
    if result.get("resultType", "complete") != "complete":
        raise RefusedByCluster(0, "this needs input from a user, which the command line cannot ask")
    return result


def _refusal(number: int, answer: dict[str, Any]) -> RefusedByCluster:
    error = answer.get("error")
    why = error.get("message") if isinstance(error, dict) else error
    if number == 401:
        why = f"{why or 'a valid key is required'}: set THORNBACK_KEY or give --key-file"
    return RefusedByCluster(number, str(why or f"HTTP status {number}"))
