"""The spans of a call: one trace from its client through gateway and queue to its tool.

    the client's span               `_meta.traceparent`
    └ tools/call NAME               SERVER: the call in its gateway
      └ queue POOL                  one attempt, until a host admitted it
        └ execute_tool NAME         the tool in its host; current inside of the tool

One invocation of a batch tool works for many calls, which have traces of their own: `batch NAME` is
a trace beside them, current inside of the tool, and linked with each call's `execute_tool` both
ways. Names and attributes are OpenTelemetry's for MCP and generative AI where there is one, else
`thornback.*`. No argument, result, principal or text of an error is in any. Baggage is not passed
on: it comes from outside, and tools would send it along to wherever they call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from thornback.cluster.errors import BatchFailed, ThornbackError, ToolFailure
from thornback.cluster.messages import CallMessage, Complete, InputNeeded, Outcome, Raised
from thornback.cluster.protocol import rpc_error
from thornback.deployments.tracing import Service
from thornback.tools.batching import BatchBroken

if TYPE_CHECKING:  # a host has neither
    from thornback.deployments.exchange import Exchange
    from thornback.deployments.sdk import Handler

MAX_TRACESTATE_CHARS = 512
"""What W3C asks to be passed on at least; longer ones are left out."""
COMPLAINTS_S = 60.0
"""Least time between two lines about traces that could not be sent."""

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_w3c = TraceContextTextMapPropagator()


class Spans:
    """Makes the spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("thornback")

    def close(self) -> None:
        """Send what there is; waits for as long as the exporter does."""
        self._provider.shutdown()

    # --- in a gateway -----------------------------------------------------------------------------

    async def serve(self, exchange: Exchange, handler: Handler) -> dict[str, Any]:
        """Answer a `tools/call` inside of its span."""
        began_ns = time.time_ns()
        span = self._tracer.start_span(
            _name(exchange),
            context=_extracted(exchange.meta.get("traceparent"), exchange.meta.get("tracestate")),
            kind=SpanKind.SERVER,
            attributes=_attributes(exchange),
            start_time=began_ns,
        )
        exchange.span = CallSpan(self._tracer, span, began_ns)
        with _Ended(span) as ended:
            try:
                result = await handler(exchange)
            except ThornbackError as error:
                # MCP conventions: the number where JSON-RPC has an error.
                number = str(rpc_error(error).number)
                span.set_attribute("rpc.response.status_code", number)
                ended.fail(number, error.code)
                raise
            if exchange.error:
                ended.fail("tool_error", exchange.error)
        return result

    # --- in a host --------------------------------------------------------------------------------

    def tool(self, call: CallMessage, pool: str) -> ToolSpan:
        """The span of a tool that runs for one call."""
        context = _extracted(call.traceparent, call.tracestate)
        attempt = trace.get_current_span(context)
        at = attempt.get_span_context()
        if at.is_valid and not at.trace_flags.sampled:
            return ToolSpan(attempt)  # what the tool makes inside is not recorded either
        span = self._tracer.start_span(
            f"execute_tool {call.tool}",
            context=context,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": call.tool,
                "gen_ai.tool.type": "function",
                "thornback.tool.version": call.version,
                "thornback.pool": pool,
                "thornback.request.id": call.logged_as,
            },
        )
        return ToolSpan(span)

    def current(self) -> trace.Span:
        """The span that the code which asks runs in."""
        return trace.get_current_span()

    async def batch(
        self, tool: str, calls: Sequence[trace.Span], work: Callable[[], Awaitable[_T]]
    ) -> _T:
        """Run one invocation of a batch tool inside of its span.

        Args:
            calls: The spans of the calls that it is for, as `current` had them in each.
        """
        span = self._tracer.start_span(
            f"batch {tool}",
            context=Context(),
            links=[Link(call.get_span_context()) for call in calls],
            attributes={"gen_ai.tool.name": tool, "thornback.batch.size": len(calls)},
        )
        for call in calls:
            call.add_link(span.get_span_context())
        with ToolSpan(span):
            return await work()


class _Ended:
    """Ends a span, and says how it ended where that was by an exception."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._has_failed = False

    def fail(self, error_type: str, code: str | None = None) -> None:
        """Mark the span as that of a failure; the first word on it stays.

        Args:
            error_type: A class of errors, of which there are few.
            code: Ours, where that is another.
        """
        if self._has_failed:
            return
        self._has_failed = True
        self._span.set_attribute("error.type", error_type)
        if code is not None:
            self._span.set_attribute("thornback.error.code", code)
        self._span.set_status(StatusCode.ERROR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Neither its text nor its traceback: both may hold what an agent sent.
        match error:
            case None:
                pass
            case asyncio.CancelledError() | GeneratorExit():
                self._span.set_attribute("thornback.cancelled", True)
            case ThornbackError():
                self.fail(error.code)
            case BatchBroken():
                self.fail(BatchFailed.code)
            case _:
                self.fail("internal")
        self._span.end()


class CallSpan:
    """The span of a call in its gateway, for the attempts to send it."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span, began_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._began_ns: int | None = began_ns

    def attempt(self, pool: str, number: int) -> AttemptSpan:
        """An attempt that begins now; the first began when the call came."""
        began_ns, self._began_ns = self._began_ns, None
        if not self._span.is_recording():
            return AttemptSpan(self._span)
        span = self._tracer.start_span(
            f"queue {pool}",
            context=trace.set_span_in_context(self._span, Context()),
            attributes={"thornback.pool": pool, "thornback.attempt": number},
            start_time=began_ns,
        )
        return AttemptSpan(span)


class AttemptSpan(_Ended):
    """The wait of one attempt for a host."""

    def __init__(self, span: trace.Span) -> None:
        super().__init__(span)
        at = span.get_span_context()
        # As the propagator writes it, in a fifth of its time.
        self.traceparent = f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"
        self.tracestate = at.trace_state.to_header() if at.trace_state else None
        self._is_over = False

    def admitted(self, replica_id: str, *, cold: bool) -> None:
        """A host took the call: the wait is over, whatever becomes of the call."""
        if not self._is_over:
            self._is_over = True
            self._span.set_attributes(
                {"thornback.replica.id": replica_id, "thornback.cold_start": cold}
            )
            self._span.end()

    def refused(self, code: str) -> None:
        """A host did not take it."""
        if not self._is_over:
            self.fail(code)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_over:
            self._is_over = True
            super().__exit__(kind, error, traceback)


class ToolSpan(_Ended):
    """A span that is current inside of its `with`, and in threads that are begun there."""

    _token: Token[Context]

    def __enter__(self) -> Self:
        self._token = contexts.attach(trace.set_span_in_context(self._span, Context()))
        return self

    def came_to(self, outcome: Outcome) -> None:
        """Say how the tool's run ended."""
        match outcome:
            case Complete():
                if outcome.batch_size:
                    self._span.set_attribute("thornback.batch.size", outcome.batch_size)
                if outcome.is_error:
                    self.fail(outcome.error_code or ToolFailure.code)
            case InputNeeded():
                self._span.set_attribute("thornback.input_needed", True)
            case Raised():
                self.fail(str(outcome.rpc_code))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        contexts.detach(self._token)
        super().__exit__(kind, error, traceback)


def _extracted(traceparent: Any, tracestate: Any) -> Context:
    """The context that a trace comes from; an empty one where nothing sound is said of it."""
    if not isinstance(traceparent, str):
        return Context()
    carrier = {"traceparent": traceparent}
    if isinstance(tracestate, str) and len(tracestate) <= MAX_TRACESTATE_CHARS:
        carrier["tracestate"] = tracestate
    return _w3c.extract(carrier, Context())


def _name(exchange: Exchange) -> str:
    # A name that nobody offers is anything, and names of spans must be few.
    name = exchange.request.params["name"]
    return f"tools/call {name}" if name in exchange.catalog.tools else "tools/call"


def _attributes(exchange: Exchange) -> dict[str, str]:
    request = exchange.request
    attributes = {
        "mcp.method.name": request.method,
        "mcp.protocol.version": exchange.revision.name,
        "jsonrpc.request.id": str(request.id)[:64],
        "gen_ai.operation.name": "execute_tool",
        "thornback.request.id": exchange.request_id,
    }
    name = request.params["name"]
    if name in exchange.catalog.tools:
        attributes["gen_ai.tool.name"] = name
    return attributes


# --- where spans go -------------------------------------------------------------------------------


class AsItsCalls(Sampler):
    """Samples what has links and no parent, a batch, where one of the linked is sampled."""

    def __init__(self, others: Sampler) -> None:
        self._others = others

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        sampler = self._others
        if links and not trace.get_current_span(parent_context).get_span_context().is_valid:
            is_sampled = any(link.context.trace_flags.sampled for link in links)
            sampler = ALWAYS_ON if is_sampled else ALWAYS_OFF
        return sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return f"AsItsCalls{{{self._others.get_description()}}}"


class _NowAndThen(logging.Filter):
    """Says in our log what an exporter complains of, once a minute."""

    _last_s = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created - self._last_s >= COMPLAINTS_S:
            self._last_s = record.created
            logger.warning("traces are not sent: %s", record.getMessage())
        return False


def provider_of(service: Service) -> TracerProvider:
    """A provider that samples as the environment says, and sends nothing anywhere yet."""
    ours: Mapping[str, str] = {
        "service.name": service.name,
        "service.namespace": service.cluster,
        "service.instance.id": service.instance,
        "service.version": service.version,
    }
    # What the operator says in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES goes before.
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = AsItsCalls(provider.sampler)
    return provider


def exporting(service: Service) -> TracerProvider:
    """A provider whose spans go where the environment says, from a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http import trace_exporter

    # It has a line for each try, and tries again every few seconds.
    logging.getLogger(trace_exporter.__name__).addFilter(_NowAndThen())
    provider = provider_of(service)
    provider.add_span_processor(BatchSpanProcessor(trace_exporter.OTLPSpanExporter()))
    return provider


def set_global(provider: TracerProvider) -> None:
    """Let spans that tools make go the same way, unless their modules have set another."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)
