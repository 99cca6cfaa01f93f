"""The application around the endpoints, and the reply that they write."""

import asyncio
import gc
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from tests.fakes import FakeClock
from thornback.cluster.catalog import Catalog
from thornback.deployments import access_log
from thornback.deployments.access_log import AccessRecord, log_to_output, recorded, write_access
from thornback.deployments.gateway import COLLECT_EVERY, Gateway, GatewayApp
from thornback.deployments.http_edge import ClientGone
from thornback.deployments.replies import MAX_WAITING_NOTIFICATIONS, Answer, Reply


def test_a_gateway_seldom_looks_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCatalog(Exception):
        pass

    class Mirror:
        async def start(self, _: float) -> None:
            raise NoCatalog

    gateway: Any = object.__new__(Gateway)
    gateway._mirror = Mirror()
    monkeypatch.setattr("thornback.deployments.gateway.log_to_output", lambda: None)
    usual = gc.get_threshold()
    try:
        with pytest.raises(NoCatalog):
            asyncio.run(gateway.__serve_build_asgi_app__())
        assert gc.get_threshold() == (COLLECT_EVERY, *usual[1:])
    finally:
        gc.set_threshold(*usual)


class Front:
    """What an ASGI server sees of an application."""

    def __init__(self, *received: str) -> None:
        self._received = [{"type": kind} for kind in received]
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return self._received.pop(0) if self._received else {"type": "http.request"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class NoCatalog:
    catalog = Catalog.empty()


async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "endpoint", "path": scope["path"]})


def app_that(stops: Any = lambda: None) -> GatewayApp:
    return GatewayApp(endpoint, endpoint, NoCatalog(), stops)


def sent_for(**scope: Any) -> Front:
    front = Front()
    asyncio.run(app_that()(scope, front.receive, front.send))
    return front


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/readyz", 503), ("/", 404), ("/mcp/x", 404)]
)
def test_what_is_no_endpoint_is_answered_in_json(path: str, status: int) -> None:
    front = sent_for(type="http", path=path, method="GET", headers=[])
    assert front.sent[0]["status"] == status
    assert (b"content-type", b"application/json") in front.sent[0]["headers"]


@pytest.mark.parametrize("path", ["/mcp", "/resources/sha256/ab"])
def test_endpoints_answer_for_themselves(path: str) -> None:
    assert sent_for(type="http", path=path).sent == [{"type": "endpoint", "path": path}]


def test_a_websocket_is_refused() -> None:
    assert sent_for(type="websocket", path="/mcp").sent[0]["type"] == "websocket.close"


def test_streams_are_told_when_the_gateway_stops() -> None:
    stopped: list[bool] = []
    front = Front("lifespan.startup", "lifespan.shutdown")
    app = app_that(lambda: stopped.append(True))
    asyncio.run(app({"type": "lifespan"}, front.receive, front.send))
    kinds = [message["type"] for message in front.sent]
    assert kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert stopped == [True]


def test_a_gateway_is_made_from_what_the_config_renders() -> None:
    async def made() -> int:
        gateway = Gateway("thornback.test", anonymous=True, gateway={"port": 8000})
        await gateway.check_health()
        return await gateway.cancel([("session", 1)])

    assert asyncio.run(made()) == 0


def test_a_gateway_that_shall_not_count_observes_nothing() -> None:
    telemetry = {"metrics": False, "traces": ""}
    gateway = Gateway("thornback.test", True, gateway={}, telemetry=telemetry)
    no_pools: Any = None
    assert gateway._observe(no_pools) is None


def test_a_slow_reader_loses_the_oldest_notifications_and_never_the_answer() -> None:
    async def replied() -> bytes:
        front = Front()
        reply = Reply(front.send)
        for number in range(MAX_WAITING_NOTIFICATIONS + 10):
            reply.notify("n", {"number": number})
        await reply.finish(Answer(200, b'{"result":{}}'))
        return front.body

    body = asyncio.run(replied())
    assert body.count(b"event: message") == MAX_WAITING_NOTIFICATIONS + 1
    assert b'"number":9}' not in body
    assert b'"number":10}' in body
    assert body.endswith(b'data: {"result":{}}\r\n\r\n')


@pytest.mark.parametrize(
    ("ending", "raised"),
    [(ClientGone, None), (asyncio.CancelledError, asyncio.CancelledError), (KeyError, KeyError)],
)
def test_every_request_is_logged_however_it_ends(
    ending: type[BaseException],
    raised: type[BaseException] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    caplog.set_level(logging.INFO, "thornback.access")
    with (
        pytest.raises(raised) if raised else nullcontext(),
        recorded(clock, "g", "req_1") as record,
    ):
        record.status = 200
        clock.advance(0.5)
        raise ending
    (line,) = [json.loads(r.getMessage()) for r in caplog.records if r.name == "thornback.access"]
    assert line["status"] == (200 if ending is KeyError else 499)
    told = (line["gateway"], line["request_id"], line["duration_ms"])
    assert told == ("g", "req_1", 500.0)


@pytest.fixture
def logging_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(access_log, "_write", access_log._write)
    loggers = [logging.getLogger(name) for name in ("thornback", "thornback.access")]
    kept = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, kept, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("logging_restored")
def test_access_records_stand_alone_on_their_lines(capfd: pytest.CaptureFixture[str]) -> None:
    log_to_output()
    write_access(AccessRecord(1.0, "gateway-1", "call_a", name="x\n{}", status=200))
    logging.getLogger("thornback.deployments").info("apart")
    printed = capfd.readouterr()
    assert json.loads(printed.out)["name"] == "x\N{REPLACEMENT CHARACTER}{}"
    apart = json.loads(printed.err)
    assert (apart["logger"], apart["message"]) == ("thornback.deployments", "apart")


@pytest.mark.usefixtures("logging_restored")
def test_lines_of_one_round_of_the_loop_are_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counted(io.StringIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    async def scenario() -> None:
        for number in range(5):
            write_access(AccessRecord(1.0, "g", f"call_{number}"))
        await asyncio.sleep(0)

    output = Counted()
    monkeypatch.setattr(sys, "__stdout__", output)
    log_to_output()
    asyncio.run(scenario())
    lines = [json.loads(line)["request_id"] for line in output.getvalue().splitlines()]
    assert (lines, output.flushes) == ([f"call_{number}" for number in range(5)], 1)


@pytest.mark.usefixtures("logging_restored")
def test_an_output_that_takes_no_more_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError("No space left on device")

    monkeypatch.setattr(sys, "__stdout__", Full())
    log_to_output()
    with recorded(FakeClock(), "g", "req_1") as record:
        record.status = 200
