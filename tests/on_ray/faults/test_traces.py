"""One call, one trace: client, gateway, queue, tool, each in its own process."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, NamedTuple

import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.raw_http import Answer
from tests.otlp import Arrived, Collector

SENT_S = 15.0
"""Longest time until a span is here; they leave three times a second."""


class ClientSpan(NamedTuple):
    """The span of a client, which sends a request inside of it."""

    trace_id: str
    span_id: str

    @classmethod
    def new(cls) -> ClientSpan:
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    @property
    def meta(self) -> dict[str, str]:
        return {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-01",
            "tracestate": "vendor=blue",
            "baggage": "user=somebody",
        }


async def ask(hurt: HurtCluster, client: ClientSpan, tool: str, arguments: Any) -> Answer:
    target, params = hurt.front(), {"name": tool, "arguments": arguments}
    meta = {**client.meta, "progressToken": 1}
    return await target.ask(target.call("tools/call", params, meta=meta), 30)


def chain(collector: Collector, client: ClientSpan, tool: str, pool: str) -> list[Arrived]:
    """The spans of a call, each the parent of the next, once they are here."""
    names = [f"tools/call {tool}", f"queue {pool}", f"execute_tool {tool}"]
    found = collector.until(client.trace_id, set(names), SENT_S)
    return [found[name] for name in names]


def assert_whole(spans: list[Arrived], client: ClientSpan, pool: str) -> None:
    server, queue, tool = spans
    assert server.parent_id == client.span_id
    assert queue.parent_id == server.span_id
    assert tool.parent_id == queue.span_id
    assert [span.service for span in spans] == [
        "thornback-gateway",
        "thornback-gateway",
        f"thornback-{pool}",
    ]
    for span in spans:
        assert span.trace_state == "vendor=blue"
        assert "somebody" not in span.text


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("repeatable_effect", {"key": "traced"}),
        ("nap", {"seconds": 0}),
        ("ticks", {"count": 2, "every_s": 0}),
    ],
    ids=["sync", "async", "streamed"],
)
def test_one_call_is_one_trace(
    hurt: HurtCluster, collector: Collector, tool: str, arguments: Any
) -> None:
    client = ClientSpan.new()
    answer = asyncio.run(ask(hurt, client, tool, arguments))
    assert answer.status == 200
    spans = chain(collector, client, tool, "effects")
    assert_whole(spans, client, "effects")
    assert not any(span.failed for span in spans)
    assert all(headers["x-traces-key"] == hurt.traces_key for headers in collector.headers)


def test_each_call_of_a_batch_has_its_trace_and_a_link_to_what_they_shared(
    hurt: HurtCluster, collector: Collector
) -> None:
    clients = [ClientSpan.new() for _ in range(4)]

    async def calls() -> None:
        await asyncio.gather(*(ask(hurt, client, "together", {"word": "w"}) for client in clients))

    asyncio.run(calls())
    for client in clients:
        spans = chain(collector, client, "together", "batches")
        assert_whole(spans, client, "batches")
        ran = spans[-1]
        (batch,) = [one for one in collector.named("batch together") if one.span_id in ran.links]
        assert ran.span_id in batch.links
        (step,) = [one for one in collector.named("count") if one.parent_id == batch.span_id]
        assert step.trace_id == batch.trace_id


def test_an_error_is_marked_in_its_trace_and_nothing_of_it_is_told(
    hurt: HurtCluster, collector: Collector
) -> None:
    client = ClientSpan.new()
    answer = asyncio.run(ask(hurt, client, "buggy", {"secret": "hunter2"}))
    assert b'"isError":true' in answer.body
    spans = chain(collector, client, "buggy", "effects")
    assert_whole(spans, client, "effects")
    server, _, tool = spans
    assert server.failed
    assert tool.failed
    assert server.attributes["thornback.error.code"] == "tool.bug"
    assert not any("hunter2" in span.text or "Traceback" in span.text for span in spans)


def test_the_key_of_the_collector_is_in_no_log_and_in_no_output(hurt: HurtCluster) -> None:
    key = hurt.traces_key
    for words in (("status", "--json"), ("config", "show", str(hurt.config), "--origin")):
        done = hurt.thornback(*words)
        assert key not in done.stdout + done.stderr
    files = [path for path in hurt.logs.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if key.encode() in path.read_bytes()] == []
