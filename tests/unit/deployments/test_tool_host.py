"""`ToolHost` is a plain class, so its tests need no Serve."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.fakes import FakeClock
from thornback.cluster.catalog import Batch, ToolSpec
from thornback.cluster.errors import CallCancelled
from thornback.cluster.messages import (
    ALONE,
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    Event,
    HostState,
    Outcome,
    Parked,
    Partial,
    Progress,
    Refused,
    Replies,
    Send,
    decode_call,
    decode_replies,
    decode_reply,
    decode_state,
    encode,
)
from thornback.cluster.principals import Principal
from thornback.deployments.clock import Clock
from thornback.deployments.event_stream import MAX_PARTIALS
from thornback.deployments.outbox import INLINE_MAX_BYTES
from thornback.deployments.tool_host import ReplicaFacts, ToolHost
from thornback.tools import ToolContext, ToolFailure, tool
from thornback.tools.definition import Tool, tool_of

Reply = Event | Outcome
PATIENCE_S = 5.0
"""How long a test waits for what must happen; never waited for where it does."""


class Cluster:
    """A tool module, the catalog's specs of it, and a host of both."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = ModuleType("under_test")
        monkeypatch.setitem(sys.modules, "under_test", self.module)
        self.modules = ["under_test"]
        self.specs: list[ToolSpec] | None = None
        """What the registry answers; None: what the module declares."""
        self.registry_answers = asyncio.Event()
        self.registry_answers.set()

    def host(self, *functions: Callable[..., Any], clock: Clock | None = None) -> ToolHost:
        self.module.__dict__.update({f.__name__: f for f in functions})
        self.module.__dict__["__all__"] = [f.__name__ for f in functions]
        declared = [tool_of(f).spec("pool") for f in functions]

        async def specs_of(cluster: str, pool: str) -> Sequence[ToolSpec]:
            await self.registry_answers.wait()
            return declared if self.specs is None else self.specs

        return ToolHost(
            "local",
            "pool",
            self.modules,
            specs_of=specs_of,
            replica=lambda: ReplicaFacts("replica-1", "node-1"),
            clock=clock,
        )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def message(name: str, remaining_s: float = PATIENCE_S, **fields: Any) -> bytes:
    call = CallMessage(
        WIRE_VERSION, "call_1", name, "1.0.0", b"{}", remaining_s, Principal("default", "ann")
    )
    return encode(msgspec.structs.replace(call, **fields))


def opened(host: ToolHost, message: bytes) -> AsyncGenerator[bytes, None]:
    """The stream that answers a send of one call, which has it to itself."""
    call = decode_call(message)
    return host.send(encode(Send(call.wire, "gwy_1", 0, [call], alone=True)))


async def admitted(stream: AsyncGenerator[bytes, None]) -> Replies:
    """The message that says the host runs the call."""
    while not (replies := decode_replies(await anext(stream))).acknowledged:
        pass
    return replies


async def replies_of(host: ToolHost, message: bytes) -> list[Reply]:
    """What becomes of one call, its acknowledgement first."""
    found: list[Reply] = []
    async for data in opened(host, message):
        message_ = decode_replies(data)
        state = message_.host
        found += [
            Acknowledged(WIRE_VERSION, state.replica_id, state.running)
            for _ in message_.acknowledged
        ]
        found += [reply for _, reply in message_.replies if not isinstance(reply, Parked)]
    return found


async def shared(host: ToolHost, *calls: bytes, gateway: str = "gwy_1") -> list[Replies]:
    """The messages that answer calls which came together."""
    send = Send(WIRE_VERSION, gateway, 0, [decode_call(call) for call in calls])
    return [decode_replies(data) async for data in host.send(encode(send))]


async def told(host: ToolHost, **fields: Any) -> HostState:
    """Say something to a host that is no call."""
    send = msgspec.structs.replace(Send(WIRE_VERSION, "gwy_1", 0), **fields)
    states = [decode_replies(data).host async for data in host.send(encode(send))]
    return states[-1]


async def slots(host: ToolHost, number: int) -> ToolHost:
    await host.reconfigure({"max_ongoing_requests": number})
    return host


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(bounded())


def structured(reply: Reply) -> Any:
    assert isinstance(reply, Complete)
    return msgspec.json.decode(reply.result)["structuredContent"]["result"]


@tool
def greet(name: str = "you") -> str:
    """Greet."""
    return f"hello {name}"


@tool
async def forever() -> str:
    """Never finish."""
    await asyncio.Event().wait()
    return ""


def test_a_call_is_acknowledged_and_then_answered(cluster: Cluster) -> None:
    async def calls() -> list[Reply]:
        return await replies_of(cluster.host(greet), message("greet", arguments=b'{"name":"ann"}'))

    first, last = run(calls())
    assert isinstance(first, Acknowledged)
    assert first.replica_id == "replica-1"
    assert structured(last) == "hello ann"


def test_a_tool_that_hangs_is_given_up_on(cluster: Cluster) -> None:
    async def calls() -> list[Reply]:
        return await replies_of(cluster.host(forever), message("forever", remaining_s=0.05))

    outcome = run(calls())[-1]
    assert isinstance(outcome, Complete)
    assert outcome.is_error
    assert outcome.error_code == "tool.timeout"
    said = msgspec.json.decode(outcome.result)["_meta"]["io.thornback/error"]
    assert said == {"code": "tool.timeout"}


WORK_S = 0.01


def work() -> None:
    """Compute for `WORK_S` seconds."""
    end_s = time.thread_time() + WORK_S
    while time.thread_time() < end_s:
        pass


@tool
def computes() -> str:
    """Compute."""
    work()
    return "done"


@tool
def computes_and_fails() -> str:
    """Compute, in vain."""
    work()
    raise ToolFailure("in vain")


@tool
def computes_and_streams() -> Iterator[int]:
    """Compute each item."""
    for number in range(2):
        work()
        yield number


@tool
async def waits_a_little() -> str:
    """Wait."""
    await asyncio.sleep(WORK_S)
    return "done"


@pytest.mark.parametrize(
    ("function", "remaining_s", "ran_s", "computed_s"),
    [
        (computes, PATIENCE_S, WORK_S, WORK_S),
        (computes_and_fails, PATIENCE_S, WORK_S, WORK_S),
        (computes_and_streams, PATIENCE_S, 2 * WORK_S, 2 * WORK_S),
        (waits_a_little, PATIENCE_S, WORK_S, 0.0),
        (forever, 0.05, 0.05, 0.0),
    ],
)
def test_an_outcome_says_how_long_its_tool_ran_and_computed(
    cluster: Cluster,
    function: Callable[..., Any],
    remaining_s: float,
    ran_s: float,
    computed_s: float,
) -> None:
    async def calls() -> Reply:
        name = tool_of(function).name
        return (await replies_of(cluster.host(function), message(name, remaining_s)))[-1]

    outcome = run(calls())
    assert isinstance(outcome, Complete)
    # Timers of the loop are a clock's grain early.
    assert ran_s - 0.001 <= outcome.run_s < PATIENCE_S
    assert computed_s <= outcome.cpu_s <= outcome.run_s
    assert computed_s or not outcome.cpu_s


def test_calls_of_a_batch_share_what_it_computed(cluster: Cluster) -> None:
    @tool(batch=Batch(max_batch_size=2, batch_wait_timeout_s=PATIENCE_S))
    def computes_together(number: list[int]) -> list[int]:
        """Compute."""
        work()
        return number

    async def calls() -> list[Replies]:
        host = await warm(cluster.host(echo, computes_together))
        said = [named("computes_together", n, arguments=b'{"number":1}') for n in range(2)]
        return await shared(host, *said)

    one, other = [reply for message in run(calls()) for _, reply in message.replies]
    assert isinstance(one, Complete)
    assert isinstance(other, Complete)
    assert one.run_s == other.run_s >= WORK_S
    assert one.cpu_s == other.cpu_s
    assert WORK_S / 2 <= one.cpu_s <= one.run_s / 2 + 0.001


def test_a_tool_has_its_time_however_long_its_host_took_to_import(cluster: Cluster) -> None:
    @tool
    def left(ctx: ToolContext) -> float:
        """Tell how long there is."""
        return ctx.remaining_s

    async def calls() -> Reply:
        cluster.registry_answers.clear()
        call = asyncio.create_task(replies_of(cluster.host(left), message("left", remaining_s=4)))
        await asyncio.sleep(0.05)  # this is the time that is not to be counted
        cluster.registry_answers.set()
        return (await call)[-1]

    assert structured(run(calls())) > 3.95


def test_a_bug_in_a_tool_is_logged_here_and_not_told(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    def buggy() -> str:
        """Fail."""
        raise RuntimeError("password=hunter2")

    async def calls() -> list[Reply]:
        return await replies_of(cluster.host(buggy), message("buggy"))

    outcome = run(calls())[-1]
    assert outcome.error_code == "tool.bug"
    assert b"hunter2" not in outcome.result
    assert "hunter2" in caplog.text


def test_what_a_tool_reports_comes_in_order_before_its_outcome(cluster: Cluster) -> None:
    @tool
    def counts(ctx: ToolContext) -> Iterator[int]:
        """Count."""
        yield 1
        ctx.progress(0.5)
        yield 2

    async def calls() -> list[Reply]:
        return await replies_of(cluster.host(counts), message("counts", progress=True))

    replies = run(calls())
    assert [type(r) for r in replies] == [Acknowledged, Partial, Progress, Partial, Complete]
    assert [r.value for r in replies if isinstance(r, Partial)] == [b"1", b"2"]


def test_closing_the_stream_cancels_an_async_tool(cluster: Cluster) -> None:
    cancelled = threading.Event()

    @tool
    async def waits() -> str:
        """Wait."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    async def calls() -> bool:
        stream = opened(cluster.host(waits), message("waits"))
        await admitted(stream)
        await asyncio.sleep(0)  # lets the tool begin
        await stream.aclose()
        return await asyncio.to_thread(cancelled.wait, PATIENCE_S)

    assert run(calls())


def test_closing_the_stream_is_seen_by_a_plain_function(cluster: Cluster) -> None:
    started, saw = threading.Event(), threading.Event()

    @tool
    def works(ctx: ToolContext) -> str:
        """Work until nobody waits."""
        started.set()
        with suppress(CallCancelled):
            ctx.sleep(PATIENCE_S)
        if ctx.cancelled:
            saw.set()
        return ""

    async def calls() -> bool:
        stream = opened(cluster.host(works), message("works"))
        await admitted(stream)
        await asyncio.to_thread(started.wait, PATIENCE_S)
        await stream.aclose()
        return await asyncio.to_thread(saw.wait, PATIENCE_S)

    assert run(calls())


def test_a_thread_that_outlives_its_call_keeps_its_slot(cluster: Cluster) -> None:
    release, started = threading.Event(), threading.Event()

    @tool
    def stubborn() -> str:
        """Ignore that nobody waits."""
        started.set()
        release.wait(PATIENCE_S)
        return "late"

    async def calls() -> tuple[Reply, Reply]:
        host = await slots(cluster.host(stubborn), 1)
        stream = opened(host, message("stubborn"))
        await admitted(stream)
        await asyncio.to_thread(started.wait, PATIENCE_S)
        await stream.aclose()
        (refused,) = await replies_of(host, message("stubborn"))
        release.set()
        while (await host.info())["busy_threads"]:  # noqa: ASYNC110  # a thread tells no loop
            await asyncio.sleep(0.001)
        return refused, (await replies_of(host, message("stubborn")))[-1]

    refused, answered = run(calls())
    assert refused == Refused(WIRE_VERSION, "pool.busy", ["pool", "1"])
    assert structured(answered) == "late"


async def greatest_lead(host: ToolHost, produced: list[int]) -> int:
    """How far the generator `numbers` gets ahead of a reader that begins late."""
    stream = opened(host, message("numbers"))
    await admitted(stream)
    lead = read = 0
    while len(produced) < MAX_PARTIALS:  # noqa: ASYNC110  # it may run in a thread
        await asyncio.sleep(0.001)
    async for data in stream:
        lead = max(lead, len(produced) - read)
        read += sum(isinstance(reply, Partial) for _, reply in decode_replies(data).replies)
    assert read == len(produced) == 2000
    return lead


def test_a_generator_waits_until_its_items_are_read(cluster: Cluster) -> None:
    produced: list[int] = []

    @tool
    def numbers() -> Iterator[int]:
        """Count far."""
        for n in range(2000):
            produced.append(n)
            yield n

    async def calls() -> int:
        return await greatest_lead(cluster.host(numbers), produced)

    assert run(calls()) <= 2 * MAX_PARTIALS + 1


def test_an_async_generator_waits_until_its_items_are_read(cluster: Cluster) -> None:
    produced: list[int] = []

    @tool
    async def numbers() -> AsyncIterator[int]:
        """Count far."""
        for n in range(2000):
            produced.append(n)
            yield n

    async def calls() -> int:
        return await greatest_lead(cluster.host(numbers), produced)

    assert run(calls()) <= 2 * MAX_PARTIALS + 1


def test_a_thread_that_waits_for_room_holds_up_no_report_on_the_loop(cluster: Cluster) -> None:
    @tool
    async def both(ctx: ToolContext) -> int:
        """Report from a thread and from the loop."""
        full = threading.Event()

        def items() -> int:
            for number in range(2 * MAX_PARTIALS):
                if number == MAX_PARTIALS:
                    full.set()
                ctx.partial(number)
            return number

        thread = asyncio.get_running_loop().run_in_executor(None, items)
        assert full.wait(PATIENCE_S)  # on the loop: nobody reads meanwhile
        ctx.progress(0.5)
        return await thread

    async def calls() -> Reply:
        return (await replies_of(cluster.host(both), message("both", progress=True)))[-1]

    assert structured(run(calls())) == 2 * MAX_PARTIALS - 1


def test_a_module_that_cannot_be_imported_is_named_and_spares_the_others(
    cluster: Cluster,
) -> None:
    cluster.modules = ["no_such_module", "under_test"]
    lost = msgspec.structs.replace(
        tool_of(greet).spec("pool"), name="lost", module="no_such_module"
    )
    cluster.specs = [tool_of(greet).spec("pool"), lost]

    async def calls() -> tuple[list[Reply], list[Reply]]:
        host = cluster.host(greet)
        return await replies_of(host, message("lost")), await replies_of(host, message("greet"))

    refused, answered = run(calls())
    cause = "ModuleNotFoundError: No module named 'no_such_module'"
    assert refused == [Refused(WIRE_VERSION, "pool.broken", ["pool", "no_such_module", cause])]
    assert structured(answered[-1]) == "hello you"


def test_what_a_module_raises_stays_on_its_host(
    cluster: Cluster, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises_at_import.py").write_text("raise SystemExit('password=hunter2')")
    monkeypatch.syspath_prepend(tmp_path)
    cluster.modules = ["raises_at_import"]

    async def info() -> dict[str, Any]:
        host = cluster.host(greet)
        await host.check_health()  # the replica stays up
        return await host.info()

    cause = run(info())["broken"]["raises_at_import"]
    assert cause.startswith("SystemExit (error err_")
    assert "hunter2" not in cause


def changed(declared: Tool) -> ToolSpec:
    return msgspec.structs.replace(declared.spec("pool"), content_hash="0" * 64)


def test_a_tool_that_differs_from_the_catalog_is_refused_with_the_reason(cluster: Cluster) -> None:
    cluster.specs = [changed(tool_of(greet))]

    async def calls() -> tuple[list[Reply], dict[str, Any]]:
        host = cluster.host(greet)
        return await replies_of(host, message("greet")), await host.info()

    (refused,), info = run(calls())
    assert refused.code == "pool.broken"
    assert "greet@1.0.0 differs from the catalog" in refused.facts[2]
    assert list(info["mismatches"]) == ["greet@1.0.0"]


def test_calls_wait_for_a_registry_that_is_away(cluster: Cluster) -> None:
    async def calls() -> Reply:
        cluster.registry_answers.clear()
        host = cluster.host(greet)
        (refused,) = await replies_of(host, message("greet", queue_timeout_s=0.05))
        assert refused == Refused(
            WIRE_VERSION, "pool.no_replica", ["pool", "its host waits for the registry", "1"]
        )
        waiting = asyncio.create_task(replies_of(host, message("greet")))
        cluster.registry_answers.set()
        return (await waiting)[-1]

    assert structured(run(calls())) == "hello you"


def test_a_gateway_of_another_wire_version_is_refused_in_words(cluster: Cluster) -> None:
    async def calls() -> list[Reply]:
        return await replies_of(cluster.host(greet), message("greet", wire=99))

    (refused,) = run(calls())
    assert "wire version" in refused.facts[2]


def test_a_class_tool_is_closed_with_its_host(cluster: Cluster) -> None:
    closed = threading.Event()

    @tool
    class Model:
        """Answer."""

        def __call__(self) -> int:
            return 42

        def close(self) -> None:
            closed.set()

    async def calls() -> Reply:
        host = cluster.host(Model)
        reply = (await replies_of(host, message("model")))[-1]
        host.close()
        return reply

    assert structured(run(calls())) == 42
    assert closed.is_set()


# --- calls that come together ---------------------------------------------------------------------


@tool
async def echo(text: str = "") -> str:
    """Answer with the text it was given."""
    return text


async def warm(host: ToolHost) -> ToolHost:
    """The host, once it has compared its tools with the catalog."""
    await replies_of(host, message("echo"))
    return host


def named(name: str, number: int, **fields: Any) -> bytes:
    return message(name, call_id=f"call_{number}", **fields)


def test_what_is_over_at_once_travels_with_its_acknowledgement(cluster: Cluster) -> None:
    async def calls() -> list[Replies]:
        host = await warm(cluster.host(echo))
        texts = [f'{{"text":"{n}"}}'.encode() for n in range(3)]
        return await shared(host, *(named("echo", n, arguments=t) for n, t in enumerate(texts)))

    (only,) = run(calls())
    assert only.acknowledged == [0, 1, 2]
    assert [(place, structured(reply)) for place, reply in only.replies] == [
        (0, "0"),
        (1, "1"),
        (2, "2"),
    ]
    assert (only.host.replica_id, only.host.node_id) == ("replica-1", "node-1")


def test_a_slow_call_holds_back_no_fast_one(cluster: Cluster) -> None:
    async def calls() -> Replies:
        host = await warm(cluster.host(echo, forever))
        send = Send(
            WIRE_VERSION,
            "gwy_1",
            0,
            [decode_call(named("forever", 1)), decode_call(named("echo", 2))],
        )
        stream = host.send(encode(send))
        first = decode_replies(await anext(stream))
        await stream.aclose()
        return first

    first = run(calls())
    assert [place for place, _ in first.replies] == [1]
    assert first.host.running == 1


def test_no_more_calls_are_admitted_than_there_are_slots(cluster: Cluster) -> None:
    async def calls() -> list[Replies]:
        host = await slots(await warm(cluster.host(echo, forever)), 2)
        late = [named("forever", n, remaining_s=0.05) for n in range(3)]
        return await shared(host, *late)

    first, *_ = run(calls())
    assert first.acknowledged == [0, 1]
    assert first.replies == [(2, Refused(WIRE_VERSION, "pool.busy", ["pool", "1"]))]
    assert (first.host.slots, first.host.free, first.host.running) == (2, 0, 2)


def waiting(begun: asyncio.Semaphore, finish: asyncio.Event) -> Any:
    """A tool called `waits`, which says that it has begun and waits until it may finish."""

    @tool
    async def waits() -> str:
        """Wait until it may finish."""
        begun.release()
        await finish.wait()
        return "finished"

    return waits


def test_one_call_is_cancelled_and_its_neighbour_finishes(cluster: Cluster) -> None:
    async def calls() -> tuple[HostState, list[Replies]]:
        finish, begun = asyncio.Event(), asyncio.Semaphore(0)

        host = await warm(cluster.host(echo, waiting(begun, finish)))
        both = asyncio.create_task(shared(host, named("waits", 1), named("waits", 2)))
        await begun.acquire()
        await begun.acquire()
        await told(host, cancels=["call_1"])
        await asyncio.sleep(0)
        state = await told(host)
        finish.set()
        return state, await both

    state, messages = run(calls())
    assert state.running == 1
    replies = dict(reply for message in messages for reply in message.replies)
    assert error_code(replies[0]) == "call.cancelled"
    assert structured(replies[1]) == "finished"


def test_a_call_that_comes_twice_under_one_name_keeps_no_slot(cluster: Cluster) -> None:
    async def calls() -> tuple[HostState, list[Replies], list[Replies]]:
        finish, begun = asyncio.Event(), asyncio.Semaphore(0)

        host = await warm(cluster.host(echo, waiting(begun, finish)))
        first = asyncio.create_task(shared(host, named("waits", 1)))
        await begun.acquire()
        second = asyncio.create_task(shared(host, named("waits", 1)))
        await begun.acquire()
        finish.set()
        answered = await first, await second
        return await told(host), *answered

    state, *answers = run(calls())
    assert state.running == 0
    for messages in answers:
        (reply,) = [reply for message in messages for _, reply in message.replies]
        assert structured(reply) == "finished"


NUMBERS = (np.float64(1.0), np.int64(1), np.float32(1), Decimal(1), Fraction(1))


@pytest.mark.parametrize(
    "report",
    [
        *((number, number, "text") for number in NUMBERS),
        (1.0, float("nan"), "cannot read caf\udce9.txt"),
    ],
)
def test_what_a_tool_reports_need_not_be_plain(cluster: Cluster, report: tuple[Any, ...]) -> None:
    @tool
    def reports(ctx: ToolContext) -> str:
        """Say how far it is."""
        ctx.progress(*report)
        ctx.log("info", report[2], logger="caf\udce9")
        ctx.partial("part", text=report[2])
        return "reported"

    async def calls() -> dict[int, list[Reply]]:
        host = await warm(cluster.host(echo, reports))
        call = named("reports", 1, progress=True, log_level="info")
        return by_place(await shared(host, named("echo", 2), call))

    neighbour, said = run(calls()).values()
    assert structured(neighbour[-1]) == ""
    assert structured(said[-1]) == "reported"
    assert len(said) == 4


@pytest.mark.parametrize("report", [("1",), (1, "2"), (1, 2, 5), (1, 2, Path("x")), (10**400,)])
def test_a_report_that_is_none_is_the_bug_of_its_tool_alone(
    cluster: Cluster, report: tuple[Any, ...]
) -> None:
    @tool
    def reports(ctx: ToolContext) -> str:
        """Say how far it is."""
        ctx.progress(*report)
        return "reported"

    async def calls() -> dict[int, list[Reply]]:
        host = await warm(cluster.host(echo, reports))
        return by_place(await shared(host, named("echo", 2), named("reports", 1, progress=True)))

    neighbour, said = run(calls()).values()
    assert structured(neighbour[-1]) == ""
    assert [error_code(reply) for reply in said] == ["tool.bug"]


def test_a_failure_whose_text_has_no_utf8_form_is_told_all_the_same(cluster: Cluster) -> None:
    @tool
    def fails() -> str:
        """Fail."""
        raise ToolFailure("cannot read caf\udce9.txt")

    found = run(replies_of(cluster.host(fails), message("fails")))
    assert error_code(found[-1]) == "tool.failed"
    assert rb"cannot read caf\\udce9.txt" in found[-1].result


def test_a_tool_that_cancels_itself_has_run_and_failed(cluster: Cluster) -> None:
    @tool
    async def gives_up() -> str:
        """Cancel the task that runs this."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return "unreached"

    found = run(replies_of(cluster.host(gives_up), message("gives_up")))
    assert error_code(found[-1]) == "tool.bug"


def by_place(messages: Sequence[Replies]) -> dict[int, list[Reply]]:
    """What each call of a send said, in the order of the calls."""
    found: dict[int, list[Reply]] = {}
    for message_ in messages:
        for place, reply in message_.replies:
            found.setdefault(place, []).append(reply)
    return dict(sorted(found.items()))


def error_code(reply: Reply) -> str | None:
    assert isinstance(reply, Complete)
    return reply.error_code


def test_a_generator_shares_no_stream(cluster: Cluster) -> None:
    @tool
    async def counts() -> AsyncIterator[int]:
        """Count."""
        yield 1

    async def calls() -> list[Replies]:
        return await shared(await warm(cluster.host(echo, counts)), message("counts"))

    (refused,) = run(calls())
    assert refused.acknowledged == []
    assert refused.replies == [(0, Refused(WIRE_VERSION, ALONE, ["counts"]))]


@pytest.mark.parametrize(("batch", "invocations"), [(None, [3]), (Batch(max_batch_size=2), [2, 1])])
def test_calls_of_a_batch_tool_run_together_as_they_say_themselves(
    cluster: Cluster, batch: Batch | None, invocations: list[int]
) -> None:
    sizes: list[int] = []

    @tool(batch=Batch(max_batch_size=8, batch_wait_timeout_s=0.05))
    async def double(number: list[int]) -> list[int]:
        """Double."""
        sizes.append(len(number))
        return [2 * n for n in number]

    async def calls() -> list[Replies]:
        host = await warm(cluster.host(echo, double))
        numbers = [f'{{"number":{n}}}'.encode() for n in range(3)]
        said = [named("double", n, arguments=a, batch=batch) for n, a in enumerate(numbers)]
        return await shared(host, *said)

    replies = dict(reply for message in run(calls()) for reply in message.replies)
    assert [structured(replies[place]) for place in range(3)] == [0, 2, 4]
    assert sizes == invocations


def test_a_host_says_since_when_it_is_there(cluster: Cluster) -> None:
    async def age_s() -> float:
        clock = FakeClock()
        host = cluster.host(echo, clock=clock)
        clock.advance(2.5)
        return (await told(host)).age_s

    assert run(age_s()) == 2.5


def test_a_large_result_is_parked_until_it_is_fetched_and_spares_its_neighbour(
    cluster: Cluster,
) -> None:
    @tool
    async def large() -> str:
        """Answer at length."""
        return "x" * INLINE_MAX_BYTES

    async def calls() -> tuple[Replies, bytes | None, bytes | None]:
        host = await warm(cluster.host(echo, large))
        (only,) = await shared(host, named("large", 1), named("echo", 2))
        parked = dict(only.replies)[0]
        assert isinstance(parked, Parked)
        return only, await host.fetch(parked.value_id), await host.fetch(parked.value_id)

    only, value, gone = run(calls())
    assert structured(dict(only.replies)[1]) == ""
    assert value is not None
    assert structured(decode_reply(value)) == "x" * INLINE_MAX_BYTES
    assert gone is None


def test_a_gateway_learns_when_there_is_room(cluster: Cluster) -> None:
    async def calls() -> HostState:
        host = await slots(await warm(cluster.host(echo, forever)), 1)
        stream = opened(host, message("forever"))
        await admitted(stream)
        waiting = asyncio.create_task(told(host, gateway="gwy_2", held=1, room_s=PATIENCE_S))
        await asyncio.sleep(0)
        await stream.aclose()
        return await waiting

    assert run(calls()).free == 1


def test_slots_that_several_gateways_want_are_shared(cluster: Cluster) -> None:
    async def calls() -> tuple[int, int, int]:
        host = await slots(await warm(cluster.host(echo)), 4)
        await host.beat("gwy_2", 10)
        state = decode_state(await host.beat("gwy_1", 10))
        runs = (await host.info())["running"]
        return state.free, (await told(host, gateway="gwy_2", held=10)).free, runs

    assert run(calls()) == (2, 2, 0)


def test_a_host_says_what_runs_and_what_gateways_hold(cluster: Cluster) -> None:
    async def calls() -> tuple[float, dict[str, int]]:
        host = await warm(cluster.host(echo, forever))
        stream = opened(host, message("forever"))
        await admitted(stream)
        await host.beat("gwy_2", 7)
        host.load()
        load = host.load()
        await stream.aclose()
        return load.running, load.held

    assert run(calls()) == (pytest.approx(1.0), {"gwy_2": 7})


def test_a_gateway_of_the_wire_version_before_is_answered_as_it_expects(cluster: Cluster) -> None:
    @tool
    def items() -> Iterator[str]:
        """Make one long item."""
        yield "x" * INLINE_MAX_BYTES

    async def calls() -> list[Reply]:
        host = cluster.host(items)
        stream = host.call(message("items", wire=1))
        return [
            reply async for data in stream if not isinstance(reply := decode_reply(data), Parked)
        ]

    replies = run(calls())
    assert [type(reply) for reply in replies] == [Acknowledged, Partial, Complete]
