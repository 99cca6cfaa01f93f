"""`/mcp`: one POST in, one answer out, at every revision.

Here the parts meet: `http_edge` admits, `protocol` decodes, the catalog names the caller, the
kernel serves, `Reply` writes. Whatever goes wrong is answered from the one table of errors; a bug
of ours is logged under an id, and the client is told that id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from thornback.cluster.catalog import Catalog
from thornback.cluster.errors import (
    CallCancelled,
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
    MODERN,
    REVISIONS,
    SUPPORTED_MODERN,
)
from thornback.deployments.access_log import AccessRecord, recorded
from thornback.deployments.clock import Clock
from thornback.deployments.exchange import Exchange, Incoming
from thornback.deployments.hot_path import HotPath
from thornback.deployments.http_edge import (
    ClientGone,
    Headers,
    Neighbours,
    Receive,
    Scope,
    check_post,
    disconnected,
    drain,
    read_body,
)
from thornback.deployments.replies import KEEP_ALIVE_S, Answer, Reply, Send, send_answer
from thornback.deployments.request_contexts import (
    SESSION_HEADER,
    VERSION_HEADER,
    exchange_of,
    session_of,
)
from thornback.deployments.request_ids import request_id_of, telling
from thornback.deployments.running_calls import Key, RunningCalls
from thornback.deployments.sdk import Kernel
from thornback.deployments.sessions import Sessions, session_key

logger = logging.getLogger(__name__)

Serve = Callable[[Exchange], Awaitable[Mapping[str, Any] | msgspec.Raw]]
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
    tell_request_ids: bool = True
    """Whether responses name their requests; not where somebody else adds that."""


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
        hot: HotPath | None = None,
    ) -> None:
        """
        Args:
            hot: None: everything goes through the kernel, which makes no difference but for time.
        """
        self._hot = hot
        self._settings = settings
        self._neighbours = neighbours
        self._catalogs = catalogs
        self._sessions = sessions
        self._kernel = kernel
        self._running = running
        self._pass_on_cancel = pass_on_cancel
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope)
        if self._settings.tell_request_ids:
            send = telling(send, request_id)
        with recorded(self._clock, self._settings.gateway, request_id) as record:
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
            incoming = Incoming(message, body, headers, caller, catalog, record.request_id)
            await self._request(incoming, receive, send, record)
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
        self, incoming: Incoming, receive: Receive, send: Send, record: AccessRecord
    ) -> None:
        request, reply = incoming.request, Reply(send, self._settings.keep_alive_s)
        record.method, record.name = request.method, _name_of(request)
        plain = session = None
        try:
            if self._hot is not None:
                plain = self._hot.exchange(incoming, reply)
            if plain is None:
                session = session_of(incoming, self._sessions)
                exchange = exchange_of(incoming, session, reply)
        except ThornbackError as error:
            await send_answer(send, _refusal(request.id, error, record))
            return
        except Exception:
            record.error = "internal"
            answer = _bug_answer(request, record.request_id)
            record.status = answer.status
            await send_answer(send, answer)
            return
        if self._hot is not None and plain is not None:
            await self._answer_here(self._hot, plain, reply, receive, record)
            return
        record.revision = exchange.revision.name
        key = (
            None if session is None else (session_key(incoming.headers[SESSION_HEADER]), request.id)
        )
        work = self._running.start(self._work(exchange, self._kernel.serve), key)
        gone = asyncio.ensure_future(disconnected(receive))
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

    async def _answer_here(
        self,
        hot: HotPath,
        exchange: Exchange,
        reply: Reply,
        receive: Receive,
        record: AccessRecord,
    ) -> None:
        """Answer a request in this task: it is one of 2026-07-28, and ends with its connection."""
        record.revision = exchange.revision.name
        task = self._running.enter()
        try:
            answer = await reply.during(self._work_here(exchange, hot, task), receive)
            record.status, record.error = answer.status, exchange.error
            await reply.finish(answer)
        finally:
            self._running.leave(task)
            reply.abandon()

    async def _work_here(self, exchange: Exchange, hot: HotPath, task: asyncio.Task[Any]) -> Answer:
        try:
            return await self._work(exchange, hot.serve)
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            return _cancelled(exchange)  # not this request, but what it waited for

    async def _work(self, exchange: Exchange, serve: Serve) -> Answer:
        """The answer to a request; raises nothing but `CancelledError`."""
        rpc_id, modern = exchange.request.id, exchange.revision.modern
        try:
            if exchange.request.method == "initialize" and not modern:
                return await self._initialize(exchange)
            return Answer(200, encode_result(rpc_id, await serve(exchange)))
        except ThornbackError as error:
            exchange.error = error.code
            return _error_answer(rpc_id, rpc_error(error), keep_status=modern)
        except Exception:
            exchange.error = "internal"
            return _bug_answer(exchange.request, exchange.request_id)

    async def _initialize(self, exchange: Exchange) -> Answer:
        result, revision = await self._kernel.initialize(exchange)
        params = exchange.request.params
        session_id = self._sessions.new_id(
            revision, params["capabilities"], params["clientInfo"], exchange.caller.principal
        )
        body = encode_result(exchange.request.id, result)
        return Answer(200, body, {"Mcp-Session-Id": session_id})


def _name_of(request: Request) -> str:
    name = request.params.get("name", request.params.get("uri", ""))
    return name if isinstance(name, str) else ""


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


def _bug_answer(request: Request, request_id: str) -> Answer:
    """The answer where an exception of ours is being handled, which only the log may tell."""
    error_id = new_id("err")
    about = {"request_ids": [request_id]}
    logger.exception("%s failed (%s)", shown(request.method), error_id, extra=about)
    return _error_answer(request.id, internal_error(error_id), keep_status=True)


def _cancelled(exchange: Exchange) -> Answer:
    """Nobody waits for this answer, but the response must end with one."""
    error = CallCancelled(shown(_name_of(exchange.request)) or exchange.request.method)
    exchange.error = error.code
    return Answer(200, encode_result(exchange.request.id, error_result(error)))
