"""`ToolContext`: what a tool knows about the call it runs, and what it can say during it.

A parameter of this type is injected and hidden from the schema. All methods are plain functions
and safe from any thread; nothing here waits but `sleep`. Events go to the `emit` given at
construction, on the thread that reports; carrying them further is the host's business.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, TypeVar, get_args, overload

import jsonschema_rs
import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError, create_model
from pydantic_core import to_json

from thornback.cluster.errors import CallCancelled, MissingCapability, ToolTimeout, sendable
from thornback.cluster.messages import (
    WIRE_VERSION,
    CallMessage,
    Event,
    Log,
    LogLevel,
    Partial,
    Progress,
)
from thornback.cluster.principals import EVERYBODY, Principal
from thornback.tools.input_requests import (
    Answer,
    Request,
    elicitation,
    is_answer,
    missing_capability,
)
from thornback.tools.results import ANYTHING, jsonable, readable
from thornback.tools.schemas import PlainSchema, inlined

Model = TypeVar("Model", bound=BaseModel)
LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


class InputRequired(BaseException):
    """Ends this run of the tool: the client is asked, and the call is run again with its answers.

    Not an `Exception`, like `CancelledError`: a tool's own `except Exception` must not swallow it.
    """

    def __init__(self, requests: Mapping[str, Request], state: str | None = None) -> None:
        super().__init__(dict(requests), state)
        self.requests = dict(requests)
        """`inputRequests` in wire names; empty where only state is handed over."""
        self.state = state


_objects = msgspec.json.Decoder(dict[str, Any])


class _Carried(msgspec.Struct, omit_defaults=True):
    """What `requestState` holds between two rounds of a call."""

    answers: dict[str, Any] = msgspec.field(default_factory=dict)
    """The client's answers so far: it sends only those of the last round."""
    state: str | None = None
    """What the tool itself left."""


class ToolContext:
    """One call, as its tool sees it."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        tool: str = "",
        version: str = "",
        request_id: str = "",
        principal: Principal = EVERYBODY.principal,
        remaining_s: float = 30.0,
        progress_wanted: bool = False,
        log_level: LogLevel | None = None,
        capabilities: bytes = b"{}",
        input_responses: bytes | None = None,
        request_state: str | None = None,
        max_result_bytes: int = 4 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tool = tool
        self.version = version
        self.request_id = request_id
        """What log lines name the call by. Its client may have chosen it: it need not be unique."""
        self.principal = principal
        """Who the call is for."""
        self.capabilities: dict[str, Any] = _objects.decode(capabilities)
        """What the client declared with this call, in wire names."""
        self.max_result_bytes = max_result_bytes
        self._timeout_s = remaining_s
        self._clock = clock
        self.deadline = clock() + remaining_s
        """Moment on this process's monotonic clock at which the call is given up."""
        carried = _carried(request_state)
        self.request_state = carried.state
        """What this tool left with its last `ask(..., state)`; None in the first round."""
        self.input_responses: dict[str, Answer] = carried.answers
        """The client's answers in all rounds of this call so far, by key; not checked."""
        if input_responses is not None:
            self.input_responses |= _objects.decode(input_responses)
        self._emit = emit
        self._progress_wanted = progress_wanted
        self._least_level = None if log_level is None else LEVELS.index(log_level)
        self._lock = threading.Lock()
        self._progress = float("-inf")
        self._items = 0
        self._asked = 0
        self._cancelled = False
        self._woken: threading.Event | None = None
        """What the tool sleeps on; made by the first who does."""

    @classmethod
    def of(cls, message: CallMessage, emit: Callable[[Event], None]) -> ToolContext:
        """The context of a call that arrived as a message just now."""
        return cls(
            emit,
            tool=message.tool,
            version=message.version,
            request_id=message.logged_as,
            principal=message.principal,
            remaining_s=message.remaining_s,
            progress_wanted=message.progress,
            log_level=message.log_level,
            capabilities=message.capabilities,
            input_responses=message.input_responses,
            request_state=message.request_state,
            max_result_bytes=message.max_result_bytes,
        )

    # --- time and cancellation --------------------------------------------------------------------

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline - self._clock())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more. An `async` tool gets `CancelledError`."""
        return self._cancelled

    def cancel(self) -> None:
        """Tell the tool that nobody waits any more. For hosts."""
        self._cancelled = True
        with self._lock:
            if self._woken is not None:
                self._woken.set()

    def check(self) -> None:
        """Return while the call is wanted: what a loop in a plain function calls now and then.

        Raises:
            CallCancelled: if the client cancelled.
            ToolTimeout: if the deadline has passed.
        """
        if self.cancelled:
            raise CallCancelled(self.tool)
        if self.remaining_s <= 0:
            raise ToolTimeout(self.tool, self._timeout_s)

    def sleep(self, seconds: float) -> None:
        """Wait in a plain function, and no longer than the call is wanted; raises as `check`."""
        with self._lock:
            if self._woken is None:
                self._woken = threading.Event()
        if not self._cancelled:
            self._woken.wait(min(seconds, self.remaining_s))
        self.check()

    # --- reports ----------------------------------------------------------------------------------

    def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far the call is. What does not increase is dropped, as MCP wants it.

        Args:
            progress: Any number; a numpy one, too.
            total: What it will come to; None: not known.
            message: What is being done.

        Raises:
            TypeError: if a number is none, or the message is no text.
        """
        reached = _number("progress", progress)
        whole = None if total is None else _number("total", total)
        said = None if message is None else _text("message", message)
        with self._lock:
            if not self._progress_wanted or not self._progress < reached < math.inf:
                return
            self._progress = reached
            # A total that is no number yet is one that nobody knows.
            known = whole is not None and math.isfinite(whole)
            self._emit(Progress(WIRE_VERSION, reached, whole if known else None, said))

    def partial(self, value: Any, text: str | None = None) -> None:
        """Send a part of the result ahead; the result must hold it again.

        Args:
            value: Anything with a JSON form.
            text: How a model reads it; None: as a result of the same value.

        Raises:
            InvalidResult: if the value has no JSON form.
        """
        plain = jsonable(self.tool, value, ANYTHING)
        data = msgspec.json.encode(plain)
        shown = readable(plain) if text is None else _text("text", text)
        with self._lock:
            seq = self._items
            self._items += 1
        # Not under the lock: a thread that waits here for room would hold up a report that is made
        # on the loop, and the loop is what makes room.
        self._emit(Partial(WIRE_VERSION, seq, data, shown))

    async def room(self) -> None:
        """Wait until the host has room for another item. For the runner of async generators.

        In a thread, the host makes `partial` itself wait; on the loop it must not.
        """
        if (room := getattr(self._emit, "room", None)) is not None:
            await room()

    def log(self, level: LogLevel, data: Any, logger: str | None = None) -> None:
        """Send a log message to the client, where it asked for messages of this level."""
        if self._least_level is not None and LEVELS.index(level) >= self._least_level:
            try:
                said = to_json(data, fallback=str, inf_nan_mode="null")
            except ValueError:  # a text in it has no form in UTF-8
                said = to_json(ascii(data))
            name = logger or self.tool
            self._emit(Log(WIRE_VERSION, level, said, _text("logger", name) if name else None))

    # --- questions --------------------------------------------------------------------------------

    @overload
    def elicit(self, message: str, schema: type[Model], key: str | None = None) -> Model | None: ...

    @overload
    def elicit(
        self, message: str, schema: Mapping[str, Any], key: str | None = None
    ) -> dict[str, Any] | None: ...

    def elicit(
        self, message: str, schema: type[BaseModel] | Mapping[str, Any], key: str | None = None
    ) -> BaseModel | dict[str, Any] | None:
        """Ask the user to fill in a form.

        The first time, this ends the run. The client asks its user and calls again; the tool then
        runs from its start, and this returns the answer. What must not happen twice belongs after
        the last question.

        Args:
            message: What the user reads.
            schema: A pydantic model, names with their types (`{"city": str}`), or a JSON Schema;
                flat, with strings, numbers, booleans and enums.
            key: Names the question. None: its place among the questions of this run.

        Returns:
            What the user entered, as a model where one was given; None where they declined.

        Raises:
            MissingCapability: if the client cannot ask its user.
        """
        self._asked += 1
        key = key or f"input_{self._asked}"
        model, document = _form(schema)
        request = elicitation(message, document)
        answer = self.ask({key: request})[key]
        if answer["action"] != "accept":
            return None
        content: dict[str, Any] = answer["content"]
        if jsonschema_rs.validator_for(document).is_valid(content):
            try:
                filled = None if model is None else model.model_validate(content)
            except ValidationError:
                pass
            else:
                return filled if filled is not None and schema is model else content
        del self.input_responses[key]  # an answer that does not fit is as good as none
        self.ask({key: request})
        raise AssertionError("unreachable: the question is open")

    def ask(self, requests: Mapping[str, Request], state: str | None = None) -> dict[str, Answer]:
        """Ask the client several things at once: forms, its model, its roots.

        As with `elicit`, the first time ends the run.

        Args:
            requests: By key, from `thornback.tools.input_requests`.
            state: What `request_state` shall hold in the next round.

        Returns:
            The client's answers in wire names, by key, once all are there.

        Raises:
            MissingCapability: if the client does not offer what a request needs.
        """
        answers = self.input_responses
        still_open = {
            key: request
            for key, request in requests.items()
            if not is_answer(request, answers.get(key))
        }
        if not still_open:
            return {key: answers[key] for key in requests}
        required: dict[str, Any] = {}
        for request in still_open.values():
            required |= missing_capability(request, self.capabilities) or {}
        if required:
            raise MissingCapability(required)
        kept = {key: answer for key, answer in answers.items() if key not in still_open}
        raise InputRequired(still_open, _state_text(kept, state))


def _number(what: str, value: Any) -> float:
    """A plain float: what crosses to the gateway knows no other kinds of numbers."""
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise TypeError(f"{what} is too large") from None


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not {type(value).__name__}")
    return sendable(value)


def _state_text(answers: dict[str, Answer], state: str | None) -> str | None:
    if not answers and state is None:
        return None
    return msgspec.json.encode(_Carried(answers, state)).decode()


def _carried(request_state: str | None) -> _Carried:
    # Sealed by the gateway: what arrives is what `_state_text` made.
    return (
        _Carried() if request_state is None else msgspec.json.decode(request_state, type=_Carried)
    )


def _form(
    schema: type[BaseModel] | Mapping[str, Any],
) -> tuple[type[BaseModel] | None, dict[str, Any]]:
    """The model behind a form, where there is one, and the form's JSON Schema."""
    if isinstance(schema, Mapping) and "type" in schema and not isinstance(schema["type"], type):
        return None, dict(schema)
    if isinstance(schema, Mapping):
        fields: dict[str, Any] = {name: (kind, ...) for name, kind in schema.items()}
        model: type[BaseModel] = create_model("Form", **fields)
    else:
        model = schema
    document = inlined(TypeAdapter(model).json_schema(schema_generator=PlainSchema))
    document.pop("title", None)
    return model, document
