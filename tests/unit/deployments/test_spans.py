"""Spans of calls through a gateway, an engine and a host, all in this process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.otlp import Collector, collecting
from tests.protocol.gateways import POOL, Answered, Client, Cluster
from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import ReplicaLost
from thornback.cluster.messages import (
    WIRE_VERSION,
    Acknowledged,
    CallMessage,
    Event,
    Outcome,
    Send,
    decode_replies,
    encode,
)
from thornback.deployments import spans, tracing
from thornback.deployments.spans import Spans, provider_of
from thornback.deployments.tool_host import ReplicaFacts, ToolHost
from thornback.deployments.tracing import Service, Tracing, encoded
from thornback.tools import Batch, ToolContext, ToolFailure, tool
from thornback.tools.definition import tool_of

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=blue"}
"""`_meta` of a client that traces."""
SERVICE = Service("thornback-test", "local", "replica-1", "1")
PATIENCE_S = 5.0


class HostPool:
    """A pool of one host in this process, reached by the messages that a gateway sends."""

    name = POOL.name

    def __init__(self, host: ToolHost) -> None:
        self.host = host
        self.sent: list[CallMessage] = []
        self.losses = 0
        """Attempts to come that the host dies of, once it has acknowledged them."""

    def get(self, entry: PoolEntry) -> HostPool:
        return self

    async def call(self, message: CallMessage, emit: Callable[[Event], None]) -> Outcome:
        self.sent.append(message)
        async for data in self.host.send(encode(Send(WIRE_VERSION, "g", 0, [message], alone=True))):
            replies = decode_replies(data)
            if replies.acknowledged:
                emit(Acknowledged(WIRE_VERSION, replies.host.replica_id, 1))
                if self.losses:
                    self.losses -= 1
                    raise ReplicaLost(self.name, message.tool)
            for _, reply in replies.replies:
                if isinstance(reply, Outcome):
                    return reply
                emit(reply)  # type: ignore[arg-type]
        raise AssertionError("a host answers every call")


class Traced:
    """A client of a gateway with one host, and the spans that both made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, provider: TracerProvider) -> None:
        self._monkeypatch = monkeypatch
        self._memory = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self._tracing = Tracing(Spans(provider))
        self.tracer = provider.get_tracer("an author's")
        """What a tool gets from OpenTelemetry, where the provider is the global one."""
        self.pool: HostPool

    def run(self, work: Callable[[Client], Any], *functions: Callable[..., Any]) -> Any:
        """Run `work` with a client of a gateway that offers these tools."""

        async def run() -> Any:
            client = await self._client(functions)
            async with asyncio.timeout(PATIENCE_S):
                result = await work(client)
                await client.idle()
            self.pool.host.close()
            return result

        return asyncio.run(run())

    def call(self, function: Callable[..., Any], arguments: Any = None, **options: Any) -> Answered:
        options = {"meta": CLIENTS, **options}

        async def call(client: Client) -> Answered:
            return await client.tool(tool_of(function).name, arguments, **options)

        return self.run(call, function)

    async def _client(self, functions: Sequence[Callable[..., Any]]) -> Client:
        module = ModuleType("under_test")
        module.__dict__.update({f.__name__: f for f in functions})
        module.__dict__["__all__"] = [f.__name__ for f in functions]
        self._monkeypatch.setitem(sys.modules, "under_test", module)
        tools = [tool_of(function) for function in functions]

        async def specs_of(cluster: str, pool: str) -> list[Any]:
            return [one.spec(POOL.name) for one in tools]

        self.pool = HostPool(
            ToolHost(
                "local",
                POOL.name,
                ["under_test"],
                specs_of=specs_of,
                replica=lambda: ReplicaFacts("replica-1", "node-1"),
                tracing=Tracing(self._tracing.spans),
            )
        )
        return Cluster(tools, pools=self.pool, tracing=self._tracing).gateway()

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._memory.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    return Traced(monkeypatch, provider_of(SERVICE))


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


@tool(read_only=True)
def plain() -> str:
    """Say so, from a thread."""
    with trace.get_tracer_provider().get_tracer("x").start_as_current_span("ignored"):
        return f"{trace.get_current_span().get_span_context().span_id:016x}"


@tool(read_only=True)
async def coroutine() -> str:
    """Say so, on the loop."""
    return "done"


@tool(read_only=True)
def streamed() -> Iterator[int]:
    """Say one thing after the other."""
    yield from range(3)


@tool(read_only=True)
async def streamed_on_the_loop() -> Any:
    """Say one thing after the other, on the loop."""
    for number in range(3):
        yield number


@pytest.mark.parametrize("function", [plain, coroutine, streamed, streamed_on_the_loop])
def test_a_call_is_one_trace_from_client_to_tool(
    traced: Traced, function: Callable[..., Any]
) -> None:
    name = tool_of(function).name
    assert not traced.call(function).result["isError"]
    server, queue, ran = (
        traced.one(span) for span in (f"tools/call {name}", "queue here", f"execute_tool {name}")
    )
    assert {trace_of(span) for span in traced.spans} == {TRACE_ID}
    assert parent_of(server) == SPAN_ID
    assert parent_of(queue) == id_of(server)
    assert parent_of(ran) == id_of(queue)
    assert server.kind is SpanKind.SERVER
    assert server.attributes is not None
    assert server.attributes["mcp.method.name"] == "tools/call"
    assert server.attributes["gen_ai.tool.name"] == name
    assert ran.context is not None
    assert ran.context.trace_state.get("vendor") == "blue"
    assert server.start_time == queue.start_time
    assert all(span.status.status_code is StatusCode.UNSET for span in traced.spans)


@pytest.mark.parametrize("revision", ["2025-06-18", "2025-11-25"])
def test_a_call_of_an_older_revision_is_traced_alike_and_once(
    traced: Traced, revision: str
) -> None:
    async def call(client: Client) -> Answered:
        session = await client.session(revision)
        return await session.call("tools/call", {"name": "coroutine"}, meta=CLIENTS)

    assert not traced.run(call, coroutine).result["isError"]
    assert sorted(span.name for span in traced.spans) == [
        "execute_tool coroutine",
        "queue here",
        "tools/call coroutine",
    ]
    assert parent_of(traced.one("tools/call coroutine")) == SPAN_ID


def test_what_a_tool_traces_itself_lies_inside_of_its_span(traced: Traced) -> None:
    @tool
    def threaded() -> str:
        """Trace a step, from a thread."""
        with traced.tracer.start_as_current_span("step in a thread"):
            return "done"

    @tool
    async def on_the_loop() -> str:
        """Trace a step, on the loop."""
        with traced.tracer.start_as_current_span("step on the loop"):
            return "done"

    async def call(client: Client) -> None:
        await asyncio.gather(client.tool("threaded"), client.tool("on_the_loop"))

    traced.run(call, threaded, on_the_loop)
    for tool_name, step in (("threaded", "in a thread"), ("on_the_loop", "on the loop")):
        ran = traced.one(f"execute_tool {tool_name}")
        assert parent_of(traced.one(f"step {step}")) == id_of(ran)


def client_of(number: int) -> dict[str, str]:
    """`_meta` of one of several clients, each with a trace of its own."""
    return {"traceparent": f"00-{number:032x}-{number:016x}-01"}


def test_a_batch_has_a_span_that_is_linked_with_those_of_its_calls(traced: Traced) -> None:
    @tool(read_only=True, batch=Batch(max_batch_size=3, batch_wait_timeout_s=PATIENCE_S))
    def together(word: list[str]) -> list[str]:
        """Say words."""
        with traced.tracer.start_as_current_span("step"):
            return word

    async def call(client: Client) -> None:
        await asyncio.gather(
            *(client.tool("together", {"word": "w"}, meta=client_of(n)) for n in (1, 2, 3))
        )

    traced.run(call, together)
    batch = traced.one("batch together")
    runs = [span for span in traced.spans if span.name == "execute_tool together"]
    queues = {id_of(span): trace_of(span) for span in traced.spans if span.name == "queue here"}
    assert {trace_of(span) for span in runs} == {f"{n:032x}" for n in (1, 2, 3)}
    assert {parent_of(span): trace_of(span) for span in runs} == queues
    assert {f"{link.context.span_id:016x}" for link in batch.links} == {id_of(s) for s in runs}
    assert all(f"{link.context.span_id:016x}" == id_of(batch) for s in runs for link in s.links)
    assert all(len(span.links) == 1 for span in runs)
    assert batch.attributes is not None
    assert batch.attributes["thornback.batch.size"] == 3
    assert parent_of(traced.one("step")) == id_of(batch)


def test_a_batch_is_traced_where_one_of_its_calls_is(traced: Traced) -> None:
    @tool(read_only=True, batch=Batch(max_batch_size=2, batch_wait_timeout_s=PATIENCE_S))
    def together(word: list[str]) -> list[str]:
        """Say words."""
        return word

    flags = iter(("00", "01", "00", "00"))

    async def call(client: Client) -> None:
        for _ in range(2):
            traceparents = (f"00-{TRACE_ID}-{SPAN_ID}-{next(flags)}" for _ in range(2))
            await asyncio.gather(
                *(
                    client.tool("together", {"word": "w"}, meta={"traceparent": traceparent})
                    for traceparent in traceparents
                )
            )

    traced.run(call, together)
    assert len([span for span in traced.spans if span.name == "batch together"]) == 1


def test_a_batch_that_broke_is_told_from_the_runs_of_its_calls(traced: Traced) -> None:
    @tool(read_only=True, batch=Batch(max_batch_size=2, batch_wait_timeout_s=PATIENCE_S))
    def together(word: list[str]) -> list[str]:
        """Say words, none of them alone."""
        if len(word) > 1:
            raise RuntimeError("hunter2")
        return word

    async def call(client: Client) -> None:
        await asyncio.gather(
            *(client.tool("together", {"word": "w"}, meta=client_of(n)) for n in (1, 2))
        )

    traced.run(call, together)
    batches = [span for span in traced.spans if span.name == "batch together"]
    broken, *alone = sorted(batches, key=lambda span: -len(span.links))
    assert dict(broken.attributes or {})["error.type"] == "tool.batch_failed"
    assert broken.status.status_code is StatusCode.ERROR
    assert [span.status.status_code for span in alone] == [StatusCode.UNSET] * 2
    runs = [span for span in traced.spans if span.name == "execute_tool together"]
    assert [len(span.links) for span in runs] == [2, 2]
    assert not any("hunter2" in span.to_json() for span in traced.spans)


def test_an_attempt_that_no_host_took_says_why(traced: Traced) -> None:
    async def call(client: Client) -> Answered:
        await traced.pool.host.reconfigure({"max_ongoing_requests": 0})
        return await client.tool("coroutine", meta=CLIENTS)

    assert traced.run(call, coroutine).result["isError"]
    *waits, server = [dict(span.attributes or {}) for span in traced.spans]
    assert {told["error.type"] for told in waits} == {"pool.busy"}
    assert server["error.type"] == "tool_error"
    assert str(server["thornback.error.code"]).startswith("pool.")


def test_each_attempt_waits_and_runs_in_spans_of_its_own(traced: Traced) -> None:
    async def call(client: Client) -> Answered:
        traced.pool.losses = 1
        return await client.tool("coroutine", meta=CLIENTS)

    answered = traced.run(call, coroutine)
    assert answered.result["_meta"]["io.thornback/attempts"] == 2
    queues = [span for span in traced.spans if span.name == "queue here"]
    assert [dict(span.attributes or {})["thornback.attempt"] for span in queues] == [1, 2]
    server = traced.one("tools/call coroutine")
    assert {parent_of(span) for span in queues} == {id_of(server)}
    runs = [span for span in traced.spans if span.name == "execute_tool coroutine"]
    assert parent_of(runs[-1]) == id_of(queues[1])


@tool
def failing(secret: int) -> str:
    """Fail in plain words.

    Args:
        secret: Anything.
    """
    raise ToolFailure("hunter2 does not open the door")


@tool
def buggy(secret: int) -> str:
    """Raise what was not meant.

    Args:
        secret: Anything.
    """
    raise RuntimeError("password=hunter2")


@pytest.mark.parametrize(
    ("function", "arguments", "server", "host"),
    [
        (failing, {"secret": 1}, ("tool_error", "tool.failed"), "tool.failed"),
        (buggy, {"secret": 1}, ("tool_error", "tool.bug"), "tool.bug"),
        (buggy, {"secret": "hunter2"}, ("tool_error", "tool.invalid_arguments"), None),
    ],
)
def test_an_error_is_told_by_its_class_alone(
    traced: Traced,
    function: Callable[..., Any],
    arguments: Any,
    server: tuple[str, str],
    host: str | None,
) -> None:
    traced.call(function, arguments)
    name = tool_of(function).name
    called = traced.one(f"tools/call {name}")
    assert called.status.status_code is StatusCode.ERROR
    told = dict(called.attributes or {})
    assert (told["error.type"], told["thornback.error.code"]) == server
    if host is not None:
        ran = traced.one(f"execute_tool {name}")
        assert ran.status.status_code is StatusCode.ERROR
        assert dict(ran.attributes or {})["error.type"] == host
    for span in traced.spans:
        assert not span.events
        assert "hunter2" not in span.to_json()


def test_a_question_to_the_user_is_told_and_is_no_error(traced: Traced) -> None:
    @tool
    def asking(ctx: ToolContext) -> str:
        """Ask for a colour."""
        return str(ctx.elicit("Which colour?", {"colour": str}))

    answered = traced.call(asking, capabilities={"elicitation": {"form": {}}})
    assert answered.result["resultType"] == "input_required"
    ran = traced.one("execute_tool asking")
    assert dict(ran.attributes or {})["thornback.input_needed"] is True
    assert all(span.status.status_code is StatusCode.UNSET for span in traced.spans)


def test_a_tool_that_nobody_offers_gives_no_span_its_name(traced: Traced) -> None:
    async def call(client: Client) -> Answered:
        return await client.tool("hunter2", meta=CLIENTS)

    assert traced.run(call, plain).error["code"] == -32602
    (span,) = traced.spans
    assert span.name == "tools/call"
    told = dict(span.attributes or {})
    assert told["error.type"] == told["rpc.response.status_code"] == "-32602"
    assert told["thornback.error.code"] == "tool.unknown"
    assert span.status.status_code is StatusCode.ERROR
    assert "hunter2" not in span.to_json()


def test_a_client_that_leaves_ends_every_span_of_its_call(traced: Traced) -> None:
    @tool
    async def forever() -> None:
        """Never end."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().call_soon(ended.set)

    began, ended = asyncio.Event(), asyncio.Event()

    async def leave(client: Client) -> None:
        exchange = client.begin_call("tools/call", {"name": "forever"}, meta=CLIENTS)
        await began.wait()
        exchange.disconnect()
        await exchange.end()
        await ended.wait()

    traced.run(leave, forever)
    for name in ("tools/call forever", "execute_tool forever"):
        assert dict(traced.one(name).attributes or {})["thornback.cancelled"] is True


@pytest.mark.parametrize("baggage", ["user=ann", "x" * 5000])
def test_baggage_of_a_client_goes_no_further(traced: Traced, baggage: str) -> None:
    traced.call(coroutine, meta={**CLIENTS, "baggage": baggage})
    (sent,) = traced.pool.sent
    assert baggage.encode() not in encode(sent)
    assert all(baggage not in span.to_json() for span in traced.spans)


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{SPAN_ID}-01", "x" * 9000])
def test_a_trace_that_is_none_begins_anew(traced: Traced, traceparent: str) -> None:
    assert not traced.call(coroutine, meta={"traceparent": traceparent}).result["isError"]
    server = traced.one("tools/call coroutine")
    assert server.parent is None
    assert {trace_of(span) for span in traced.spans} == {trace_of(server)}


def test_a_tracestate_that_is_too_long_is_left_out(traced: Traced) -> None:
    traced.call(coroutine, meta={**CLIENTS, "tracestate": "vendor=" + "b" * 600})
    assert traced.pool.sent[0].tracestate is None


def test_a_client_that_does_not_record_is_not_recorded_here(traced: Traced) -> None:
    traced.call(coroutine, meta={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"})
    assert not traced.spans
    (sent,) = traced.pool.sent
    assert sent.traceparent is not None
    assert sent.traceparent.startswith(f"00-{TRACE_ID}-")
    assert sent.traceparent.endswith("-00")


def test_the_share_of_recorded_traces_is_of_those_that_begin_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    for meta, recorded in (({}, 0), (CLIENTS, 3)):
        traced = Traced(monkeypatch, provider_of(SERVICE))
        traced.call(coroutine, meta=meta)
        assert len(traced.spans) == recorded


def test_a_call_that_is_not_traced_takes_nothing_of_its_client_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = Traced(monkeypatch, provider_of(SERVICE))
    traced._tracing.spans = None
    assert not traced.call(coroutine).result["isError"]
    assert not traced.spans
    assert traced.pool.sent[0].traceparent is None


def test_a_host_without_traces_imports_nothing_of_opentelemetry() -> None:
    found = "[name for name in sys.modules if name.startswith('opentelemetry')]"
    program = f"import sys, thornback.deployments.tool_host; print({found})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


# --- on their way out -----------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def environment_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `Tracing.begin` puts there is gone afterwards."""
    for name in ("ENDPOINT", "HEADERS", "TIMEOUT"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "")


def begun(variables: dict[str, str]) -> Tracing:
    tracing = Tracing()
    told = {f"OTEL_EXPORTER_OTLP_TRACES_{name}": text for name, text in variables.items()}
    asyncio.run(tracing.begin({"traces": encoded(told)}, SERVICE))
    return tracing


def an_empty_span(tracing: Tracing) -> None:
    assert tracing.spans is not None
    call = CallMessage(WIRE_VERSION, "c", "t", "1", b"{}", 1.0, None, traceparent=TRACEPARENT)  # type: ignore[arg-type]
    with tracing.spans.tool(call, "pool"):
        pass


TRACEPARENT = CLIENTS["traceparent"]


@pytest.mark.usefixtures("environment_restored")
def test_what_is_on_its_way_leaves_before_a_process_ends(collector: Collector) -> None:
    tracing = begun({"ENDPOINT": collector.url, "HEADERS": "x-key=a%20secret"})
    an_empty_span(tracing)
    tracing.close()
    (arrived,) = collector.named("execute_tool t")
    assert (arrived.trace_id, arrived.parent_id) == (TRACE_ID, SPAN_ID)
    assert arrived.service == "thornback-test"
    assert collector.headers[0]["x-key"] == "a secret"


ENDING = """
import asyncio, sys
from opentelemetry import trace
from thornback.deployments.tracing import Service, Tracing, encoded

told = {"traces": encoded({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": sys.argv[1]})}
service = Service("thornback-test", "local", "replica-1", "1")
asyncio.run(Tracing().begin(told, service, for_tools=True))
with trace.get_tracer("a tool's").start_as_current_span("last step"):
    pass
sys.exit(0)  # as Ray's workers do when they are asked to end
"""


def test_a_process_that_is_asked_to_end_sends_what_its_tools_traced(collector: Collector) -> None:
    subprocess.run([sys.executable, "-c", ENDING, collector.url], timeout=60, check=True)
    assert [span.service for span in collector.named("last step")] == ["thornback-test"]


@pytest.mark.usefixtures("environment_restored")
def test_a_host_learns_from_serve_where_traces_go_and_sends_them_before_it_ends(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "set_global", lambda _: None)
    traced = Traced(monkeypatch, provider_of(SERVICE))
    traced._tracing.spans = None
    told = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url}

    async def call(client: Client) -> None:
        config = {"max_ongoing_requests": 1, "traces": encoded(told)}
        await traced.pool.host.reconfigure(config)
        await client.tool("coroutine", meta=CLIENTS)

    traced.run(call, coroutine)
    (arrived,) = collector.named("execute_tool coroutine")
    assert arrived.service == "thornback-here"


@pytest.mark.usefixtures("environment_restored")
def test_a_collector_that_hangs_holds_up_no_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.05)
    held = threading.Event()
    monkeypatch.setattr(collector, "take", lambda *_: held.wait(PATIENCE_S))
    running = begun({"ENDPOINT": collector.url})
    an_empty_span(running)
    began_s = time.monotonic()
    running.close()
    assert time.monotonic() - began_s < PATIENCE_S / 2
    held.set()


@pytest.mark.usefixtures("environment_restored")
def test_a_collector_that_is_not_there_costs_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.2)
    running = begun(
        {"ENDPOINT": "http://127.0.0.1:1/v1/traces", "HEADERS": "x-key=hunter2", "TIMEOUT": "0.1"}
    )
    provider = running.spans._provider  # type: ignore[union-attr]
    for _ in range(3):
        an_empty_span(running)
        provider.force_flush()
    running.close()
    (line,) = [record for record in caplog.records if "span" in record.getMessage()]
    assert line.name == "thornback.deployments.spans"
    assert line.getMessage().startswith("traces are not sent: ")
    assert "hunter2" not in caplog.text


@pytest.mark.usefixtures("environment_restored")
def test_what_keeps_traces_from_leaving_keeps_no_replica_from_running(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Service) -> None:
        raise ValueError("no such header: hunter2")

    monkeypatch.setattr(spans, "exporting", refuse)
    assert begun({"ENDPOINT": "http://127.0.0.1:1/v1/traces"}).spans is None
    assert "calls are not traced: ValueError" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_operators_names_of_a_service_go_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tools")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
    found = spans.provider_of(SERVICE).resource.attributes
    assert found["service.name"] == "tools"
    assert found["deployment.environment.name"] == "lab"
    assert found["service.instance.id"] == "replica-1"
