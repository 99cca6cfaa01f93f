import asyncio
import builtins
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from ray.serve._private.logging_utils import StreamToLogger, redirected_print

from thornback.deployments.batcher import Batcher
from thornback.deployments.log_records import (
    MAX_IDS,
    MAX_MESSAGE_CHARS,
    JsonLines,
    Saying,
    mark_output,
    take_back_output,
)
from thornback.tools.context import ToolContext
from thornback.tools.definition import Batch, tool, tool_of
from thornback.tools.runner import run


class Host:
    """What a tool host writes: `sys.stdout`, `sys.stderr` and the root logger, for one test."""

    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()

    @property
    def printed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.getvalue().splitlines()]


def heard(say: Callable[[], object]) -> Host:
    """Run `say` in a process whose output is marked, and give what it wrote."""
    host = Host()
    root, ours = logging.getLogger(), logging.getLogger("thornback")
    kept = sys.stdout, sys.stderr, root.handlers, ours.level
    sys.stdout, sys.stderr, root.handlers = host.out, host.err, []
    try:
        mark_output()
        say()
    finally:
        sys.stdout, sys.stderr, root.handlers, level = kept
        ours.setLevel(level)
    return host


def context(request_id: str = "req_1", **facts: Any) -> ToolContext:
    about = {"tool": "words", "version": "1.2.0", "request_id": request_id, **facts}
    return ToolContext([].append, **about)


def within(calls: list[ToolContext], say: Callable[[], object]) -> None:
    def inside() -> None:
        with Saying(calls):
            say()

    copy_context().run(inside)


def run_as_call(target: Callable[..., Any], ctx: ToolContext) -> None:
    """As a host does it, in a task of the call's own."""

    async def call() -> None:
        with Saying([ctx]):
            await run(tool_of(target), b"{}", ctx)

    asyncio.run(call())


def say_both() -> None:
    print("printed")
    logging.getLogger("my_tools").warning("logged %d", 2)


@tool
def plain() -> str:
    """Talk in a thread."""
    say_both()
    return ""


@tool
async def on_the_loop() -> str:
    """Talk after a pause, and from a thread that asyncio made."""
    await asyncio.sleep(0)
    await asyncio.to_thread(say_both)
    return ""


@tool
def items() -> Iterator[int]:
    """Talk between items."""
    yield 1
    say_both()
    yield 2


@tool
def in_a_thread_of_its_own() -> str:
    """Talk in a thread that has a copy of the context."""
    thread = threading.Thread(target=copy_context().run, args=(say_both,))
    thread.start()
    thread.join()
    return ""


@pytest.mark.parametrize("talking", [plain, on_the_loop, items, in_a_thread_of_its_own])
def test_what_a_tool_prints_and_logs_names_its_call(talking: Any) -> None:
    host = heard(lambda: run_as_call(talking, context()))
    about = {"request_id": "req_1", "tool": "words", "version": "1.2.0"}
    (printed,), (logged,) = host.printed, host.logged
    assert printed.pop("time") <= logged.pop("time")
    assert printed == {"level": "info", "logger": "stdout", "message": "printed", **about}
    assert logged == {"level": "warning", "logger": "my_tools", "message": "logged 2", **about}


def test_calls_that_run_at_once_are_told_apart() -> None:
    meet = threading.Barrier(2, timeout=10)

    def talk(word: str) -> None:
        print(f"{word} is ", end="")
        meet.wait()
        print("here")

    calls = {word: context(f"req_{word}") for word in ("ann", "bob")}
    threads = [
        threading.Thread(target=within, args=([ctx], lambda word=word: talk(word)))
        for word, ctx in calls.items()
    ]

    def both() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    host = heard(both)
    said = {line["request_id"]: line["message"] for line in host.printed}
    assert said == {"req_ann": "ann is here", "req_bob": "bob is here"}


def test_what_is_printed_outside_of_a_call_stays_as_it_is() -> None:
    def importing() -> None:
        print("importing")
        logging.getLogger("my_tools").warning("imported")

    host = heard(importing)
    assert host.out.getvalue() == "importing\n"
    (line,) = host.logged
    assert (line["message"], "request_id" in line) == ("imported", False)


def test_the_traceback_of_a_bug_stands_beside_its_error_id_and_its_call() -> None:
    @tool
    def buggy() -> str:
        """Fail."""
        raise RuntimeError("no such file")

    host = heard(lambda: run_as_call(buggy, context()))
    (line,) = host.logged
    assert line["message"].startswith("buggy failed (err_")
    assert line["traceback"].endswith("RuntimeError: no such file")
    assert (line["request_id"], line["level"]) == ("req_1", "error")


def test_what_a_batch_prints_names_every_call_of_it() -> None:
    @tool(batch=Batch(max_batch_size=2, batch_wait_timeout_s=5))
    def together(word: list[str]) -> list[str]:
        """Repeat words."""
        print("once for all")
        return word

    host = heard(lambda: asyncio.run(call_twice(together)))
    (line,) = host.printed
    assert (line["request_ids"], "request_id" in line) == (["req_1", "req_2"], False)


def test_the_traceback_of_a_batch_that_failed_as_a_whole_names_the_tool_and_every_call() -> None:
    @tool(batch=Batch(max_batch_size=2, batch_wait_timeout_s=5))
    def together(word: list[str]) -> list[str]:
        """Fail."""
        raise RuntimeError("no such index")

    host = heard(lambda: asyncio.run(call_twice(together)))
    (line,) = host.logged
    assert line["traceback"].endswith("RuntimeError: no such index")
    assert (line["tool"], line["version"]) == ("words", "1.2.0")
    assert line["request_ids"] == ["req_1", "req_2"]


def test_a_batch_that_cancelled_itself_names_the_tool_and_each_call_in_a_line_of_its_own() -> None:
    @tool(batch=Batch(max_batch_size=2, batch_wait_timeout_s=5))
    async def together(word: list[str]) -> list[str]:
        """Give up."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        raise NotImplementedError

    host = heard(lambda: asyncio.run(call_twice(together)))
    assert [(line["tool"], line["request_id"]) for line in host.logged] == [
        ("words", "req_1"),
        ("words", "req_2"),
    ]


async def call_twice(target: Any) -> None:
    """Two calls of a batch tool, as one batch."""
    batcher = Batcher()
    calls = [batcher.run(tool_of(target), b'{"word":"x"}', context(f"req_{n}")) for n in (1, 2)]
    await asyncio.gather(*calls)


def test_a_line_names_so_many_calls_and_counts_the_others() -> None:
    host = heard(
        lambda: within([context(f"req_{n}") for n in range(MAX_IDS + 3)], lambda: print("many"))
    )
    (line,) = host.printed
    assert (len(line["request_ids"]), line["more_requests"]) == (MAX_IDS, 3)


def test_a_line_without_an_end_is_written_when_its_call_is_over() -> None:
    host = heard(lambda: within([context()], lambda: print("half", end="")))
    assert [line["message"] for line in host.printed] == ["half"]


def test_of_a_line_that_is_written_over_the_last_is_kept() -> None:
    host = heard(lambda: within([context()], lambda: print("10 %\r50 %\r100 %\r\n\n", end="")))
    assert [line["message"] for line in host.printed] == ["100 %"]


def test_a_line_that_never_ends_is_kept_in_pieces() -> None:
    host = heard(
        lambda: within([context()], lambda: [print("x" * 1000, end="") for _ in range(40)])
    )
    sizes = [len(line["message"]) for line in host.printed]
    assert len(sizes) == 3
    assert max(sizes) <= MAX_MESSAGE_CHARS


def test_any_text_can_be_printed() -> None:
    host = heard(lambda: within([context()], lambda: print("odd \udce9 name")))
    assert [line["message"] for line in host.printed] == ["odd \\udce9 name"]


def test_lines_for_rays_own_reader_stay_as_they_are() -> None:
    host = heard(lambda: within([context()], lambda: print(":task_name:x")))
    assert host.out.getvalue() == ":task_name:x\n"


def test_an_error_of_one_call_of_a_batch_names_that_call() -> None:
    def fail() -> None:
        logging.getLogger("thornback.tools").error("x", extra={"request_ids": ["req_2"]})

    host = heard(lambda: within([context("req_1"), context("req_2")], fail))
    (line,) = host.logged
    assert (line["request_id"], line["tool"], "request_ids" in line) == ("req_2", "words", False)


def test_a_tool_cannot_speak_for_another_call() -> None:
    def pretend() -> None:
        logging.getLogger("mine").error("x", extra={"request_ids": ["req_2"]})

    host = heard(lambda: within([context("req_1")], pretend))
    assert [line["request_id"] for line in host.logged] == ["req_1"]


def test_what_serve_takes_into_a_log_of_its_own_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, taken = io.StringIO(), logging.getLogger("a log of Serve's own")
    monkeypatch.setattr(sys, "stdout", StreamToLogger(taken, logging.INFO, real))
    monkeypatch.setattr(builtins, "print", redirected_print)
    take_back_output()
    print("mine")
    assert real.getvalue() == "mine\n"


def test_streams_are_still_streams() -> None:
    def use() -> None:
        sys.stdout.flush()
        sys.stdout.writelines(["a\n", "b\n"])
        assert not sys.stdout.isatty()

    host = heard(use)
    assert host.out.getvalue() == "a\nb\n"


def test_a_record_of_a_gateway_is_a_line_too() -> None:
    record = logging.LogRecord("thornback.x", logging.INFO, "", 0, "ready %s", ("now",), None)
    line = json.loads(JsonLines().format(record))
    assert line == {**line, "level": "info", "logger": "thornback.x", "message": "ready now"}
