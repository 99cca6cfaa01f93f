"""`/mcp`: one POST in, one answer out, at every revision.

Here the parts meet: `http_edge` admits, `protocol` decodes, the catalog names the caller, the
kernel serves, `Reply` writes. Whatever goes wrong is answered from the one table of errors; a bug
of ours is logged under an id, and the client is told that id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from thornback.cluster.catalog import Catalog
from thornback.cluster.errors import (
    CallCancelled,
    HeaderMismatch,
    HttpRefusal,
    InvalidRequest,
    ThornbackError,
    UnsupportedVersion,
    shown,
)
from thornback.cluster.ids import new_id
from thornback.cluster.principals import Caller, Principal
from thornback.cluster.protocol import (
    Notification,
    Request,
    Response,
    RpcError,
    RpcId,
    decode_message,
    encode_error,
    encode_result,
    error_result,
    internal_error,
    is_id,
    rpc_error,
)
from thornback.cluster.revisions import (
    ASSUMED,
    LATEST_LEGACY,
    MODERN,
    REVISIONS,
    SUPPORTED_MODERN,
    VERSION_META,
    Revision,
    revision_asked,
)
from thornback.deployments.access_log import AccessRecord, recorded
from thornback.deployments.clock import Clock
from thornback.deployments.exchange import Exchange
from thornback.deployments.http_edge import (
    ClientGone,
    Headers,
    Neighbours,
    Receive,
    Scope,
    check_post,
    drain,
    read_body,
)
from thornback.deployments.replies import KEEP_ALIVE_S, Answer, Reply, Send, send_answer
from thornback.deployments.running_calls import Key, RunningCalls
from thornback.deployments.sdk import Kernel, check_param_headers, read_envelope
from thornback.deployments.sessions import Session, Sessions, session_key
from thornback.deployments.tool_calls import requested_version

VERSION_HEADER = "mcp-protocol-version"
SESSION_HEADER = "mcp-session-id"

logger = logging.getLogger(__name__)

PassOnCancel = Callable[[Principal, Key], None]
"""Has a call cancelled that another gateway may run: `Cancellations.pass_on`."""


class Catalogs(Protocol):
    """Where the catalog of the moment comes from: `mirror.CatalogMirror`."""

    @property
    def catalog(self) -> Catalog: ...


def caller_of(headers: Headers, catalog: Catalog, *, anonymous: bool) -> Caller:
    """Who sends a request, to any endpoint of this gateway.

    Raises:
        HttpRefusal: 401 without a valid key; 503 while the gateway has no catalog, because it
            then knows neither keys nor what they open.
    """
    if catalog.epoch == 0:
        raise HttpRefusal(503, "this gateway is starting", {"Retry-After": "1"})
    return catalog.principal_book.caller_of(headers.get("authorization"), anonymous=anonymous)


class EndpointSettings(msgspec.Struct, frozen=True):
    """What the endpoint must know of the config."""

    anonymous: bool
    """Whether everybody is `anonymous`."""
    gateway: str
    """Name of this gateway in the access log."""
    max_body_bytes: int = 4 * 1024 * 1024
    keep_alive_s: float = KEEP_ALIVE_S


class McpEndpoint:
    """Answers HTTP requests for `/mcp`."""

    def __init__(
        self,
        settings: EndpointSettings,
        neighbours: Neighbours,
        catalogs: Catalogs,
        sessions: Sessions,
        kernel: Kernel,
        running: RunningCalls,
        pass_on_cancel: PassOnCancel,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._neighbours = neighbours
        self._catalogs = catalogs
        self._sessions = sessions
        self._kernel = kernel
        self._running = running
        self._pass_on_cancel = pass_on_cancel
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with recorded(self._clock, self._settings.gateway) as record:
            await self._answer(scope, receive, send, record)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: AccessRecord
    ) -> None:
        catalog = self._catalogs.catalog
        try:
            headers = Headers(scope["headers"])
            caller = self._admit(scope["method"], headers, catalog)
            record.principal = caller.principal.name
            check_post(headers)
        except ThornbackError as error:
            await drain(receive)
            await send_answer(send, _refusal(None, error, record))
            return
        try:
            body = await read_body(receive, headers, self._settings.max_body_bytes, self._clock)
            message = decode_message(body)
        except ThornbackError as error:
            await send_answer(send, _refusal(None, error, record))
            return
        if isinstance(message, Request):
            await self._request(message, body, headers, caller, catalog, receive, send, record)
        else:
            await send_answer(send, await self._acknowledge(message, headers, caller, record))

    def _admit(self, method: str, headers: Headers, catalog: Catalog) -> Caller:
        """Who calls, if this request may come in at all."""
        self._neighbours.check(headers)
        if method != "POST":
            raise HttpRefusal(405, "use POST", {"Allow": "POST"})
        return caller_of(headers, catalog, anonymous=self._settings.anonymous)

    # --- notifications and responses --------------------------------------------------------------

    async def _acknowledge(
        self,
        message: Notification | Response,
        headers: Headers,
        caller: Caller,
        record: AccessRecord,
    ) -> Answer:
        """202 for what needs no answer; a `notifications/cancelled` of a session is acted on."""
        version = headers.get(VERSION_HEADER)
        try:
            legacy = version is None or (version in REVISIONS and not REVISIONS[version].modern)
            if isinstance(message, Response):
                if not legacy:
                    raise InvalidRequest("this server asks nothing, so nothing can be a response")
            else:
                record.method = message.method
                if not legacy and version != MODERN.name:
                    raise UnsupportedVersion(version or "", SUPPORTED_MODERN)
                if legacy:
                    self._notified(message, headers, caller)
        except ThornbackError as error:
            return _refusal(None, error, record)
        record.status = 202
        return Answer(202, b"")

    def _notified(self, message: Notification, headers: Headers, caller: Caller) -> None:
        session_id = headers.get(SESSION_HEADER)
        if session_id is None:
            return
        self._sessions.read(session_id, caller.principal)
        rpc_id = message.params.get("requestId")
        # What is no id names no request; a long one would travel to every gateway all the same.
        if message.method != "notifications/cancelled" or not is_id(rpc_id):
            return
        key = (session_key(session_id), rpc_id)
        if not self._running.cancel(key):
            self._pass_on_cancel(caller.principal, key)

    # --- requests ---------------------------------------------------------------------------------

    async def _request(
        self,
        request: Request,
        body: bytes,
        headers: Headers,
        caller: Caller,
        catalog: Catalog,
        receive: Receive,
        send: Send,
        record: AccessRecord,
    ) -> None:
        reply = Reply(send, self._settings.keep_alive_s)
        record.method, record.name = request.method, _name_of(request)
        try:
            session = self._session_of(request, headers, caller)
            exchange = _exchange(
                request, body, headers, caller, catalog, session, reply, record.call_id
            )
        except ThornbackError as error:
            await send_answer(send, _refusal(request.id, error, record))
            return
        except Exception:
            record.error = "internal"
            answer = _bug_answer(request)
            record.status = answer.status
            await send_answer(send, answer)
            return
        record.revision = exchange.revision.name
        key = None if session is None else (session_key(headers[SESSION_HEADER]), request.id)
        work = self._running.start(self._work(exchange), key)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await reply.follow(work, gone)
            if not work.done():
                raise ClientGone
            answer = _cancelled(exchange) if work.cancelled() else work.result()
            record.status, record.error = answer.status, exchange.error
            await reply.finish(answer)
        finally:
            gone.cancel()
            reply.abandon()
            # Closing the response is the cancellation since 2026-07-28, and is none before
            # (2026-07-28, basic/patterns/cancellation; 2025-11-25, basic/transports).
            if exchange.revision.modern:
                work.cancel()

    async def _work(self, exchange: Exchange) -> Answer:
        """The answer to a request; raises nothing but `CancelledError`."""
        rpc_id, modern = exchange.request.id, exchange.revision.modern
        try:
            if exchange.request.method == "initialize" and not modern:
                return await self._initialize(exchange)
            return Answer(200, encode_result(rpc_id, await self._kernel.serve(exchange)))
        except ThornbackError as error:
            exchange.error = error.code
            return _error_answer(rpc_id, rpc_error(error), keep_status=modern)
        except Exception:
            exchange.error = "internal"
            return _bug_answer(exchange.request)

    async def _initialize(self, exchange: Exchange) -> Answer:
        result, revision = await self._kernel.initialize(exchange)
        params = exchange.request.params
        session_id = self._sessions.new_id(
            revision, params["capabilities"], params["clientInfo"], exchange.caller.principal
        )
        body = encode_result(exchange.request.id, result)
        return Answer(200, body, {"Mcp-Session-Id": session_id})

    def _session_of(self, request: Request, headers: Headers, caller: Caller) -> Session | None:
        """The session of a request of an older revision, None where it names none.

        Raises:
            HttpRefusal: 404 for a session that is not this caller's.
            HeaderMismatch: if the header names another revision than the session agreed on.
        """
        asked = revision_asked(headers.get(VERSION_HEADER), request.meta)
        if request.method == "initialize" or (asked is not None and asked.modern):
            return None
        if SESSION_HEADER not in headers:
            return None
        session = self._sessions.read(headers[SESSION_HEADER], caller.principal)
        if asked is not None and asked != session.revision:
            raise HeaderMismatch(
                f"MCP-Protocol-Version header says {asked.name}, the session agreed on "
                f"{session.revision_name}"
            )
        return session


def _exchange(
    request: Request,
    body: bytes,
    headers: Headers,
    caller: Caller,
    catalog: Catalog,
    session: Session | None,
    reply: Reply,
    call_id: str,
) -> Exchange:
    """The request with its context, which is its own, its session's or none.

    Raises:
        ThornbackError: if headers and body of a request of 2026-07-28 do not agree.
    """
    version = headers.get(VERSION_HEADER)
    revision = revision_asked(version, request.meta)
    capabilities: Mapping[str, Any] = {}
    info: Mapping[str, Any] | None = None
    if revision is not None and revision.modern:
        if version != MODERN.name and VERSION_META not in (request.meta or {}):
            raise UnsupportedVersion(version or "", SUPPORTED_MODERN)
        capabilities, info = read_envelope(request, headers)
        _check_param_headers(request, headers, caller, catalog)
    elif session is not None:
        revision, capabilities = session.revision, session.capabilities
        info = {"name": session.client_name, "version": session.client_version}
    return Exchange(
        request=request,
        body=body,
        revision=revision or _assumed(request),
        caller=caller,
        catalog=catalog,
        capabilities=capabilities,
        client_info=info,
        notify=reply.notify,
        room=reply.room,
        call_id=call_id,
    )


def _assumed(request: Request) -> Revision:
    return LATEST_LEGACY if request.method == "initialize" else ASSUMED


def _check_param_headers(
    request: Request, headers: Headers, caller: Caller, catalog: Catalog
) -> None:
    name, arguments = request.params.get("name"), request.params.get("arguments")
    if request.method == "tools/call" and isinstance(name, str):
        spec = catalog.tool(name, caller, requested_version(request.meta or {}))
        if spec is not None:
            given = arguments if isinstance(arguments, dict) else {}
            check_param_headers(spec, given, headers)


def _name_of(request: Request) -> str:
    name = request.params.get("name", request.params.get("uri", ""))
    return name if isinstance(name, str) else ""


async def _disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(rpc_id: RpcId | None, error: ThornbackError, record: AccessRecord) -> Answer:
    """The answer to what was not begun; notes it in the access record."""
    answer = _error_answer(rpc_id, rpc_error(error), keep_status=True)
    record.status, record.error = answer.status, error.code
    return answer


def _error_answer(rpc_id: RpcId | None, error: RpcError, *, keep_status: bool) -> Answer:
    """
    Args:
        keep_status: Whether HTTP says what JSON-RPC says. Before 2026-07-28 an error of a method
            is an answer like any other, on 200.
    """
    busy = error.status == 503
    status = error.status if keep_status or busy else 200
    return Answer(status, encode_error(rpc_id, error), error.headers)


def _bug_answer(request: Request) -> Answer:
    """The answer where an exception of ours is being handled, which only the log may tell."""
    error_id = new_id("err")
    logger.exception("%s failed (%s)", shown(request.method), error_id)
    return _error_answer(request.id, internal_error(error_id), keep_status=True)


def _cancelled(exchange: Exchange) -> Answer:
    """Nobody waits for this answer, but the response must end with one."""
    error = CallCancelled(shown(_name_of(exchange.request)) or exchange.request.method)
    exchange.error = error.code
    return Answer(200, encode_result(exchange.request.id, error_result(error)))
