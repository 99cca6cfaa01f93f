"""What needs no gateway to be seen; the spellings of Host and Origin are in `tests/protocol`."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes import FakeClock
from thornback.cluster.errors import HeaderMismatch, HttpRefusal, InvalidRequest
from thornback.deployments import http_edge
from thornback.deployments.http_edge import (
    BODY_TIMEOUT_S,
    ClientGone,
    Headers,
    Neighbours,
    Receive,
    check_post,
    read_body,
)


def receiving(*messages: Mapping[str, Any]) -> Receive:
    left = list(messages)

    async def receive() -> Mapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_names_of_headers_have_no_case_and_values_do() -> None:
    headers = Headers([(b"Mcp-Name", b"Add")])
    assert headers["mcp-name"] == "Add"
    assert headers.get("host") is None


def test_other_headers_may_come_twice() -> None:
    assert Headers([(b"x-forwarded-for", b"a"), (b"x-forwarded-for", b"b")])


def test_a_doubled_parameter_is_a_mismatch() -> None:
    with pytest.raises(HeaderMismatch):
        Headers([(b"mcp-param-region", b"a"), (b"Mcp-Param-Region", b"a")])


@pytest.mark.parametrize(
    ("host", "port", "accepted"),
    [
        ("10.1.2.3", 8000, "10.1.2.3:8000"),
        ("fd00::7", 8000, "[fd00::7]:8000"),
        ("mcp.internal", 80, "mcp.internal"),
        ("127.0.0.1", 80, "localhost:80"),
    ],
)
def test_the_address_we_listen_on_is_a_name_of_ours(host: str, port: int, accepted: str) -> None:
    Neighbours(host, port).check({"host": accepted})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_wildcard_is_no_name(host: str) -> None:
    with pytest.raises(HttpRefusal):
        Neighbours(host, 8000).check({"host": f"{host}:8000"})


def test_a_post_says_what_it_brings() -> None:
    check_post({"content-type": "application/json"})
    with pytest.raises(HttpRefusal) as refused:
        check_post({})
    assert refused.value.status == 415


def test_a_body_comes_in_pieces() -> None:
    receive = receiving(piece(b"ab", more=True), piece(b"", more=True), piece(b"c"))
    assert asyncio.run(read_body(receive, {}, 3, FakeClock())) == b"abc"


def test_one_byte_over_the_limit_is_too_many() -> None:
    with pytest.raises(HttpRefusal) as refused:
        asyncio.run(read_body(receiving(piece(b"abcd")), {}, 3, FakeClock()))
    assert refused.value.status == 413


def test_a_client_that_leaves_in_the_middle_is_gone() -> None:
    receive = receiving(piece(b"ab", more=True), {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        asyncio.run(read_body(receive, {}, 3, FakeClock()))


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_edge, "BODY_PAUSE_S", 0.01)
    with pytest.raises(HttpRefusal) as refused:
        asyncio.run(read_body(receiving(piece(b"a", more=True)), {}, 3, FakeClock()))
    assert refused.value.status == 408


def test_a_body_that_has_to_be_waited_for_comes_whole() -> None:
    async def scenario() -> bytes:
        came: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        reading = asyncio.create_task(read_body(came.get, {}, 3, FakeClock()))
        for message in (piece(b"a", more=True), piece(b"b", more=True), piece(b"c")):
            await asyncio.sleep(0)
            came.put_nowait(message)
        async with asyncio.timeout(5):
            return await reading

    assert asyncio.run(scenario()) == b"abc"


def test_reading_a_body_can_be_cancelled_while_it_waits() -> None:
    async def scenario() -> None:
        came: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        reading = asyncio.create_task(read_body(came.get, {}, 3, FakeClock()))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(scenario())


def test_a_body_that_trickles_is_given_up_however_short_its_pauses_are() -> None:
    clock, seconds = FakeClock(), 0

    async def receive() -> Mapping[str, Any]:
        nonlocal seconds
        clock.advance(1)
        seconds += 1
        return piece(b"a", more=seconds < 1000)

    with pytest.raises(HttpRefusal) as refused:
        asyncio.run(read_body(receive, {}, 1000, clock))
    assert refused.value.status == 408
    assert seconds == BODY_TIMEOUT_S + 1


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "\N{SUPERSCRIPT TWO}", "1, 1", ""])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(InvalidRequest):
        asyncio.run(read_body(receiving(piece(b"a")), {"content-length": length}, 3, FakeClock()))


def test_a_refused_body_that_stops_coming_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_edge, "DRAIN_TIMEOUT_S", 0.01)
    with pytest.raises(HttpRefusal) as refused:
        asyncio.run(
            read_body(receiving(piece(b"a", more=True)), {"content-length": "9"}, 3, FakeClock())
        )
    assert refused.value.status == 413
