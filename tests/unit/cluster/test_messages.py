"""What gateway and host say to each other arrives as it was sent."""

import msgspec
import pytest

from thornback.cluster.catalog import Batch
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    HostState,
    InputNeeded,
    Log,
    Parked,
    Partial,
    Progress,
    Raised,
    Refused,
    Replies,
    Reply,
    Send,
    decode_call,
    decode_replies,
    decode_reply,
    decode_send,
    decode_state,
    encode,
    encode_replies,
)
from thornback.cluster.principals import Principal

CALL = CallMessage(
    WIRE_VERSION, "call_x", "sql_query", "1.0.0", b'{"query":"x"}', 2.5, Principal("default", "a")
)
BATCHED = msgspec.structs.replace(CALL, repeatable=True, batch=Batch(max_batch_size=8))
REPLIES: list[Reply] = [
    Acknowledged(WIRE_VERSION, "r1", 3),
    Progress(WIRE_VERSION, 0.5, 1.0, "half"),
    Partial(WIRE_VERSION, 7, b'{"row":1}', "row 1"),
    Log(WIRE_VERSION, "warning", b'"slow"', "sql"),
    Complete(WIRE_VERSION, b'{"content":[]}', False, None, 0.1, 0.05),
    InputNeeded(WIRE_VERSION, b"{}", "state"),
    Refused(WIRE_VERSION, "pool.broken", ["sql", "m", "ImportError: x"]),
    Raised(WIRE_VERSION, -32602, "no", b"null"),
    Parked(WIRE_VERSION, "val_1", 300_000),
]
STATE = HostState("r1", "node-1", 32, 30, 2)
SEND = Send(WIRE_VERSION, "gwy_1", 3, [CALL, BATCHED], ["call_y"], 1.0, True)


def test_a_call_arrives_as_it_was_sent() -> None:
    assert decode_call(encode(CALL)) == CALL


@pytest.mark.parametrize("reply", REPLIES, ids=lambda r: type(r).__name__)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert decode_reply(encode(reply)) == reply


def test_calls_arrive_together_as_they_were_sent() -> None:
    assert decode_send(encode(SEND)) == SEND


def test_replies_that_were_encoded_one_by_one_arrive_together() -> None:
    encoded = [(0, encode(reply)) for reply in REPLIES]
    arrived = decode_replies(encode_replies(STATE, [0], encoded))
    assert arrived == Replies(WIRE_VERSION, STATE, [0], [(0, reply) for reply in REPLIES])
    assert decode_state(encode(STATE)) == STATE


@pytest.mark.parametrize("message", [CALL, SEND, *REPLIES], ids=lambda m: type(m).__name__)
def test_the_wire_version_comes_before_every_other_field(
    message: CallMessage | Send | Reply,
) -> None:
    fields = msgspec.msgpack.decode(encode(message))
    assert WIRE_VERSION in (fields[0], fields[1])  # replies have their tag in front of it


def test_a_field_that_a_later_version_appends_is_ignored() -> None:
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(encode(CALL)), "from the future"])
    assert decode_call(longer) == CALL


def test_a_field_that_an_earlier_version_lacks_has_its_default() -> None:
    shorter = msgspec.msgpack.encode(msgspec.msgpack.decode(encode(CALL))[:7])
    assert decode_call(shorter) == CALL
