"""What a tool can know and say during a call, and how it asks."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, Field

from tests.fakes import FakeClock
from thornback.cluster.errors import CallCancelled, InvalidResult, MissingCapability, ToolTimeout
from thornback.cluster.messages import WIRE_VERSION, CallMessage, Event, Log, Partial, Progress
from thornback.cluster.principals import Principal
from thornback.tools.context import InputRequired, ToolContext
from thornback.tools.input_requests import elicitation, roots, sampling

FORMS = b'{"elicitation": {}}'
EVERYTHING = b'{"elicitation": {"form": {}}, "sampling": {}, "roots": {}}'


def accepted(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


def context(
    events: list[Event] | None = None, answers: dict[str, Any] | None = None, **facts: Any
) -> ToolContext:
    given = None if answers is None else msgspec.json.encode(answers)
    emit = (events if events is not None else []).append
    return ToolContext(emit, **{"tool": "t", "input_responses": given, **facts})


def test_a_message_becomes_a_context_with_a_deadline_on_this_clock() -> None:
    who = Principal("default", "ada", ("x",))
    message = CallMessage(WIRE_VERSION, "call_1", "t", "1.0.0", b"{}", 5.0, who, log_level="info")
    ctx = ToolContext.of(message, lambda event: None)
    assert (ctx.principal, ctx.request_id, ctx.tool) == (who, "call_1", "t")
    assert 4 < ctx.remaining_s <= 5


def test_the_deadline_is_a_moment_and_the_remaining_time_runs_down_to_zero() -> None:
    clock = FakeClock(monotonic=100)
    ctx = context(remaining_s=2, clock=clock.monotonic)
    assert ctx.deadline == 102
    clock.advance(1.5)
    assert ctx.remaining_s == 0.5
    ctx.check()
    clock.advance(1)
    assert ctx.remaining_s == 0
    with pytest.raises(ToolTimeout, match="within 2 s"):
        ctx.check()


def test_a_cancelled_call_wakes_a_sleeping_tool() -> None:
    ctx = context(remaining_s=60)
    began_s = time.monotonic()
    threading.Timer(0.05, ctx.cancel).start()
    with pytest.raises(CallCancelled):
        ctx.sleep(30)
    assert time.monotonic() - began_s < 15


def test_a_call_that_was_cancelled_before_does_not_sleep() -> None:
    ctx = context()
    ctx.cancel()
    assert ctx.cancelled
    with pytest.raises(CallCancelled):
        ctx.sleep(3600)


def test_progress_only_increases_and_only_where_it_is_wanted() -> None:
    events: list[Event] = []
    ctx = context(events, progress_wanted=True)
    for value in (0, 1, 1, 0.5, float("nan"), float("inf"), 2):
        ctx.progress(value, 2, "on")
    assert events == [Progress(WIRE_VERSION, value, 2, "on") for value in (0, 1, 2)]

    context(unwanted := []).progress(1)
    assert unwanted == []


def test_partial_values_are_numbered_and_readable() -> None:
    events: list[Event] = []
    ctx = context(events)
    ctx.partial({"a": 1})
    ctx.partial("two", text="2")
    assert events == [
        Partial(WIRE_VERSION, 0, b'{"a":1}', '{"a":1}'),
        Partial(WIRE_VERSION, 1, b'"two"', "2"),
    ]
    with pytest.raises(InvalidResult):
        ctx.partial(float("nan"))


def test_log_messages_below_the_level_asked_for_stay_here() -> None:
    events: list[Event] = []
    ctx = context(events, log_level="warning")
    ctx.log("info", "no")
    ctx.log("error", {"code": 1}, logger="mine")
    assert events == [Log(WIRE_VERSION, "error", b'{"code":1}', "mine")]

    context(unwanted := []).log("emergency", "no")
    assert unwanted == []


class Person(BaseModel):
    name: str
    age: int | None = Field(default=None, ge=0)


def test_the_first_question_ends_the_run_with_a_request() -> None:
    with pytest.raises(InputRequired) as asked:
        context(capabilities=FORMS).elicit("Who?", {"name": str})
    request = asked.value.requests["input_1"]
    assert request["method"] == "elicitation/create"
    assert request["params"]["message"] == "Who?"
    assert request["params"]["requestedSchema"] == {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    }
    assert asked.value.state is None


def test_a_tools_own_except_clause_does_not_swallow_a_question() -> None:
    assert not issubclass(InputRequired, Exception)


def test_an_answer_comes_back_as_what_was_asked_for() -> None:
    ctx = context(answers={"who": accepted(name="Ada", age=3)}, capabilities=FORMS)
    assert ctx.elicit("Who?", Person, key="who") == Person(name="Ada", age=3)
    ctx = context(answers={"who": accepted(name="Ada")}, capabilities=FORMS)
    assert ctx.elicit("Who?", {"name": str}, key="who") == {"name": "Ada"}
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert ctx.elicit("Who?", schema, key="who") == {"name": "Ada"}


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_user_who_declines_is_none(action: str) -> None:
    assert context(answers={"who": {"action": action}}).elicit("Who?", Person, key="who") is None


@pytest.mark.parametrize(
    "answer",
    [None, 42, {}, {"action": "accept"}, accepted(), accepted(name=1), accepted(name="A", age=-1)],
)
def test_an_answer_that_does_not_fit_is_asked_for_again(answer: Any) -> None:
    with pytest.raises(InputRequired):
        context(answers={"who": answer}, capabilities=FORMS).elicit("Who?", Person, key="who")


def test_earlier_answers_travel_in_the_state_because_the_client_sends_only_the_last() -> None:
    def run(ctx: ToolContext) -> tuple[Any, Any]:
        return ctx.elicit("Name?", {"name": str}), ctx.elicit("Age?", {"age": int})

    first_answer = {"input_1": accepted(name="Ada")}
    with pytest.raises(InputRequired) as second:
        run(context(answers=first_answer, capabilities=FORMS))
    assert list(second.value.requests) == ["input_2"]

    last = context(answers={"input_2": accepted(age=3)}, request_state=second.value.state)
    assert run(last) == ({"name": "Ada"}, {"age": 3})


def test_several_things_are_asked_at_once_and_the_tools_state_comes_back() -> None:
    requests = {"a": elicitation("?", {"type": "object"}), "b": sampling("hi"), "c": roots()}
    with pytest.raises(InputRequired) as asked:
        context(capabilities=EVERYTHING).ask(requests, state="mine")
    assert asked.value.requests == requests

    answers = {
        "a": accepted(),
        "b": {"role": "assistant", "content": {"type": "text", "text": "ho"}, "model": "m"},
        "c": {"roots": []},
        "unasked": 1,
    }
    ctx = context(answers=answers, request_state=asked.value.state)
    assert ctx.ask(requests, state="mine") == {key: answers[key] for key in "abc"}
    assert ctx.request_state == "mine"


@pytest.mark.parametrize(
    ("capabilities", "request_", "missing"),
    [
        (b"{}", elicitation("?", {}), {"elicitation": {}}),
        (b'{"elicitation": {"url": {}}}', elicitation("?", {}), {"elicitation": {"form": {}}}),
        (FORMS, sampling("?"), {"sampling": {}}),
        (FORMS, roots(), {"roots": {}}),
    ],
)
def test_nothing_is_asked_that_the_client_did_not_declare(
    capabilities: bytes, request_: dict[str, Any], missing: dict[str, Any]
) -> None:
    with pytest.raises(MissingCapability) as refused:
        context(capabilities=capabilities).ask({"q": request_})
    assert refused.value.required == missing
