"""What a gateway and a tool host say to each other: calls that travel together, and their replies.

Bytes on the wire: msgpack, the first field of each message its version, so that a rolling upgrade,
or a pool with an environment of its own, can mix versions N and N-1. Arguments and results cross
as the JSON bytes they are. Moments never cross, only remaining seconds: two processes share no
monotonic clock.

Version 1 had one stream for each call, of single replies; a host still answers that. Version 2
sends calls together (`Send`) and streams what becomes of them (`Replies`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from thornback.cluster.catalog import Batch
from thornback.cluster.errors import ThornbackError
from thornback.cluster.principals import Principal
from thornback.cluster.protocol import error_result

WIRE_VERSION = 2
WIRES_SPOKEN = (1, 2)
"""Versions of a gateway's messages that a host of this version understands."""

ALONE = "dispatch.alone"
"""Code of a host's refusal to run a call in a stream that others share."""

LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


class CallMessage(msgspec.Struct, frozen=True, array_like=True):
    """Gateway to host: run this tool once."""

    wire: int
    call_id: str
    """`call_...`: what a cancellation names. Ours, and of this attempt alone."""
    tool: str
    version: str
    arguments: bytes
    """The JSON object of the arguments, valid against the tool's input schema."""
    remaining_s: float
    """Seconds the tool has, from the moment the host admits the call."""
    principal: Principal
    progress: bool = False
    """Whether the client asked for progress."""
    log_level: LogLevel | None = None
    """Least level of log messages that the client asked for; None: none at all."""
    capabilities: bytes = b"{}"
    """The client's capabilities of this request, as JSON in wire names."""
    input_responses: bytes | None = None
    """JSON object of the client's answers to an earlier `InputNeeded`."""
    request_state: str | None = None
    """What the tool left with that `InputNeeded`; verified by the gateway."""
    traceparent: str | None = None
    """W3C's, of the attempt that this message is; None: the call is not traced."""
    max_result_bytes: int = 4 * 1024 * 1024
    queue_timeout_s: float = 30.0
    """Seconds the call may wait until a host admits it."""
    repeatable: bool = False
    """Whether running the call twice is as good as once."""
    batch: Batch | None = None
    """How calls of a batch tool are collected, as the catalog has it; None: as its author wrote."""
    tracestate: str | None = None
    request_id: str = ""
    """What log lines name the call by; its client may have chosen it. Empty: `call_id`."""

    @property
    def logged_as(self) -> str:
        """What log lines name the call by, also that of a gateway which says nothing of it."""
        return self.request_id or self.call_id


class Acknowledged(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """The host admitted the call: from here on it may have taken effect."""

    wire: int
    replica_id: str
    running: int
    """Calls running on this replica, this one included."""
    replica_age_s: float = math.inf
    """Seconds since the replica began; infinity: an older host does not say."""


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """How far the tool is; `progress` strictly increases within a call."""

    wire: int
    progress: float
    total: float | None = None
    message: str | None = None


class Partial(msgspec.Struct, frozen=True, array_like=True, tag="partial"):
    """One item that a generator tool yielded, as JSON; the result will hold it again."""

    wire: int
    seq: int
    """0, 1, 2, ... within a call."""
    value: bytes
    text: str
    """The item as a model reads it."""


class Log(msgspec.Struct, frozen=True, array_like=True, tag="log"):
    """A log message for the client."""

    wire: int
    level: LogLevel
    data: bytes
    """Any JSON value."""
    logger: str | None = None


class Complete(msgspec.Struct, frozen=True, array_like=True, tag="complete"):
    """The tool finished. `result` is the JSON object of a `CallToolResult` (`content`,
    `structuredContent`, `isError`, `_meta`) in wire names, without `resultType`."""

    wire: int
    result: bytes
    is_error: bool
    error_code: str | None = None
    """Dotted code of a `ToolFailure`, where `is_error`."""
    run_s: float = 0.0
    cpu_s: float = 0.0
    """CPU seconds of the thread that ran the tool; 0 where they cannot be told apart."""
    batch_size: int = 0
    """Calls in the invocation that it ran in; 0: of a tool that takes one call at a time."""


class InputNeeded(msgspec.Struct, frozen=True, array_like=True, tag="input"):
    """The tool needs input from the client; the call is to be repeated with it."""

    wire: int
    requests: bytes
    """JSON object `inputRequests`; empty object where only state is handed over."""
    request_state: str | None = None
    """Plaintext; the gateway seals it."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The host did not start the call."""

    wire: int
    code: str
    """Dotted code: `pool.busy`, `pool.broken`, `tool.unknown`, ..."""
    facts: list[str]
    """Positional facts of the error class with that code, as text."""


class Raised(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """The tool answers with a JSON-RPC error: a `ProtocolError` that it raised itself."""

    wire: int
    rpc_code: int
    message: str
    data: bytes | None = None
    """JSON of the error's `data`."""


class Parked(msgspec.Struct, frozen=True, array_like=True, tag="parked"):
    """In place of a reply that is too large for a message: the replica keeps it for the gateway."""

    wire: int
    value_id: str
    size_bytes: int


Event = Acknowledged | Progress | Partial | Log
Outcome = Complete | InputNeeded | Refused | Raised
Reply = Event | Outcome | Parked


class Send(msgspec.Struct, frozen=True, array_like=True):
    """Gateway to host: what there is to say to one replica now, calls first."""

    wire: int
    gateway: str
    """Names the gateway among those that speak to the pool."""
    held: int
    """Calls for the pool that wait in the gateway because no replica has room."""
    calls: list[CallMessage] = []
    cancels: list[str] = []
    """`call_id` of calls that nobody waits for any more."""
    room_s: float = 0.0
    """Above 0: where there is no room, say when there is, or after so many seconds."""
    alone: bool = False
    """Whether the stream belongs to one call, whose reader may be slow."""


class HostState(msgspec.Struct, frozen=True, array_like=True):
    """A replica, as it tells a gateway in each of its messages."""

    replica_id: str
    node_id: str
    slots: int
    """Calls that it runs at a time: the pool's `max_ongoing_requests`."""
    free: int
    """Calls that this gateway may send now, beyond those that it has sent."""
    running: int
    """Slots in use: calls of all gateways, and threads that outlived theirs."""
    age_s: float = math.inf
    """Seconds since it began; infinity: an older host does not say."""
    line: str = ""
    """Path of a socket on its machine that takes its messages (`local_line`); empty: none."""


class Replies(msgspec.Struct, frozen=True, array_like=True):
    """Host to gateway: one message in the stream that answers a `Send`.

    The first comes at once, whether or not there is anything to say of the calls.
    """

    wire: int
    host: HostState
    acknowledged: list[int]
    """Places, in `Send.calls`, of calls that were admitted since the last message."""
    replies: list[tuple[int, Reply]]
    """In order for each call, its outcome last: its place in `Send.calls`, and the reply."""


_encoder = msgspec.msgpack.Encoder()
_call_decoder = msgspec.msgpack.Decoder(CallMessage)
_send_decoder = msgspec.msgpack.Decoder(Send)
_state_decoder = msgspec.msgpack.Decoder(HostState)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_replies_decoder = msgspec.msgpack.Decoder(Replies)


def failed(error: ThornbackError) -> Complete:
    """The outcome of a call that ended with `error`, for what `protocol.is_result`."""
    result = msgspec.json.encode(error_result(error))
    return Complete(WIRE_VERSION, result, is_error=True, error_code=error.code)


def encode(message: CallMessage | Send | HostState | Replies | Reply) -> bytes:
    return _encoder.encode(message)


def encode_replies(
    host: HostState, acknowledged: Sequence[int], replies: Sequence[tuple[int, bytes]]
) -> bytes:
    """A `Replies` from replies that are encoded already, so that their size was known."""
    raw = [(place, msgspec.Raw(reply)) for place, reply in replies]
    return _encoder.encode((WIRE_VERSION, host, acknowledged, raw))


def decode_call(data: bytes) -> CallMessage:
    return _call_decoder.decode(data)


def decode_send(data: bytes) -> Send:
    return _send_decoder.decode(data)


def decode_state(data: bytes) -> HostState:
    return _state_decoder.decode(data)


def decode_reply(data: bytes) -> Reply:
    return _reply_decoder.decode(data)


def decode_replies(data: bytes) -> Replies:
    return _replies_decoder.decode(data)
