"""What goes in one message and what in the next; a host's tests cover the rest."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.fakes import FakeClock
from thornback.cluster.messages import (
    WIRE_VERSION,
    Complete,
    InputNeeded,
    Log,
    Parked,
    Progress,
    decode_reply,
)
from thornback.deployments.outbox import INLINE_MAX_BYTES, MESSAGE_BYTES, Outbox
from thornback.deployments.parked_values import KEPT_S, ParkedValues

DONE = Complete(WIRE_VERSION, b"{}", False)


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 5))


def test_the_first_message_waits_for_nothing() -> None:
    async def first() -> Any:
        return await anext(Outbox(["slow"], None).messages())

    assert run(first) == ([], [])


def test_what_a_call_says_comes_before_its_outcome() -> None:
    async def message() -> Any:
        outbox = Outbox(["talks"], None)
        events = outbox.events_of(0)
        events(Progress(WIRE_VERSION, 0.5))
        outbox.finish(0, DONE, events)
        messages = [replies async for _, replies in outbox.messages()]
        return [decode_reply(data) for replies in messages for _, data in replies]

    assert run(message) == [Progress(WIRE_VERSION, 0.5), DONE]


def test_no_message_outgrows_what_the_transport_takes() -> None:
    async def sizes() -> list[int]:
        outbox = Outbox(["large"] * 40, None)
        for place in range(40):
            outbox.finish(place, Complete(WIRE_VERSION, b"x" * 100_000, False))
        return [sum(len(r) for _, r in replies) async for _, replies in outbox.messages()]

    found = run(sizes)
    assert sum(found) > 4_000_000
    assert max(found) < MESSAGE_BYTES + INLINE_MAX_BYTES


def test_a_reply_that_has_no_form_on_the_wire_fails_alone() -> None:
    odd_text = "caf\udce9"

    async def replies() -> Any:
        outbox = Outbox(["odd", "plain"], None)
        events = outbox.events_of(0)
        events(Progress(WIRE_VERSION, 0.5, None, odd_text))
        outbox.finish(0, InputNeeded(WIRE_VERSION, b"{}", odd_text), events)
        outbox.finish(1, DONE)
        (message,) = [replies async for _, replies in outbox.messages()]
        return [(place, decode_reply(data)) for place, data in message]

    (odd, failure), plain = run(replies)
    assert (odd, failure.error_code) == (0, "tool.bug")
    assert plain == (1, DONE)


@pytest.mark.parametrize("room", [True, False])
def test_a_reply_too_large_for_a_message_is_parked_or_fails_alone(room: bool) -> None:
    async def replies() -> list[Any]:
        parked = ParkedValues(FakeClock(), max_bytes=10_000_000 if room else 0)
        outbox = Outbox(["large", "small"], parked)
        outbox.finish(0, Complete(WIRE_VERSION, b"x" * INLINE_MAX_BYTES, False))
        outbox.finish(1, DONE)
        return [decode_reply(data) async for _, said in outbox.messages() for _, data in said]

    large, small = run(replies)
    assert small == DONE
    if room:
        assert isinstance(large, Parked)
        assert large.size_bytes > INLINE_MAX_BYTES
    else:
        assert isinstance(large, Complete)
        assert large.error_code == "tool.result_too_large"


def test_a_message_to_the_client_that_there_is_no_room_for_is_left_out() -> None:
    async def replies() -> list[Any]:
        outbox = Outbox(["talks"], ParkedValues(FakeClock(), max_bytes=0))
        events = outbox.events_of(0)
        events(Log(WIRE_VERSION, "info", b'"' + b"x" * INLINE_MAX_BYTES + b'"'))
        outbox.finish(0, DONE, events)
        return [decode_reply(data) async for _, said in outbox.messages() for _, data in said]

    assert run(replies) == [DONE]


def test_a_value_that_nobody_fetches_is_given_up() -> None:
    clock = FakeClock()
    parked = ParkedValues(clock, max_bytes=10)
    forgotten = parked.park(b"0123456789")
    assert forgotten is not None
    assert parked.park(b"x") is None
    clock.advance(KEPT_S + 1)
    assert parked.park(b"x") is not None
    assert parked.take(forgotten) is None
