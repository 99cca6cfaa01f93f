"""A collector of traces: takes OTLP over HTTP on loopback, and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Arrived:
    """A span as it was received, in the words of the tests."""

    def __init__(self, span: Any, service: str) -> None:
        self.name: str = span.name
        self.service = service
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.links = {link.span_id.hex() for link in span.links}
        self.trace_state: str = span.trace_state
        self.failed: bool = span.status.code == span.status.STATUS_CODE_ERROR
        self.attributes = {pair.key: _plain(pair.value) for pair in span.attributes}
        self.text = str(span)
        """All that is in it."""


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


class Collector:
    """What was received so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers: list[dict[str, str]] = []
        self._spans: list[Arrived] = []
        self._came = threading.Condition()

    def take(self, headers: dict[str, str], body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.headers.append(headers)
            for resource in request.resource_spans:
                facts = {pair.key: _plain(pair.value) for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [Arrived(span, facts["service.name"]) for span in scope.spans]
            self._came.notify_all()

    def of(self, trace_id: str) -> dict[str, Arrived]:
        """The spans of a trace by their names."""
        return {span.name: span for span in self._spans if span.trace_id == trace_id}

    def until(self, trace_id: str, names: set[str], timeout_s: float) -> dict[str, Arrived]:
        """The spans of a trace once there is one of each name."""
        deadline = time.monotonic() + timeout_s
        with self._came:
            while not names <= self.of(trace_id).keys():
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"of {names} came {sorted(self.of(trace_id))}"
                self._came.wait(left_s)
            return self.of(trace_id)

    def named(self, name: str) -> list[Arrived]:
        """The spans of a name, of any trace."""
        with self._came:
            return [span for span in self._spans if span.name == name]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take({k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
