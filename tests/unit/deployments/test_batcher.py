"""Which calls share an invocation of a batch tool, and what each of them gets out of it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from thornback.cluster.catalog import Batch
from thornback.cluster.messages import Complete, Event, Progress
from thornback.cluster.principals import Principal
from thornback.deployments.batcher import Batcher
from thornback.tools import ToolContext, ToolFailure, tool
from thornback.tools.definition import tool_of
from thornback.tools.runner import LARGE_BYTES, Outcome


class Batches:
    """A batch tool that holds each invocation until the test lets it go on, and remembers it."""

    def __init__(self, declared: Batch, **options: Any) -> None:
        self.seen: list[list[str]] = []
        self.contexts: list[list[ToolContext]] = []
        self.cancelled = 0
        self._began = asyncio.Event()
        self._go = asyncio.Semaphore(0)
        self._free = False

        @tool(name="double", batch=declared, **options)
        async def double(text: list[str], ctx: list[ToolContext]) -> list[str | Exception]:
            """Say a text twice."""
            self.seen.append(text)
            self.contexts.append(ctx)
            self._began.set()
            try:
                if not self._free:
                    await self._go.acquire()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if "poison" in text:
                raise ValueError(f"cannot take {text}")
            return [ToolFailure(f"no {one}") if one == "bad" else one * 2 for one in text]

        self.tool = tool_of(double)
        self.batcher = Batcher()

    def call(self, text: str, batch: Batch | None = None, **facts: Any) -> asyncio.Task[Outcome]:
        ctx = context(request_id=f"call_{text}", **facts)
        arguments = json.dumps({"text": text}).encode()
        return asyncio.create_task(self.batcher.run(self.tool, arguments, ctx, batch))

    def let_go(self, invocations: int = 1) -> None:
        for _ in range(invocations):
            self._go.release()

    def let_all_go(self) -> None:
        self._free = True
        self.let_go(100)

    async def begun(self, invocations: int) -> None:
        """Wait until so many invocations have begun, and any that would begin with them."""
        while len(self.seen) < invocations:
            self._began.clear()
            await self._began.wait()
        await turns()


async def turns() -> None:
    """Let everything happen that needs no time to pass."""
    for _ in range(20):
        await asyncio.sleep(0)


def context(**facts: Any) -> ToolContext:
    events: list[Event] = []
    return ToolContext(events.append, **{"tool": "t", **facts})


def said(outcome: Outcome) -> str:
    assert isinstance(outcome, Complete)
    return str(json.loads(outcome.result)["content"][0]["text"])


def code_of(outcome: Outcome) -> str | None:
    assert isinstance(outcome, Complete)
    return outcome.error_code


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """An async test, whose waits are bounded."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


# --- which calls share an invocation --------------------------------------------------------------


@in_loop
async def test_calls_that_come_together_run_together_and_in_their_order() -> None:
    batches = Batches(Batch())
    batches.let_all_go()
    calls = [batches.call(text) for text in "abc"]
    assert [said(await call) for call in calls] == ["aa", "bb", "cc"]
    assert batches.seen == [["a", "b", "c"]]


@in_loop
async def test_a_lone_call_does_not_wait_for_company_unless_told_to() -> None:
    batches = Batches(Batch(max_batch_size=8))
    batches.call("a")
    await turns()
    assert batches.seen == [["a"]]
    batches.let_all_go()


@in_loop
async def test_calls_collect_while_a_batch_runs() -> None:
    batches = Batches(Batch(max_batch_size=3))
    first = batches.call("a")
    await batches.begun(1)
    rest = [batches.call(text) for text in "bcde"]
    await turns()
    assert batches.seen == [["a"]]
    batches.let_all_go()
    await asyncio.gather(first, *rest)
    assert batches.seen == [["a"], ["b", "c", "d"], ["e"]]


@in_loop
async def test_so_many_batches_run_at_a_time_and_no_more() -> None:
    batches = Batches(Batch(max_batch_size=1, max_concurrent_batches=2))
    calls = [batches.call(text) for text in "abc"]
    await batches.begun(2)
    assert batches.seen == [["a"], ["b"]]
    batches.let_go()
    await batches.begun(3)
    batches.let_all_go()
    await asyncio.gather(*calls)


@in_loop
async def test_a_batch_that_is_not_full_waits_for_more_as_long_as_it_is_told() -> None:
    loop = asyncio.get_running_loop()
    batches = Batches(Batch(max_batch_size=4, batch_wait_timeout_s=0.05))
    batches.let_all_go()
    began = loop.time()
    calls = [batches.call("a")]
    await turns()
    calls.append(batches.call("b"))
    await asyncio.gather(*calls)
    assert batches.seen == [["a", "b"]]
    assert loop.time() - began >= 0.05


@in_loop
async def test_a_full_batch_does_not_wait() -> None:
    batches = Batches(Batch(max_batch_size=2, batch_wait_timeout_s=10))
    batches.call("a")
    await turns()
    assert batches.seen == []
    batches.call("b")
    await turns()
    assert batches.seen == [["a", "b"]]
    batches.let_all_go()


@in_loop
async def test_a_batch_of_all_calls_that_the_host_takes_does_not_wait() -> None:
    batches = Batches(Batch(max_batch_size=100, batch_wait_timeout_s=10))
    batches.batcher = Batcher(slots=lambda: 2)
    batches.call("a")
    batches.call("b")
    await turns()
    assert batches.seen == [["a", "b"]]
    batches.let_all_go()


@in_loop
async def test_waiting_for_company_takes_at_most_half_of_a_calls_time() -> None:
    batches = Batches(Batch(max_batch_size=4, batch_wait_timeout_s=10))
    batches.let_all_go()
    assert said(await batches.call("a", remaining_s=0.2)) == "aa"


@in_loop
async def test_what_the_catalog_says_now_decides_how_calls_are_collected() -> None:
    batches = Batches(Batch(max_batch_size=8))
    batches.let_all_go()
    await asyncio.gather(*[batches.call(text, Batch(max_batch_size=2)) for text in "abc"])
    await asyncio.gather(*[batches.call(text, Batch(max_batch_size=1)) for text in "de"])
    assert batches.seen == [["a", "b"], ["c"], ["d"], ["e"]]


# --- failures -------------------------------------------------------------------------------------


@in_loop
async def test_a_failure_in_place_of_a_result_is_that_calls_alone() -> None:
    batches = Batches(Batch())
    batches.let_all_go()
    good, bad = batches.call("a"), batches.call("bad")
    assert said(await good) == "aa"
    assert (code_of(await bad), said(await bad)) == ("tool.failed", "no bad")


@in_loop
async def test_a_failure_whose_text_has_no_utf8_form_is_that_calls_alone() -> None:
    @tool(batch=Batch(max_batch_size=2))
    def read(name: list[str]) -> list[str | Exception]:
        """Read a file."""
        return [one if one == "good" else ToolFailure("cannot read caf\udce9") for one in name]

    batcher, arguments = Batcher(), (b'{"name":"good"}', b'{"name":"bad"}')
    calls = (batcher.run(tool_of(read), each, context()) for each in arguments)
    found = await asyncio.gather(*calls)
    assert [code_of(outcome) for outcome in found] == [None, "tool.failed"]


@in_loop
async def test_a_batch_that_cancels_itself_has_failed_for_each_of_its_calls() -> None:
    @tool(batch=Batch(max_batch_size=2))
    async def gives_up(name: list[str]) -> list[str | Exception]:
        """Cancel the task that runs this."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return [*name]

    batcher = Batcher()
    calls = (batcher.run(tool_of(gives_up), b'{"name":"x"}', context()) for _ in range(2))
    found = await asyncio.gather(*calls)
    assert [code_of(outcome) for outcome in found] == ["tool.bug", "tool.bug"]


@pytest.mark.parametrize("option", ["read_only", "idempotent"])
def test_a_poisonous_call_fails_alone_where_the_others_can_be_run_again(option: str) -> None:
    async def main() -> None:
        batches = Batches(Batch(), **{option: True})
        batches.let_all_go()
        calls = [batches.call(text) for text in ("a", "poison", "b")]
        outcomes = await asyncio.gather(*calls)
        assert [code_of(outcome) for outcome in outcomes] == [None, "tool.bug", None]
        assert batches.seen == [["a", "poison", "b"], ["a"], ["poison"], ["b"]]

    asyncio.run(main())


def test_a_batch_that_cannot_be_repeated_fails_for_each_call_in_plain_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> list[Outcome]:
        batches = Batches(Batch())
        batches.let_all_go()
        outcomes = await asyncio.gather(batches.call("secret"), batches.call("poison"))
        assert batches.seen == [["secret", "poison"]]
        return list(outcomes)

    for outcome in asyncio.run(main()):
        assert code_of(outcome) == "tool.batch_failed"
        assert "may have taken effect" in said(outcome)
        assert "cannot take" not in said(outcome)
        assert "secret" not in said(outcome)
        assert said(outcome).rpartition("(error ")[2].rstrip(")") in caplog.text
    (record,) = caplog.records
    assert vars(record)["request_ids"] == ["call_secret", "call_poison"]


def test_a_broken_batch_is_logged_although_its_calls_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        batches = Batches(Batch(), idempotent=True)
        batches.let_all_go()
        await asyncio.gather(batches.call("a"), batches.call("poison"))

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "double failed" in caplog.text
    assert "ValueError: cannot take ['a', 'poison']" in caplog.text


@in_loop
async def test_the_operators_word_on_repeating_goes_before_the_authors() -> None:
    batches = Batches(Batch(), idempotent=True)
    batches.let_all_go()

    def call(text: str) -> Coroutine[Any, Any, Outcome]:
        arguments = json.dumps({"text": text}).encode()
        return batches.batcher.run(batches.tool, arguments, context(), repeatable=False)

    outcomes = await asyncio.gather(call("a"), call("poison"))
    assert [code_of(outcome) for outcome in outcomes] == ["tool.batch_failed"] * 2


@in_loop
async def test_a_tool_that_raises_what_no_tool_should_answers_all_the_same() -> None:
    @tool(batch=Batch(), read_only=True)
    def leave(text: list[str]) -> list[str]:
        """Leave."""
        raise SystemExit(1)

    batcher = Batcher()
    outcomes = await asyncio.gather(
        *[batcher.run(tool_of(leave), b'{"text":"a"}', context()) for _ in range(2)]
    )
    assert [code_of(outcome) for outcome in outcomes] == ["tool.bug"] * 2


# --- cancellation and deadlines -------------------------------------------------------------------


@in_loop
async def test_a_call_cancelled_before_its_batch_starts_is_left_out() -> None:
    batches = Batches(Batch())
    first = batches.call("a")
    await batches.begun(1)
    gone, stays = batches.call("gone"), batches.call("stays")
    await turns()
    gone.cancel()
    batches.let_all_go()
    assert said(await stays) == "staysstays"
    await first
    assert batches.seen == [["a"], ["stays"]]


@in_loop
async def test_a_call_whose_time_is_over_before_its_batch_starts_is_left_out() -> None:
    batches = Batches(Batch())
    first = batches.call("a")
    await batches.begun(1)
    now = [0.0]
    late = batches.call("late", remaining_s=5, clock=lambda: now[0])
    stays = batches.call("stays")
    await turns()
    now[0] = 6.0
    batches.let_all_go()
    assert code_of(await late) == "tool.timeout"
    await asyncio.gather(first, stays)
    assert batches.seen == [["a"], ["stays"]]


@in_loop
async def test_a_call_cancelled_during_the_run_loses_its_own_answer_alone() -> None:
    batches = Batches(Batch())
    gone, stays = batches.call("gone"), batches.call("stays")
    await batches.begun(1)
    gone.cancel()
    await turns()
    assert gone.cancelled()
    assert [ctx.cancelled for ctx in batches.contexts[0]] == [True, False]
    batches.let_all_go()
    assert said(await stays) == "staysstays"
    assert batches.cancelled == 0


@in_loop
async def test_a_batch_is_cancelled_when_all_its_calls_are_and_the_next_begins() -> None:
    batches = Batches(Batch(max_batch_size=2))
    calls = [batches.call("a"), batches.call("b")]
    after = batches.call("c")
    await batches.begun(1)
    for call in calls:
        call.cancel()
    await batches.begun(2)
    assert (batches.cancelled, batches.seen) == (1, [["a", "b"], ["c"]])
    batches.let_all_go()
    assert said(await after) == "cc"


@in_loop
async def test_a_call_cancelled_before_its_turn_alone_is_not_run_again() -> None:
    batches = Batches(Batch(), idempotent=True)
    calls = [batches.call(text) for text in ("poison", "a", "gone")]
    await batches.begun(1)
    batches.let_go()
    await batches.begun(2)
    calls[2].cancel()
    batches.let_all_go()
    assert said(await calls[1]) == "aa"
    await turns()
    assert batches.seen[1:] == [["poison"], ["a"]]


@in_loop
async def test_a_plain_function_holds_its_place_until_it_returns() -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[tuple[str, ToolContext]] = []

    @tool(batch=Batch(max_batch_size=1))
    def wait(text: list[str], ctx: list[ToolContext]) -> list[str]:
        """Wait."""
        seen.append((text[0], ctx[0]))
        begun.set()
        release.wait(10)
        return text

    batcher = Batcher()

    def call(text: str) -> asyncio.Task[Outcome]:
        arguments = json.dumps({"text": text}).encode()
        return asyncio.create_task(batcher.run(tool_of(wait), arguments, context()))

    stuck, after = call("stuck"), call("after")
    await asyncio.to_thread(begun.wait, 10)
    assert batcher.threads == 1
    stuck.cancel()
    await turns()
    assert stuck.cancelled()
    assert (len(seen), seen[0][1].cancelled, batcher.threads) == (1, True, 0)
    release.set()
    assert said(await after) == "after"


# --- what stays apart -----------------------------------------------------------------------------


@in_loop
async def test_each_call_keeps_its_principal_its_deadline_and_its_reports() -> None:
    @tool(batch=Batch())
    def who(text: list[str], ctx: list[ToolContext]) -> list[str]:
        """Say who asks."""
        for place, one in enumerate(ctx):
            one.progress(place + 1)
        return [f"{one.principal.name} {round(one.remaining_s)}" for one in ctx]

    batcher = Batcher()
    events: dict[str, list[Event]] = {"ann": [], "ben": []}
    contexts = [
        ToolContext(
            events[name].append,
            principal=Principal("default", name),
            remaining_s=seconds,
            progress_wanted=True,
        )
        for name, seconds in (("ann", 10), ("ben", 20))
    ]
    outcomes = await asyncio.gather(
        *[batcher.run(tool_of(who), b'{"text":""}', context) for context in contexts]
    )
    assert [said(outcome) for outcome in outcomes] == ["ann 10", "ben 20"]
    progress = {
        name: [event.progress for event in told if isinstance(event, Progress)]
        for name, told in events.items()
    }
    assert progress == {"ann": [1], "ben": [2]}


@in_loop
async def test_what_one_callers_request_left_in_its_context_is_not_seen_by_a_batch() -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")

    @tool(batch=Batch())
    async def read(text: list[str]) -> list[str]:
        """Read."""
        return [variable.get() for _ in text]

    variable.set("the first caller's")
    assert said(await Batcher().run(tool_of(read), b'{"text":""}', context())) == "nobody's"


def test_a_call_does_not_wait_for_the_large_result_of_another() -> None:
    @tool(name="repeat", batch=Batch(max_batch_size=8), idempotent=True)
    def repeat(times: list[int]) -> list[str]:
        """Say x so many times."""
        return ["x" * number for number in times]

    async def scenario() -> None:
        batcher = Batcher()
        large, small = (
            asyncio.create_task(
                batcher.run(
                    tool_of(repeat),
                    json.dumps({"times": number}).encode(),
                    context(max_result_bytes=4 * LARGE_BYTES),
                )
            )
            for number in (LARGE_BYTES, 1)
        )
        done, _ = await asyncio.wait([large, small], return_when=asyncio.FIRST_COMPLETED)
        assert done == {small}
        assert isinstance(await large, Complete)

    asyncio.run(scenario())
