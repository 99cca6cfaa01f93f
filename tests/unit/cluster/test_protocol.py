"""Bytes to a message, errors to the wire; bodies that are refused are in `tests/protocol`."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thornback.cluster import errors
from thornback.cluster.errors import InvalidRequest, ParseError, ThornbackError
from thornback.cluster.protocol import (
    MAX_DEPTH,
    Notification,
    Request,
    Response,
    _checked_json,
    _plain_json,
    decode_message,
    encode_error,
    encode_result,
    error_result,
    is_result,
    raw_arguments,
    rpc_error,
)

FORBIDDEN = {-32002, -32042, *range(-32019, -31999)}
RAISED: list[ThornbackError] = [
    errors.ParseError("x"),
    errors.InvalidRequest("x"),
    errors.UnknownMethod("x"),
    errors.InvalidParams("x"),
    errors.UnknownTool("x"),
    errors.UnknownPrompt("x"),
    errors.UnknownResource("x:y"),
    errors.HeaderMismatch("x"),
    errors.MissingCapability({"sampling": {}}),
    errors.UnsupportedVersion("x", ["2026-07-28"]),
    errors.HttpRefusal(413, "x"),
    errors.Overloaded("pool", 0.2),
    errors.PoolBusy("pool", 0.2),
    errors.NoReplica("pool", "x", 1.0),
    errors.RegistryUnavailable("x"),
    errors.ContentDamaged("9f86"),
]


def test_a_request_a_notification_and_a_response_are_told_apart() -> None:
    assert decode_message(b'{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":1}}') == Request(
        "a", "m", {"x": 1}
    )
    assert decode_message(b'{"jsonrpc":"2.0","method":"m"}') == Notification("m", {})
    assert decode_message(b'{"jsonrpc":"2.0","id":3,"error":{}}') == Response(3)


def test_the_deepest_body_that_is_read_is_one_level_above_the_shallowest_that_is_not() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    with pytest.raises(InvalidRequest):
        decode_message(nested(MAX_DEPTH))
    with pytest.raises(ParseError, match="nested deeper"):
        decode_message(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    ("params", "arguments"),
    [
        (b'{"name":"x","arguments": {"b": 1.0,  "a":[1, 2]} }', b'{"b": 1.0,  "a":[1, 2]}'),
        (b'{"name":"x"}', b"{}"),
        (b'{"name":"x","arguments":null}', b"{}"),
    ],
)
def test_arguments_keep_the_bytes_they_came_in(params: bytes, arguments: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params + b"}"
    assert raw_arguments(body) == arguments


JSON_PIECES = st.sampled_from(
    [
        *('{"a":1', ',"b":[2.5e3,null,true]', ',"a":2', ',"c":{"a":"x:y"}', ',"d":{}', "}", "}}"),
        *('"\\u00e9\\ud83d\\ude00"', '"\\ud800"', "1e999", "NaN", "-0", "01"),
        *("[", "]", ":", ",", " ", "\x00", "\xff"),
    ]
)


@settings(max_examples=500)
@given(st.lists(JSON_PIECES, max_size=8), st.sampled_from(["utf-8", "latin-1"]))
def test_what_the_quick_decoder_is_sure_of_is_what_the_strict_one_says(
    pieces: list[str], encoding: str
) -> None:
    body = "".join(pieces).encode(encoding)
    quick = _plain_json(body)
    if quick is not None:
        assert json.dumps(_checked_json(body)) == json.dumps(quick)


@pytest.mark.parametrize(
    ("body", "is_sure"),
    [
        (b'{"a":{"b":[{"c":1}]}}', True),
        (b'{"a":1,"a":1}', False),
        (b'{"a":{"b":1,"b":2},"c":"text"}', False),
        (b'{"a":"text: with a colon"}', False),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, True),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), False),
    ],
)
def test_the_quick_decoder_is_sure_where_no_member_can_be_missing(
    body: bytes, is_sure: bool
) -> None:
    assert (_plain_json(body) is not None) == is_sure


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_every_error_has_a_number_that_may_leave_and_its_code(error: ThornbackError) -> None:
    said = rpc_error(error)
    assert said.number not in FORBIDDEN
    assert said.data["code"] == error.code
    assert said.message == str(error)


def test_an_error_carries_what_its_reader_needs() -> None:
    assert rpc_error(errors.UnknownResource("a:b")).data["uri"] == "a:b"
    assert rpc_error(errors.MissingCapability({"roots": {}})).data["requiredCapabilities"] == {
        "roots": {}
    }
    assert rpc_error(errors.InvalidParams("x", "invalid_cursor")).data["reason"] == "invalid_cursor"
    assert rpc_error(errors.HttpRefusal(405, "x", {"Allow": "POST"})).headers == {"Allow": "POST"}


def test_a_full_queue_is_refused_and_all_else_that_befalls_a_call_is_a_result() -> None:
    assert not is_result(errors.Overloaded("pool", 1.0))
    assert not is_result(errors.UnknownTool("x"))
    assert is_result(errors.ToolTimeout("x", 1.0))
    assert is_result(errors.ReplicaLost("pool", "x"))
    assert is_result(errors.PoolBusy("pool", 1.0))


def test_a_failed_call_is_a_text_for_the_model_and_a_code_for_programs() -> None:
    result = error_result(errors.NoReplica("sql", "starting", 2.0))
    assert result["isError"] is True
    assert result["content"][0]["text"].startswith("Pool sql has no replica")
    assert result["_meta"]["io.thornback/error"] == {"code": "pool.no_replica", "retryAfterS": 2.0}


@pytest.mark.parametrize(
    "error", [errors.PoolInfeasible("p", "1 GPU", "0 GPU"), errors.PoolBroken("p", "m", "no m")]
)
def test_nobody_is_told_to_wait_where_waiting_does_not_help(error: errors.Unavailable) -> None:
    assert error_result(error)["_meta"]["io.thornback/error"] == {"code": error.code}
    assert rpc_error(error).data == {"code": error.code}


def test_what_is_written_is_one_json_rpc_message() -> None:
    assert encode_result(1, {"a": 1}) == b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}'
    assert encode_error(None, rpc_error(ParseError("x"))) == (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error: x",'
        b'"data":{"code":"request.parse"}}}'
    )
