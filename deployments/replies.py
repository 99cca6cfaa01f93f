"""The answer to one POST: one JSON body, or a stream once there is something to say before it.

A call that says nothing is answered as JSON, because many clients hang on a stream that is cut. The
stream is begun with the first notification, or after `KEEP_ALIVE_S` of silence so that no front end
takes the connection for dead, and it always ends with the answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from thornback.cluster.protocol import encode_notification
from thornback.deployments.http_edge import (
    JSON_TYPE,
    STREAM_TYPE,
    ClientGone,
    Receive,
    disconnected,
)

Send = Callable[[dict[str, Any]], Awaitable[None]]

KEEP_ALIVE_S = 15.0
WATCH_AFTER_S = 0.1
"""Until then nobody looks whether a client that waits for its answer is still there."""
LINGER_S = 0.5
"""Between an answer after which the connection ends, and that end."""
MAX_WAITING_NOTIFICATIONS = 1024
MAX_WAITING_BYTES = 4 * 1024 * 1024
"""For a client that reads slower than its tool reports. The oldest go first: notifications advise,
the answer is complete without them."""
ROOM_NOTIFICATIONS = 64
ROOM_BYTES = 256 * 1024
"""Where more than this waits, whoever can wait for room does: its items are not lost."""

_JSON_HEADER = (b"content-type", JSON_TYPE.encode())
_STREAM_HEADERS = [
    (b"content-type", STREAM_TYPE.encode()),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Answer(NamedTuple):
    """What ends an exchange."""

    status: int
    body: bytes
    """JSON, or empty for an acknowledged notification."""
    headers: Mapping[str, str] = {}


class Reply:
    """Writes the response of one request."""

    def __init__(self, send: Send, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        """Set when something was written, and when nothing will be any more."""
        self._streaming = False
        self._abandoned = False
        self._on_first: Callable[[], None] | None = None
        """Called before anything is queued."""

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Queue a notification; it is sent before the answer."""
        if self._abandoned:
            return
        if self._on_first is not None:
            self._on_first()
        self._waiting.append(encode_notification(method, params))
        self._waiting_bytes += len(self._waiting[-1])
        while (
            len(self._waiting) > MAX_WAITING_NOTIFICATIONS
            or self._waiting_bytes > MAX_WAITING_BYTES
        ):
            self._next()
        self._wake.set()

    async def room(self) -> None:
        """Wait until so much is written that another notification would soon be; not for a client
        that is gone."""
        while not self._abandoned and (
            len(self._waiting) > ROOM_NOTIFICATIONS or self._waiting_bytes > ROOM_BYTES
        ):
            self._written.clear()
            await self._written.wait()

    def abandon(self) -> None:
        """Nobody reads any more; what is queued now and later is dropped."""
        self._abandoned = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._written.set()

    async def during(self, work: Awaitable[Answer], receive: Receive) -> Answer:
        """Await `work` in the current task, write what it reports, and give its answer.

        For work that is over as soon as its client is gone. Nobody watches for that at first: most
        work ends sooner than a client could leave, and says nothing before.

        Raises:
            ClientGone: if the client left; the work was cancelled.
        """
        watch = _Watch(self, receive, asyncio.current_task(), self._keep_alive_s)
        timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, watch.begin)
        self._on_first = watch.write
        try:
            answer = await work
        except asyncio.CancelledError:
            watch.check()
            raise
        finally:
            timer.cancel()
            self._on_first = None
            watch.end()
        if watch.writing is not None:
            await watch.writing
        watch.check()
        return answer

    async def follow(self, work: asyncio.Future[Any], gone: asyncio.Future[None]) -> None:
        """Write what `work` reports, until it is done or the client is `gone`.

        Afterwards, unless the client is gone, `finish` is due.
        """
        for future in (work, gone):
            future.add_done_callback(lambda _: self._wake.set())
        while not gone.done():
            self._wake.clear()
            await self._flush()
            if work.done():
                return
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await self._wake.wait()
            except TimeoutError:
                await self.keep_alive()

    async def keep_alive(self) -> None:
        """Write that the work goes on."""
        await self._write_stream(b": keep-alive\r\n\r\n")

    async def finish(self, answer: Answer) -> None:
        """Write the answer and end the response."""
        await self._flush()
        if not self._streaming:
            await send_answer(self._send, answer)
            return
        body = _event(answer.body)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _flush(self) -> None:
        while self._waiting:
            await self._write_stream(_event(self._next()))
            self._written.set()

    def _next(self) -> bytes:
        notification = self._waiting.popleft()
        self._waiting_bytes -= len(notification)
        return notification

    async def _write_stream(self, data: bytes) -> None:
        if not self._streaming:
            self._streaming = True
            start = {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
            await self._send(start)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


class _Watch:
    """Cancels the task that does the work when its client has gone, and writes what it reports.

    One task looks for the client; a second one writes, from the first report or the first
    keep-alive on, which most calls never come to.
    """

    def __init__(
        self,
        reply: Reply,
        receive: Receive,
        worker: asyncio.Task[Any] | None,
        keep_alive_s: float,
    ) -> None:
        self._reply = reply
        self._receive = receive
        self._worker = worker
        self._keep_alive_s = keep_alive_s
        self._gone: asyncio.Task[None] | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None
        self._is_over = False
        self._failed: BaseException | None = None
        """Why nobody can be answered any more."""
        self._interrupted = False
        """Whether the work was cancelled for that."""
        self.writing: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Look whether the client is still there."""
        if self._gone is None:
            loop = asyncio.get_running_loop()
            self._gone = loop.create_task(disconnected(self._receive))
            self._gone.add_done_callback(self._left)
            self._silence = loop.call_later(self._keep_alive_s, self.write, True)
        return self._gone

    def write(self, after_silence: bool = False) -> None:
        """Write what the work reports from now on."""
        if self.writing is None:
            gone = self.begin()
            loop = asyncio.get_running_loop()
            self._over = loop.create_future()
            self.writing = loop.create_task(self._write(self._over, gone, after_silence))

    def end(self) -> None:
        """The work is over."""
        self._is_over = True
        if self._silence is not None:
            self._silence.cancel()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self._gone is not None and self.writing is None:
            self._gone.cancel()

    def check(self) -> None:
        """
        Raises:
            BaseException: why nobody can be answered, unless the work was cancelled by others too.
        """
        if self._failed is None or self._worker is None:
            return
        if not self._interrupted or not self._worker.uncancel():
            raise self._failed from None

    def _left(self, gone: asyncio.Task[None]) -> None:
        if not gone.cancelled() and not self._is_over:
            self._fail(gone.exception() or ClientGone())

    def _fail(self, error: BaseException) -> None:
        if self._failed is None:
            self._failed = error
            if self._worker is not None and not self._is_over:
                self._interrupted = self._worker.cancel()

    async def _write(
        self, over: asyncio.Future[None], gone: asyncio.Task[None], after_silence: bool
    ) -> None:
        try:
            if after_silence:
                await self._reply.keep_alive()
            await self._reply.follow(over, gone)
        except Exception as error:
            self._fail(error)
        finally:
            gone.cancel()


async def send_answer(send: Send, answer: Answer) -> None:
    """Write a whole response that is not a stream."""
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    if answer.body:
        headers.append(_JSON_HEADER)
    headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    closing = answer.headers.get("Connection") == "close"
    await send({"type": "http.response.body", "body": answer.body, "more_body": closing})
    if closing:
        # To a client that still sends, closing is a reset, and HAProxy forgets an answer that it
        # has not passed on when its own sending fails.
        with suppress(asyncio.CancelledError):  # the client has read it and is gone
            await asyncio.sleep(LINGER_S)
        await send({"type": "http.response.body", "body": b""})


def _event(data: bytes) -> bytes:
    # JSON of ours is one line; a schema that its author wrote by hand is published as it was
    # written, and a bare line break would end the event in its middle.
    lines = b"\r\ndata: ".join(data.splitlines())
    return b"event: message\r\ndata: " + lines + b"\r\n\r\n"
