"""A batch tool: what it may look like, what is published of it, and one invocation of it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field

from thornback.cluster.messages import Complete, Event
from thornback.tools import Batch, DefinitionError, ToolContext, ToolFailure, runner, testing, tool
from thornback.tools.batching import BatchBroken
from thornback.tools.definition import Tool, tool_of
from thornback.tools.runner import LARGE_BYTES, Outcome, run, run_batch


@tool(batch=Batch(max_batch_size=8), idempotent=True)
def shout(
    text: list[str],
    marks: list[Annotated[int, Field(default=1, ge=0, description="How loud.")]],
    ctx: list[ToolContext],
) -> list[str | ToolFailure]:
    """Write in capitals.

    Args:
        text: What to shout.
    """
    return [
        one.upper() + "!" * loud if one else ToolFailure("there is nothing to shout")
        for one, loud in zip(text, marks, strict=True)
    ]


def context(**facts: Any) -> ToolContext:
    return ToolContext([].append, **{"tool": "t", **facts})


def ran(target: Callable[..., Any], *arguments: str) -> list[Outcome]:
    calls = [(one.encode(), context(request_id=f"call_{n}")) for n, one in enumerate(arguments)]
    return asyncio.run(run_batch(tool_of(target), calls))


def texts_of(outcomes: list[Outcome]) -> list[str]:
    assert all(isinstance(outcome, Complete) for outcome in outcomes)
    return [json.loads(o.result)["content"][0]["text"] for o in outcomes if isinstance(o, Complete)]


def codes_of(outcomes: list[Outcome]) -> list[str | None]:
    return [o.error_code for o in outcomes if isinstance(o, Complete)]


# --- what is published ----------------------------------------------------------------------------


def test_the_schemas_and_the_signature_are_those_of_one_call() -> None:
    declared = tool_of(shout)
    schema = json.loads(declared.input_schema)
    assert schema == {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to shout."},
            "marks": {"type": "integer", "default": 1, "minimum": 0, "description": "How loud."},
        },
        "required": ["text"],
    }
    assert json.loads(declared.output_schema or b"")["properties"] == {"result": {"type": "string"}}
    assert declared.signature == "shout(text: str, marks: int) -> str"
    assert declared.spec("p").batch == Batch(max_batch_size=8)


def test_a_batch_tool_is_still_the_function_it_was() -> None:
    two = [testing.Recorded(), testing.Recorded()]
    assert shout(["a", "b"], [1, 2], two) == ["A!", "B!!"]


def test_an_agent_calls_it_like_any_other() -> None:
    async def call() -> tuple[Any, bool]:
        async with testing.client(shout) as agent:
            result = await agent.call_tool("shout", {"text": "hi"})
            refused = await agent.call_tool("shout", {"text": ""})
            return result.structured_content, refused.is_error

    assert asyncio.run(call()) == ({"result": "HI!"}, True)


def no_list(text: str) -> list[str]: ...
def a_tuple(text: tuple[str, str]) -> list[str]: ...
def bare_list(text: list) -> list[str]: ...  # type: ignore[type-arg]
def untyped(text) -> list[str]: ...  # type: ignore[no-untyped-def]
def outer_bounds(text: Annotated[list[str], Field(max_length=3)]) -> list[str]: ...
def defaulted(text: list[str] = []) -> list[str]: ...  # noqa: B006
def one_context(text: list[str], ctx: ToolContext) -> list[str]: ...
def one_result(text: list[str]) -> str: ...
def nothing() -> list[str]: ...
def starred(*text: list[str]) -> list[str]: ...
def generator(text: list[str]) -> Any:
    yield text


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (no_list, "parameter text is str: in a batch tool it holds the values of all calls"),
        (a_tuple, "parameter text is tuple"),
        (bare_list, "parameter text is list: .* annotate it list"),
        (untyped, "parameter text has no type"),
        (outer_bounds, "bounds and defaults go inside"),
        (defaulted, "write that of one call in its type"),
        (one_context, "parameter ctx is ToolContext: in a batch tool"),
        (one_result, "it returns str: a batch tool returns list"),
        (nothing, "could not tell how many calls"),
        (starred, "cannot be given by name"),
        (generator, "a generator cannot be a batch tool"),
    ],
)
def test_what_cannot_take_a_batch_is_refused_and_told_what_to_write(
    target: Callable[..., Any], why: str
) -> None:
    target.__doc__ = "Do it."
    with pytest.raises(DefinitionError, match=why):
        tool(batch=Batch())(target)


# --- one invocation -------------------------------------------------------------------------------


def test_a_plain_function_runs_once_in_a_thread_for_all_calls() -> None:
    threads: list[threading.Thread] = []

    @tool(batch=Batch())
    def lengths(text: Sequence[str]) -> list[int]:
        """Count."""
        threads.append(threading.current_thread())
        return [len(one) for one in text]

    assert texts_of(ran(lengths, '{"text":"a"}', '{"text":"bb"}')) == ["1", "2"]
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_class_keeps_its_instance_and_an_async_one_is_made_in_a_thread() -> None:
    made: list[threading.Thread] = []

    @tool(batch=Batch())
    class Count:
        """Count batches."""

        def __init__(self) -> None:
            made.append(threading.current_thread())
            self.batches = 0

        async def __call__(self, text: list[str]) -> list[int]:
            assert threading.current_thread() is threading.main_thread()
            self.batches += 1
            return [self.batches for _ in text]

    assert texts_of(ran(Count, '{"text":"a"}', '{"text":"b"}')) == ["1", "1"]
    assert texts_of(ran(Count, '{"text":"c"}')) == ["2"]
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


def test_an_array_counts_by_its_first_axis() -> None:
    @tool(batch=Batch())
    def vectors(text: list[str]) -> Any:
        """Embed."""
        return np.ones((len(text), 2))

    outcomes = ran(vectors, '{"text":"a"}', '{"text":"b"}', '{"text":"c"}')
    assert texts_of(outcomes) == ["[1.0,1.0]"] * 3


def test_arguments_that_do_not_fit_fail_alone_and_are_not_run() -> None:
    outcomes = ran(shout, '{"text":"a"}', '{"text":7}', '{"text":"b","marks":0}')
    assert codes_of(outcomes) == [None, "tool.invalid_arguments", None]
    assert texts_of(outcomes)[::2] == ["A!", "B"]


def test_a_result_that_cannot_be_sent_fails_alone() -> None:
    @tool(batch=Batch())
    def odd(text: list[str]) -> list[Any]:
        """Return what was asked for."""
        made: dict[str, Any] = {"nan": float("nan"), "object": object(), "large": "x" * 10_000}
        return [made.get(one, one) for one in text]

    calls = [
        (json.dumps({"text": one}).encode(), context(max_result_bytes=1000))
        for one in ("a", "nan", "object", "large", "b")
    ]
    outcomes = asyncio.run(run_batch(tool_of(odd), calls))
    invalid = "tool.invalid_result"
    assert codes_of(outcomes) == [None, invalid, invalid, "tool.result_too_large", None]


def test_an_exception_in_place_of_a_result_is_a_bug_of_that_call_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @tool(batch=Batch())
    async def gathered(text: list[str]) -> list[Any]:
        """Look texts up."""

        async def look(one: str) -> str:
            return {"a": "A"}[one]

        return await asyncio.gather(*map(look, text), return_exceptions=True)

    outcomes = ran(gathered, '{"text":"a"}', '{"text":"password"}')
    assert codes_of(outcomes) == [None, "tool.bug"]
    assert "password" not in texts_of(outcomes)[1]
    assert "KeyError: 'password'" in caplog.text
    (record,) = caplog.records
    assert vars(record)["request_ids"] == ["call_1"]


@pytest.mark.parametrize(
    "returned", [["a"], ["a", "b", "c"], "ab", {"a": 1, "b": 2}, None, iter(["a", "b"])]
)
def test_anything_but_one_result_a_call_breaks_the_batch(returned: Any) -> None:
    @tool(batch=Batch())
    def wrong(text: list[str]) -> Any:
        """Return something else."""
        return returned

    with pytest.raises(BatchBroken) as broken:
        ran(wrong, '{"text":"a"}', '{"text":"b"}')
    assert isinstance(broken.value.cause, TypeError)


@pytest.mark.parametrize("bad", ['{"text":7}', None])
def test_what_a_tool_raises_for_one_call_is_that_calls_failure(bad: str | None) -> None:
    @tool(batch=Batch())
    def refuse(text: list[str]) -> list[str]:
        """Refuse."""
        raise ToolFailure("the index is offline")

    # A call that took no part, because its arguments do not fit, does not count.
    outcomes = ran(refuse, '{"text":"a"}', *([bad] if bad else []))
    assert texts_of(outcomes)[0] == "the index is offline"


def test_what_keeps_a_class_from_being_made_is_told_to_every_call_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @tool(batch=Batch())
    class Broken:
        """Embed."""

        def __init__(self) -> None:
            raise RuntimeError("no model")

        def __call__(self, text: list[str]) -> list[str]:
            raise NotImplementedError

    with caplog.at_level(logging.ERROR):
        outcomes = ran(Broken, '{"text":"a"}', '{"text":"b"}')
    assert codes_of(outcomes) == ["tool.bug", "tool.bug"]
    assert caplog.text.count("RuntimeError: no model") == 1
    (record,) = caplog.records
    assert vars(record)["request_ids"] == ["call_0", "call_1"]


def test_a_batch_tool_that_asks_its_caller_is_a_bug_that_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @tool(batch=Batch())
    def ask(text: list[str], ctx: list[ToolContext]) -> list[str]:
        """Ask."""
        ctx[0].elicit("Which?", {"city": str})
        raise NotImplementedError

    able = context(capabilities=b'{"elicitation":{}}')
    outcomes = asyncio.run(run_batch(tool_of(ask), [(b'{"text":"a"}', able)]))
    assert codes_of(outcomes) == ["tool.bug"]
    assert "a batch tool cannot ask its callers" in caplog.text


def test_calls_share_the_cpu_time_of_their_batch() -> None:
    declared: Tool = tool_of(shout)
    calls = [(b'{"text":"a"}', context()) for _ in range(4)]
    outcomes = asyncio.run(run_batch(declared, calls))
    times = {outcome.cpu_s for outcome in outcomes if isinstance(outcome, Complete)}
    assert len(times) == 1
    assert 0 < times.pop() * 4 < 1


def test_each_outcome_says_how_many_calls_its_invocation_had() -> None:
    outcomes = ran(shout, '{"text":"a"}', '{"text":""}', "{}")
    assert [o.batch_size for o in outcomes if isinstance(o, Complete)] == [3, 3, 3]
    alone = asyncio.run(run(tool_of(shout), b'{"text":"a"}', context()))
    assert isinstance(alone, Complete)
    assert alone.batch_size == 1


def test_a_cancelled_run_tells_every_context() -> None:
    begun = asyncio.Event()

    @tool(batch=Batch())
    async def forever(text: list[str]) -> list[str]:
        """Wait."""
        begun.set()
        await asyncio.Event().wait()
        raise NotImplementedError

    async def main() -> list[bool]:
        calls = [(b'{"text":"a"}', context()) for _ in range(2)]
        task = asyncio.create_task(run_batch(tool_of(forever), calls))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [ctx.cancelled for _, ctx in calls]

    assert asyncio.run(main()) == [True, True]


def test_one_call_is_a_batch_of_one() -> None:
    events: list[Event] = []
    outcome = asyncio.run(run(tool_of(shout), b'{"text":"a"}', ToolContext(events.append)))
    assert texts_of([outcome]) == ["A!"]


@tool(batch=Batch(max_batch_size=8), idempotent=True)
def repeat(times: list[int]) -> list[str]:
    """Say x so many times.

    Args:
        times: How many.
    """
    return ["x" * number for number in times]


@pytest.mark.parametrize(
    ("times", "told_early"),
    [((LARGE_BYTES, 1, 2), [1, 2]), ((3, 2, 1), None), ((LARGE_BYTES,), None)],
)
def test_what_is_there_is_told_before_a_large_result_is_encoded(
    times: tuple[int, ...], told_early: list[int] | None
) -> None:
    early: list[dict[int, Outcome]] = []
    calls = [
        (json.dumps({"times": number}).encode(), context(max_result_bytes=4 * LARGE_BYTES))
        for number in times
    ]
    outcomes = asyncio.run(run_batch(tool_of(repeat), calls, early=early.append))
    assert [len(text) for text in texts_of(outcomes)] == list(times)
    assert [sorted(told) for told in early] == ([] if told_early is None else [told_early])
    for place, outcome in (early[0] if early else {}).items():
        assert isinstance(outcome, Complete)
        assert outcome.result == outcomes[place].result  # type: ignore[union-attr]
        assert outcome.batch_size == len(times)


def test_what_is_told_can_be_sent_before_a_large_result_is_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[int | str] = []
    encode = runner.call_tool_result

    def encoded(tool: str, value: str, *rest: Any) -> bytes:
        happened.append(len(value))
        return encode(tool, value, *rest)

    async def send() -> None:
        for _ in range(4):  # the call ends, its replies are taken, and written
            await asyncio.sleep(0)
        happened.append("sent")

    async def scenario() -> None:
        sending: list[asyncio.Task[None]] = []
        calls = [
            (json.dumps({"times": number}).encode(), context(max_result_bytes=4 * LARGE_BYTES))
            for number in (LARGE_BYTES, 1)
        ]
        await run_batch(
            tool_of(repeat), calls, early=lambda _: sending.append(asyncio.create_task(send()))
        )

    monkeypatch.setattr(runner, "call_tool_result", encoded)
    asyncio.run(scenario())
    assert happened == [1, "sent", LARGE_BYTES]
