"""A collector that takes spans by OTLP over HTTP and keeps them: what any other one would have been sent."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Received(NamedTuple):
    """A span as it came over the wire."""

    service: str
    instance: str
    span: Any
    attributes: dict[str, Any]


class Collector:
    """`status` is what it answers, after `wait_s`."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.wait_s = 0.0
        self.endpoint = ""

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """One request of an exporter."""
        self.headers.append(headers)
        request = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [
                    Received(
                        resource["service.name"],
                        resource["service.instance.id"],
                        span,
                        _values(span.attributes),
                    )
                    for span in of_scope.spans
                ]

    def wait_for(self, count: int, within_s: float = 30.0) -> list[Received]:
        """The spans, once there are so many."""
        deadline = time.monotonic() + within_s
        while len(self.spans) < count:
            assert time.monotonic() < deadline, f"{len(self.spans)} spans of {count} came"
            time.sleep(0.01)
        return self.spans


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            time.sleep(collector.wait_s)
            if collector.status == 200:
                collector.take({name.lower(): value for name, value in self.headers.items()}, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            with contextlib.suppress(ConnectionError):  # who asked may not have waited
                self.send_response(collector.status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _values(attributes: Any) -> dict[str, Any]:
    values = {}
    for attribute in attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind)
        values[attribute.key] = (
            [each.string_value for each in value.values] if kind == "array_value" else value
        )
    return values
