"""The tracer of a process, made of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from infra.settings import Settings
from infra.span_queue import CLOSE_S, SpanQueue
from infra.trace_store import TraceStore
from infra.tracing import NoTracer, Span, Tracer

if TYPE_CHECKING:
    from infra.trace_export import Collector


class Sinks:
    """A tracer that sends every span to each of `queues`."""

    def __init__(self, ratio: float, queues: Sequence[SpanQueue], collector: Collector | None = None) -> None:
        self.ratio = ratio
        self._queues = queues
        self._collector = collector

    def emit(self, span: Span) -> None:
        """Returns at once."""
        for queue in self._queues:
            queue.put(span)

    def close(self) -> None:
        """Waits for at most `CLOSE_S`."""
        for queue in self._queues:
            queue.close()
        until = monotonic() + CLOSE_S
        for queue in self._queues:
            queue.join(max(0.0, until - monotonic()))
        if self._collector is not None:
            self._collector.give_up()


def open_tracer(settings: Settings, role: str, process_id: str) -> Tracer:
    """Where the spans of this process go: to the store, to a collector, or nowhere. Raises SettingsError.

    A ratio of 0 still traces what comes with a `traceparent` that says so.
    """
    queues = []
    collector = None
    spans_max = settings.span_queue_max
    if settings.trace_store_bytes_max:
        store = TraceStore(
            settings.store_dir, role, process_id, bytes_max=int(settings.trace_store_bytes_max)
        )
        queues.append(SpanQueue("store", store.write, spans_max=spans_max))
    if settings.otlp_endpoint:
        from infra.trace_export import Collector, headers_of

        headers = headers_of(settings.otlp_headers.get_secret_value())
        collector = Collector(settings.otlp_endpoint, headers, role, process_id)
        queues.append(SpanQueue("collector", collector.send, spans_max=spans_max))
    return Sinks(settings.trace_sample_ratio, queues, collector) if queues else NoTracer()
