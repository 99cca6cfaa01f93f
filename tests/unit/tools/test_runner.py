"""What running a tool once comes to, whichever way it runs and ends."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from thornback.cluster.errors import MissingCapability, ToolFailure
from thornback.cluster.messages import Complete, Event, InputNeeded, Partial, Raised
from thornback.tools import Image, ToolContext, tool
from thornback.tools.definition import tool_of
from thornback.tools.runner import Outcome, run


def context(events: list[Event] | None = None, **facts: Any) -> ToolContext:
    return ToolContext((events if events is not None else []).append, **{"tool": "t", **facts})


def outcome_of(
    target: Callable[..., Any], arguments: str = "{}", ctx: ToolContext | None = None
) -> Outcome:
    return asyncio.run(run(tool_of(target), arguments.encode(), ctx or context()))


def completed(target: Callable[..., Any], arguments: str = "{}", **facts: Any) -> Complete:
    outcome = outcome_of(target, arguments, context(**facts))
    assert isinstance(outcome, Complete)
    return outcome


def text_of(outcome: Complete) -> str:
    return str(json.loads(outcome.result)["content"][0]["text"])


def test_a_plain_function_runs_in_a_thread_and_its_cpu_time_is_told() -> None:
    @tool
    def where() -> bool:
        """Say whether this is the main thread."""
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return threading.current_thread() is threading.main_thread()

    outcome = completed(where)
    assert json.loads(outcome.result)["structuredContent"] == {"result": False}
    assert 0.005 <= outcome.cpu_s <= outcome.run_s + 0.005


def test_an_async_function_runs_on_the_loop() -> None:
    @tool
    async def where() -> bool:
        """Say whether this is the main thread."""
        return threading.current_thread() is threading.main_thread()

    assert text_of(completed(where)) == "true"


def test_context_variables_reach_the_thread() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @tool
    def read() -> str:
        """Read."""
        return variable.get()

    async def main() -> Outcome:
        variable.set("set")
        return await run(tool_of(read), b"{}", context())

    outcome = asyncio.run(main())
    assert isinstance(outcome, Complete)
    assert text_of(outcome) == "set"


@tool
def counting(upto: int) -> Iterator[int]:
    """Count."""
    yield from range(upto)


@tool
async def counting_on_loop(upto: int) -> AsyncIterator[int]:
    """Count."""
    for number in range(upto):
        yield number


@pytest.mark.parametrize("target", [counting, counting_on_loop])
def test_what_a_generator_yields_is_sent_ahead_and_is_the_result(target: Any) -> None:
    events: list[Event] = []
    outcome = outcome_of(target, '{"upto": 3}', context(events))
    assert isinstance(outcome, Complete)
    assert json.loads(outcome.result)["structuredContent"] == {"result": [0, 1, 2]}
    assert [(e.seq, e.value) for e in events if isinstance(e, Partial)] == [
        (0, b"0"),
        (1, b"1"),
        (2, b"2"),
    ]


def test_a_generator_may_return_its_result() -> None:
    @tool
    def summing() -> Generator[int, None, str]:
        """Sum."""
        yield 1
        return "the sum"

    assert text_of(completed(summing)) == "the sum"


def test_a_generator_with_a_result_of_its_own_may_yield_without_end() -> None:
    @tool
    def counting() -> Generator[str, None, int]:
        """Count."""
        for _ in range(100):
            yield "x" * 100
        return 100

    events: list[Event] = []
    outcome = outcome_of(counting, ctx=context(events, max_result_bytes=1000))
    assert isinstance(outcome, Complete)
    assert json.loads(outcome.result)["structuredContent"] == {"result": 100}
    assert sum(isinstance(event, Partial) for event in events) == 100


def test_a_generator_may_yield_pictures() -> None:
    @tool
    def drawing() -> Iterator[str | Image]:
        """Draw."""
        yield "one:"
        yield Image(b"png")

    events: list[Event] = []
    outcome = outcome_of(drawing, ctx=context(events))
    assert isinstance(outcome, Complete)
    content = json.loads(outcome.result)["content"]
    assert [block["type"] for block in content] == ["text", "image"]
    assert [e.text for e in events if isinstance(e, Partial)] == ["one:", "[image]"]


@pytest.mark.parametrize("target", [counting, counting_on_loop])
def test_a_generator_that_yields_too_much_is_stopped(target: Any) -> None:
    outcome = completed(target, '{"upto": 1000000000}', max_result_bytes=1000)
    assert outcome.error_code == "tool.result_too_large"


def test_a_class_keeps_its_state_between_calls() -> None:
    @tool
    class Counter:
        """Count calls."""

        def __init__(self) -> None:
            self.calls = 0

        async def __call__(self) -> int:
            self.calls += 1
            return self.calls

    assert [text_of(completed(Counter)) for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize("error", [RuntimeError("no model here"), SystemExit(3)])
def test_a_class_that_cannot_be_made_is_a_bug_of_each_call(error: BaseException) -> None:
    @tool
    class Broken:
        """Break."""

        def __init__(self) -> None:
            raise error

        async def __call__(self) -> None:
            raise NotImplementedError

    assert completed(Broken).error_code == "tool.bug"
    assert completed(Broken).error_code == "tool.bug"


@tool
def failing(how: str) -> str:
    """Fail."""
    raise {
        "failure": ToolFailure("the moon is not in reach"),
        "bug": RuntimeError("password=hunter2"),
        "exit": SystemExit(3),
        "protocol": MissingCapability({"sampling": {}}),
    }[how]


@tool
async def failing_on_loop(how: str) -> str:
    """Fail."""
    return failing(how)


either_way = pytest.mark.parametrize("target", [failing, failing_on_loop])


@either_way
def test_a_failure_is_a_result_that_the_model_reads(target: Any) -> None:
    outcome = completed(target, '{"how": "failure"}')
    assert (outcome.is_error, outcome.error_code) == (True, "tool.failed")
    assert json.loads(outcome.result)["isError"] is True
    assert text_of(outcome) == "the moon is not in reach"


@either_way
@pytest.mark.parametrize("how", ["bug", "exit"])
def test_a_bug_in_a_tool_is_logged_here_and_not_told(
    target: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = completed(target, json.dumps({"how": how}))
    assert outcome.error_code == "tool.bug"
    assert b"hunter2" not in outcome.result
    error_id = text_of(outcome).partition("(error ")[2].rstrip(")")
    assert error_id.startswith("err_")
    assert error_id in caplog.text
    assert "Traceback" in caplog.text


def test_a_failure_is_no_larger_than_a_result_may_be() -> None:
    @tool
    def rant() -> None:
        """Fail at length."""
        raise ToolFailure("no " * 1000)

    assert completed(rant, max_result_bytes=1000).error_code == "tool.result_too_large"


@either_way
def test_a_protocol_error_of_a_tool_is_a_json_rpc_error(target: Any) -> None:
    outcome = outcome_of(target, '{"how": "protocol"}')
    assert isinstance(outcome, Raised)
    assert outcome.rpc_code == -32021
    assert json.loads(outcome.data or b"")["requiredCapabilities"] == {"sampling": {}}


def test_arguments_that_do_not_fit_name_the_misfit_and_never_reach_the_tool() -> None:
    outcome = completed(failing, '{"hwo": "bug"}')
    assert outcome.error_code == "tool.invalid_arguments"
    assert 'hwo: unknown property; did you mean "how"?' in text_of(outcome)


def test_a_result_that_does_not_fit_its_schema_is_an_error() -> None:
    @tool
    def lying() -> int:
        """Lie."""
        return "three"  # type: ignore[return-value]

    assert completed(lying).error_code == "tool.invalid_result"


def test_a_question_ends_the_run_even_inside_a_broad_except() -> None:
    @tool
    def asking(ctx: ToolContext) -> str:
        """Ask."""
        try:
            return str(ctx.elicit("Name?", {"name": str}))
        except Exception:
            return "swallowed"

    outcome = outcome_of(asking, ctx=context(capabilities=b'{"elicitation": {}}'))
    assert isinstance(outcome, InputNeeded)
    assert list(json.loads(outcome.requests)) == ["input_1"]


def test_cancelling_tells_a_plain_function_in_its_thread() -> None:
    stopped = threading.Event()

    async def main() -> None:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        @tool
        def patient(ctx: ToolContext) -> None:
            """Wait."""
            loop.call_soon_threadsafe(started.set)
            try:
                ctx.sleep(3600)
            finally:
                stopped.set()

        ctx = context(remaining_s=3600)
        task = asyncio.create_task(run(tool_of(patient), b"{}", ctx))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ctx.cancelled

    asyncio.run(main())
    assert stopped.wait(10)


def test_cancelling_reaches_an_async_generator_which_cleans_up() -> None:
    cleaned = []

    async def main() -> None:
        started = asyncio.Event()

        @tool
        async def endless() -> AsyncIterator[int]:
            """Wait."""
            try:
                yield 1
                started.set()
                await asyncio.Event().wait()
            finally:
                cleaned.append(True)

        task = asyncio.create_task(run(tool_of(endless), b"{}", context()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert cleaned == [True]


def test_a_plain_generator_stops_between_items_once_it_is_cancelled() -> None:
    cleaned = []
    ctx = context()

    @tool
    def endless() -> Iterator[int]:
        """Yield until cancelled."""
        try:
            while True:
                ctx.cancel()
                yield 1
        finally:
            cleaned.append(True)

    outcome = outcome_of(endless, ctx=ctx)
    assert isinstance(outcome, Complete)
    assert outcome.error_code == "call.cancelled"
    assert cleaned == [True]


def test_a_tool_that_awaits_something_cancelled_has_a_bug_and_is_not_cancelled() -> None:
    @tool
    async def careless() -> None:
        """Await what is cancelled."""
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert completed(careless).error_code == "tool.bug"
