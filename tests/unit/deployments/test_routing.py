"""From a call to a pool; pools are fakes."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from tests.fakes import FakeClock
from thornback.cluster.catalog import (
    AccessPolicy,
    Annotations,
    Batch,
    CallPolicy,
    Catalog,
    PoolEntry,
    ToolSpec,
    content_hash_of,
)
from thornback.cluster.errors import (
    InvalidArguments,
    NoReplica,
    Overloaded,
    PoolBroken,
    ReplicaLost,
    ThornbackError,
    ToolTimeout,
    UnknownTool,
)
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Complete,
    Event,
    InputNeeded,
    Outcome,
    Partial,
    Progress,
    Raised,
)
from thornback.cluster.principals import EVERYBODY, Caller, Principal
from thornback.deployments.routing import Call, Routed, RoutingEngine
from thornback.deployments.telemetry import CallFacts

SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}
DONE = Complete(WIRE_VERSION, b"{}", False)
LOST = ReplicaLost("sql", "sql_query")
ACK = Acknowledged(WIRE_VERSION, "replica-1", 1)
POOL = PoolEntry(name="sql", application="thornback.local.sql", modules=("m",))


def spec(name: str = "sql_query", version: str = "1.0.0", **fields: Any) -> ToolSpec:
    schema = msgspec.Raw(json.dumps(SCHEMA).encode())
    made = ToolSpec(
        name=name, version=version, description="d", input_schema=schema, pool="sql", module="m"
    )
    made = msgspec.structs.replace(made, **fields)
    return msgspec.structs.replace(made, content_hash=content_hash_of(made))


def catalog(*specs: ToolSpec, pools: tuple[PoolEntry, ...] = (POOL,)) -> Catalog:
    return Catalog(
        "sto_x", 1, 1, {"tools": {s.key: s for s in specs}, "pools": {p.name: p for p in pools}}
    )


class FakePool:
    """Answers each attempt with the next of its steps: events are emitted, errors raised."""

    name = "sql"

    def __init__(self, *attempts: list[Event | Outcome | BaseException]) -> None:
        self.attempts = list(attempts)
        self.sent: list[CallMessage] = []
        self.on_attempt: Callable[[], None] = lambda: None

    def get(self, entry: PoolEntry) -> "FakePool":
        return self

    async def call(self, message: CallMessage, emit: Callable[[Event], None]) -> Outcome:
        self.sent.append(message)
        self.on_attempt()
        for step in self.attempts[len(self.sent) - 1]:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, (Acknowledged, Progress, Partial)):
                emit(step)
            else:
                return step  # type: ignore[return-value]
        raise AssertionError("an attempt ends in an outcome or an error")


class Engine:
    """An engine over one fake pool, and what it emitted."""

    def __init__(self, catalog: Catalog, pool: FakePool, max_timeout_s: float = 3600.0) -> None:
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.observed: list[CallFacts] = []
        self._engine = RoutingEngine(
            lambda: catalog, pool, self.clock, max_timeout_s, self.observed.append
        )

    def call(self, tool: str = "sql_query", arguments: Any = None, **fields: Any) -> Routed:
        given = json.dumps({"query": "x"} if arguments is None else arguments).encode()
        fields = {"caller": EVERYBODY, "call_id": "call_1", **fields}
        call = Call(tool=tool, arguments=given, **fields)
        return asyncio.run(self._engine.call(call, self.events.append))

    def failure(self, tool: str = "sql_query", **fields: Any) -> ThornbackError:
        with pytest.raises(ThornbackError) as caught:
            self.call(tool, **fields)
        return caught.value


READ_ONLY = spec(annotations=Annotations(read_only=True))


def test_a_call_reaches_its_pool_and_its_outcome_passes_through() -> None:
    pool = FakePool([ACK, DONE])
    routed = Engine(catalog(spec()), pool).call()
    assert routed == Routed(DONE, "1.0.0", attempts=1, queue_s=0.0)
    (sent,) = pool.sent
    assert (sent.tool, sent.version, sent.arguments) == ("sql_query", "1.0.0", b'{"query": "x"}')


def test_an_unknown_tool_is_answered_with_the_nearest_one_in_sight() -> None:
    unknown = Engine(catalog(spec(), spec("text_embed")), FakePool()).failure("sql_qurey")
    assert isinstance(unknown, UnknownTool)
    assert unknown.hint == "did you mean sql_query?"


def test_a_tool_one_may_not_use_is_unknown_and_never_hinted_at() -> None:
    secret = spec("sql_admin", access=AccessPolicy(("tag:admin",)))
    stranger = Caller(Principal("default", "ann"), ("sql_*",))
    engine = Engine(catalog(secret), FakePool())
    for name in ("sql_admin", "sql_admim"):
        unknown = engine.failure(name, caller=stranger)
        assert unknown.args == (name, "")


def test_a_tool_that_a_broken_pool_lost_says_why_it_is_gone() -> None:
    broken = PoolEntry(
        name="mine",
        application="thornback.local.mine",
        modules=("m",),
        state="broken",
        failed_module="m",
        cause="ImportError: x",
        lost_tools=("plot",),
    )
    engine = Engine(catalog(pools=(broken,)), FakePool())
    assert engine.failure("plot").args == ("mine", "m", "ImportError: x")
    stranger = Caller(Principal("default", "ann"), ("sql_*",))
    assert isinstance(engine.failure("plot", caller=stranger), UnknownTool)


def test_a_lost_tool_is_not_told_to_those_whom_its_other_version_does_not_admit() -> None:
    broken = PoolEntry(
        name="mine",
        application="thornback.local.mine",
        modules=("m",),
        state="broken",
        lost_tools=("sql_admin",),
    )
    secret = spec("sql_admin", access=AccessPolicy(("tag:admin",)))
    engine = Engine(catalog(secret, pools=(broken,)), FakePool())
    assert isinstance(engine.failure("sql_admin"), UnknownTool)


def test_the_version_that_a_caller_names_is_the_one_that_runs() -> None:
    pool = FakePool([DONE])
    engine = Engine(catalog(spec(), spec(version="2.0.0")), pool)
    assert engine.call(version="1.0.0").version == "1.0.0"
    assert isinstance(engine.failure(version="3.0.0"), UnknownTool)


def test_arguments_that_do_not_fit_are_not_sent() -> None:
    pool = FakePool()
    misfit = Engine(catalog(spec()), pool).failure(arguments={"qurey": "x"})
    assert isinstance(misfit, InvalidArguments)
    assert any('did you mean "query"?' in line for line in misfit.misfits)
    assert pool.sent == []


def test_null_for_a_parameter_that_may_be_left_out_is_read_as_left_out() -> None:
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "limit": {"type": "integer"}}}
    optional = spec(input_schema=msgspec.Raw(json.dumps(schema).encode()))
    pool = FakePool([DONE])
    Engine(catalog(optional), pool).call(arguments={"query": "x", "limit": None})
    assert json.loads(pool.sent[0].arguments) == {"query": "x"}


def test_null_for_a_required_parameter_is_a_misfit() -> None:
    misfit = Engine(catalog(spec()), FakePool()).failure(arguments={"query": None})
    assert isinstance(misfit, InvalidArguments)
    assert misfit.misfits == ["query: expected string, given null"]


def test_a_schema_is_compiled_once() -> None:
    async def calls() -> None:
        call = Call(caller=EVERYBODY, tool="sql_query", arguments=b'{"query":""}', call_id="c")
        engine = RoutingEngine(lambda: catalog(spec()), FakePool([DONE], [DONE]), FakeClock())
        await asyncio.gather(*(engine.call(call, lambda event: None) for _ in range(2)))
        assert len(engine._checks._checks) == 1

    asyncio.run(calls())


def test_a_schema_that_is_none_breaks_its_tool_and_says_so() -> None:
    bad = spec(input_schema=msgspec.Raw(b'{"type": "objekt"}'))
    broken = Engine(catalog(bad), FakePool()).failure()
    assert isinstance(broken, PoolBroken)
    assert "input schema of sql_query" in broken.cause


@pytest.mark.parametrize(("tool_s", "max_s", "sent_s"), [(30.0, 3600.0, 30.0), (30.0, 10.0, 10.0)])
def test_a_call_is_sent_with_the_time_it_has(tool_s: float, max_s: float, sent_s: float) -> None:
    pool = FakePool([DONE])
    offered = catalog(spec(call=CallPolicy(timeout_s=tool_s)))
    Engine(offered, pool, max_s).call()
    assert pool.sent[0].remaining_s == sent_s


def test_a_call_is_sent_with_the_time_it_may_wait() -> None:
    pool = FakePool([DONE])
    offered = catalog(spec(call=CallPolicy(timeout_s=2.0, queue_timeout_s=45.0)))
    Engine(offered, pool).call()
    assert (pool.sent[0].remaining_s, pool.sent[0].queue_timeout_s) == (2.0, 45.0)


def test_a_call_is_sent_with_how_the_catalog_has_its_batch() -> None:
    pool = FakePool([DONE], [DONE])
    batch = Batch(max_batch_size=8)
    Engine(catalog(spec(batch=batch)), pool).call()
    Engine(catalog(spec()), pool).call()
    assert [sent.batch for sent in pool.sent] == [batch, None]


def test_a_timeout_tells_the_time_the_call_had_and_not_what_was_left() -> None:
    pool = FakePool([ToolTimeout("sql_query", 29.7)])
    assert Engine(catalog(spec()), pool).failure().args == ("sql_query", 30.0)


def test_a_repeatable_call_whose_replica_died_is_sent_again() -> None:
    pool = FakePool([ACK, LOST], [ACK, DONE])
    assert Engine(catalog(READ_ONLY), pool).call().attempts == 2


def test_each_attempt_has_a_name_of_its_own_and_one_for_the_log() -> None:
    pool = FakePool([ACK, LOST], [ACK, DONE])
    Engine(catalog(READ_ONLY), pool).call()
    first, second = pool.sent
    assert first.call_id != second.call_id
    assert first.logged_as == second.logged_as == first.call_id


def test_a_call_with_effects_is_not_sent_again() -> None:
    pool = FakePool([ACK, LOST])
    assert isinstance(Engine(catalog(spec()), pool).failure(), ReplicaLost)
    assert len(pool.sent) == 1


def test_a_call_whose_items_the_client_has_seen_is_not_sent_again() -> None:
    item = Partial(WIRE_VERSION, 0, b"1", "1")
    pool = FakePool([ACK, item, LOST])
    assert isinstance(Engine(catalog(READ_ONLY), pool).failure(), ReplicaLost)


def test_attempts_are_bounded() -> None:
    pool = FakePool([LOST], [LOST], [DONE])
    assert isinstance(Engine(catalog(READ_ONLY), pool).failure(), ReplicaLost)
    assert len(pool.sent) == 2


def test_a_full_queue_does_not_refuse_a_call_that_was_admitted_before() -> None:
    pool = FakePool([ACK, LOST], [Overloaded("sql", 1.0)])
    assert isinstance(Engine(catalog(READ_ONLY), pool).failure(), ReplicaLost)


def test_a_full_queue_refuses_a_new_call() -> None:
    pool = FakePool([Overloaded("sql", 1.0)])
    assert isinstance(Engine(catalog(spec()), pool).failure(), Overloaded)


def test_a_pool_without_replica_is_not_asked_twice() -> None:
    pool = FakePool([NoReplica("sql", "starting", 1.0)])
    assert isinstance(Engine(catalog(READ_ONLY), pool).failure(), NoReplica)
    assert len(pool.sent) == 1


def test_progress_increases_over_attempts() -> None:
    def at(progress: float) -> Progress:
        return Progress(WIRE_VERSION, progress)

    pool = FakePool([at(0.0), ACK, at(0.0), at(0.5), LOST], [ACK, at(0.25), at(0.75), DONE])
    engine = Engine(catalog(READ_ONLY), pool)
    engine.call()
    assert engine.events == [at(0.0), at(0.5), at(0.75)]


def test_queue_time_ends_when_a_host_admits_the_call() -> None:
    pool = FakePool([ACK, DONE])
    engine = Engine(catalog(spec()), pool)
    pool.on_attempt = lambda: engine.clock.advance(2.5)
    assert engine.call().queue_s == 2.5


def test_whoever_carries_a_call_can_wait_until_its_reader_has_room() -> None:
    class Reader:
        asked = 0

        def __call__(self, event: Event) -> None: ...

        async def room(self) -> None:
            self.asked += 1

    class Carrier(FakePool):
        async def call(self, message: CallMessage, emit: Any) -> Outcome:
            await emit.room()
            return DONE

    reader = Reader()
    engine = RoutingEngine(lambda: catalog(spec()), Carrier(), FakeClock())
    call = Call(tool="sql_query", arguments=b'{"query":"x"}', caller=EVERYBODY, call_id="call_1")
    asyncio.run(engine.call(call, reader))
    assert reader.asked == 1


# --- what is counted ------------------------------------------------------------------------------

OBSERVED = CallFacts("sql_query", "1.0.0", "ok", total_s=0.0, request_bytes=14)
"""Of a call that took no time."""


@pytest.mark.parametrize(
    ("ends_in", "expected"),
    [
        (DONE, OBSERVED._replace(run_s=0.0, result_bytes=2)),
        (
            Complete(WIRE_VERSION, b"{} ", False, run_s=0.5, batch_size=8),
            OBSERVED._replace(run_s=0.5, result_bytes=3, batch_size=8),
        ),
        (
            Complete(WIRE_VERSION, b"{}", True, "mine.failed"),
            OBSERVED._replace(outcome="error", error="mine.failed", run_s=0.0, result_bytes=2),
        ),
        (
            Complete(WIRE_VERSION, b"{}", True),
            OBSERVED._replace(outcome="error", error="tool.failed", run_s=0.0, result_bytes=2),
        ),
        (InputNeeded(WIRE_VERSION, b"{}"), OBSERVED._replace(outcome="input_needed")),
        (
            Raised(WIRE_VERSION, -32602, "no"),
            OBSERVED._replace(outcome="error", error="rpc.-32602"),
        ),
        (LOST, OBSERVED._replace(outcome="error", error="pool.replica_lost")),
        (asyncio.CancelledError(), OBSERVED._replace(outcome="cancelled")),
        (RuntimeError("x"), OBSERVED._replace(outcome="error", error="internal")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_call_is_counted_once_by_what_it_came_to(
    ends_in: Outcome | BaseException, expected: CallFacts
) -> None:
    engine = Engine(catalog(spec()), FakePool([ends_in]))
    with suppress(BaseException):
        engine.call()
    assert engine.observed == [expected]


def test_a_call_that_a_new_replica_had_to_be_started_for_was_cold() -> None:
    def facts(replica_age_s: float) -> CallFacts:
        pool = FakePool([Acknowledged(WIRE_VERSION, "r", 1, replica_age_s), DONE])
        engine = Engine(catalog(spec()), pool)
        pool.on_attempt = lambda: engine.clock.advance(2.0)
        engine.call()
        (observed,) = engine.observed
        assert (observed.queue_s, observed.total_s) == (2.0, 2.0)
        return observed

    assert facts(1.5).cold
    assert not facts(2.5).cold


def test_a_call_whose_arguments_do_not_fit_is_counted_and_one_of_no_tool_is_not() -> None:
    engine = Engine(catalog(spec()), FakePool())
    for tool, arguments in (("sql_query", {"query": 1}), ("nobody_offers_this", {})):
        with pytest.raises(ThornbackError):
            engine.call(tool, arguments)
    (observed,) = engine.observed
    assert (observed.outcome, observed.error) == ("error", "tool.invalid_arguments")
    assert observed.queue_s is None
