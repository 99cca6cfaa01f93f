"""MCP without I/O: bytes to one JSON-RPC message, results and errors to bytes.

Here is the one table from error to wire: JSON-RPC number, HTTP status, or a result with `isError`.
Headers, sockets and who is calling are the gateway's; what a method does is the engine's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeGuard

import msgspec

from thornback.cluster.errors import (
    HeaderMismatch,
    HttpRefusal,
    InvalidParams,
    InvalidRequest,
    MissingCapability,
    Overloaded,
    ParseError,
    ProtocolError,
    ThornbackError,
    ToolFailure,
    Unavailable,
    UnknownMethod,
    UnknownPrompt,
    UnknownResource,
    UnknownTool,
    UnsupportedVersion,
    sendable,
)

MAX_DEPTH = 128
"""Arrays and objects inside one another; far below what any parser's stack takes."""
MAX_ID_CHARS = 256

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

ERROR_META = "io.thornback/error"
"""`_meta` key of an `isError` result: `{code, retryAfterS?}`."""

RpcId = str | int


class Request(msgspec.Struct, frozen=True):
    """A JSON-RPC request."""

    id: RpcId
    method: str
    params: dict[str, Any]

    @property
    def meta(self) -> Mapping[str, Any] | None:
        """`params._meta`, where it is an object."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else None


class Notification(msgspec.Struct, frozen=True):
    """A JSON-RPC notification."""

    method: str
    params: dict[str, Any]


class Response(msgspec.Struct, frozen=True):
    """A JSON-RPC response, posted by a client that believes that we asked it something."""

    id: RpcId | None


Message = Request | Notification | Response


class RpcError(msgspec.Struct, frozen=True):
    """An error as it leaves: the JSON-RPC part, and what HTTP says about it."""

    number: int
    message: str
    data: dict[str, Any]
    status: int
    headers: Mapping[str, str] = {}


# --- in -------------------------------------------------------------------------------------------


def decode_message(body: bytes) -> Message:
    """The one message of a request body.

    JSON as RFC 8259 has it, and nothing that two parsers may read in two ways: no doubled keys,
    NaN, infinities, lone surrogates, integers of more than 4,300 digits (Python's own limit), nor
    more than `MAX_DEPTH` levels.

    Raises:
        ParseError: if `body` is not such JSON.
        InvalidRequest: if it is, but not a single JSON-RPC 2.0 message.
    """
    return _message(_json(body))


def raw_arguments(body: bytes) -> bytes:
    """The bytes of `params.arguments`, as the client wrote them; `{}` where there are none.

    `body` has passed `decode_message`, and its arguments are absent or an object.
    """
    found = bytes(_call_decoder.decode(body).params.arguments)
    return b"{}" if found == b"null" else found


class _CallParams(msgspec.Struct):
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _CallBody(msgspec.Struct):
    params: _CallParams


_call_decoder = msgspec.json.Decoder(_CallBody)


def _json(body: bytes) -> Any:
    value = _plain_json(body)
    return _checked_json(body) if value is None else value


def _plain_json(body: bytes) -> Any:
    """What `_checked_json` gives, many times faster; None where that is not certain.

    This decoder is as strict, except that of doubled keys it keeps the last. Every member of an
    object has a colon after its key: where there are no more colons than members in what was
    decoded, no member was dropped. Text with a colon in it is for the other decoder to judge.
    """
    try:
        value = _quick_decoder.decode(body)
        members = _members(value, MAX_DEPTH)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value if members == body.count(b":") else None


def _members(node: Any, levels: int) -> int:
    """Members of all objects in `node`.

    Raises:
        RecursionError: if arrays and objects in it are nested deeper than `levels`.
    """
    children: Iterable[Any]
    if type(node) is dict:
        count, children = len(node), node.values()
    elif type(node) is list:
        count, children = 0, node
    else:
        return 0
    if not levels:
        raise RecursionError
    for child in children:
        if type(child) is dict or type(child) is list:
            count += _members(child, levels - 1)
    return count


def _checked_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
        value = _decoder.decode(text)
    except UnicodeDecodeError:
        raise ParseError("the body is not UTF-8") from None
    except RecursionError:
        raise ParseError(f"nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise ParseError(f"not JSON at character {error.pos}") from None
    except ValueError as error:
        raise ParseError(str(error)) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise ParseError(f"nested deeper than {MAX_DEPTH} levels")
    if "\\u" in text and "\\ud" in text.lower() and _has_lone_surrogate(value):
        raise ParseError("a string holds half of a surrogate pair")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError("an integer has too many digits") from None


_quick_decoder = msgspec.json.Decoder()
_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_float, parse_int=_int
)


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return any(isinstance(node, dict | list) for node in level)


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be one JSON-RPC message, not a batch or a value")
    if value.get("jsonrpc") != "2.0":
        raise InvalidRequest('jsonrpc must be "2.0"')
    rpc_id = value.get("id")
    if "id" in value and not is_id(rpc_id) and "method" in value:
        raise InvalidRequest(
            f"id must be a string of up to {MAX_ID_CHARS} characters or an integer of 64 bits"
        )
    if "method" not in value:
        if "result" in value or "error" in value:
            return Response(rpc_id if is_id(rpc_id) else None)
        raise InvalidRequest("method is missing")
    method, params = value["method"], value.get("params", {})
    if not isinstance(method, str):
        raise InvalidRequest("method must be a string")
    if not isinstance(params, dict):
        raise InvalidRequest("params must be an object")
    return Request(value["id"], method, params) if "id" in value else Notification(method, params)


def is_id(value: object) -> TypeGuard[RpcId]:
    """Whether a request may have this id."""
    if isinstance(value, str):
        return len(value) <= MAX_ID_CHARS
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


# --- out ------------------------------------------------------------------------------------------

_TABLE: tuple[tuple[type[ThornbackError], int, int], ...] = (
    # Error, JSON-RPC number, HTTP status at 2026-07-28. The first row that fits counts. Never to
    # leave: -32002, -32042, -32000 to -32019 (2026-07-28, basic, "Error Codes").
    (ParseError, PARSE_ERROR, 400),
    (InvalidRequest, INVALID_REQUEST, 400),
    (UnknownMethod, METHOD_NOT_FOUND, 404),
    (UnknownTool, INVALID_PARAMS, 400),
    (UnknownPrompt, INVALID_PARAMS, 400),
    (UnknownResource, INVALID_PARAMS, 400),
    (InvalidParams, INVALID_PARAMS, 400),
    (HeaderMismatch, HEADER_MISMATCH, 400),
    (MissingCapability, MISSING_CAPABILITY, 400),
    (UnsupportedVersion, UNSUPPORTED_VERSION, 400),
    (HttpRefusal, INVALID_REQUEST, 400),
    (ProtocolError, INVALID_REQUEST, 400),
    (Overloaded, INTERNAL_ERROR, 503),
    (ThornbackError, INTERNAL_ERROR, 200),
)


def rpc_error(error: ThornbackError) -> RpcError:
    """How an error looks as a JSON-RPC error; its dotted code is in `data.code`."""
    number, status = next((n, s) for kind, n, s in _TABLE if isinstance(error, kind))
    headers: dict[str, str] = {}
    if isinstance(error, HttpRefusal):
        status, headers = error.status, dict(error.headers)
    elif status == 503 and (retry_after_s := _retry_after_s(error)) is not None:
        headers = {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    return RpcError(number, sendable(str(error)), _data_of(error), status, headers)


def internal_error(error_id: str) -> RpcError:
    """What a bug of ours looks like: an id to look for in the log, and nothing else."""
    message = f"Internal error ({error_id})"
    return RpcError(INTERNAL_ERROR, message, {"code": "internal", "errorId": error_id}, 200)


def is_result(error: ThornbackError) -> bool:
    """Whether an error of a tool call is a result that the model reads.

    What a tool or its arguments ran into is, and so is whatever befell a call after it was
    admitted. A full queue refuses the call before that.
    """
    return isinstance(error, ToolFailure | Unavailable) and not isinstance(error, Overloaded)


def error_result(error: ThornbackError) -> dict[str, Any]:
    """A `CallToolResult` with `isError`, for what `is_result`."""
    said: dict[str, Any] = {"code": error.code}
    if (retry_after_s := _retry_after_s(error)) is not None:
        said["retryAfterS"] = retry_after_s
    return {
        "content": [{"type": "text", "text": sendable(str(error)) or "The tool failed"}],
        "isError": True,
        "_meta": {ERROR_META: said},
    }


def _retry_after_s(error: ThornbackError) -> float | None:
    return error.retry_after_s if isinstance(error, Unavailable) else None


def _data_of(error: ThornbackError) -> dict[str, Any]:
    data: dict[str, Any] = {"code": error.code}
    match error:
        case UnknownResource():
            data["uri"] = error.uri
        case MissingCapability():
            data["requiredCapabilities"] = error.required
        case UnsupportedVersion():
            data |= {"supported": error.supported, "requested": error.requested}
        case Unavailable() if error.retry_after_s is not None:
            data["retryAfterS"] = error.retry_after_s
        case InvalidParams() if error.reason:
            data["reason"] = error.reason
    return data


_encoder = msgspec.json.Encoder()


def encode_result(rpc_id: RpcId, result: Mapping[str, Any] | msgspec.Raw) -> bytes:
    """A JSON-RPC response. Values that are `msgspec.Raw` go out as the JSON they hold."""
    return _encoder.encode({"jsonrpc": "2.0", "id": rpc_id, "result": result})


def encode_error(rpc_id: RpcId | None, error: RpcError) -> bytes:
    """A JSON-RPC error response; `id` is null where the request's could not be read."""
    body = {"code": error.number, "message": error.message, "data": error.data}
    return _encoder.encode({"jsonrpc": "2.0", "id": rpc_id, "error": body})


def encode_notification(method: str, params: Mapping[str, Any]) -> bytes:
    return _encoder.encode({"jsonrpc": "2.0", "method": method, "params": params})
