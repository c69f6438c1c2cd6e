"""A sink that is slow, away or broken costs the process nothing but spans, and it knows how many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry

from infra.metrics.process import register
from infra.span_queue import BATCH_SPANS_MAX, SpanQueue
from infra.tracing import Span
from tests.unit.infra.spans import span

WITHIN_S = 10.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def delivered(sink: Sink, spans: int) -> bool:
    return sum(map(len, sink.batches)) == spans


class Sink:
    """Takes spans while `open` is set."""

    def __init__(self) -> None:
        self.batches: list[list[Span]] = []
        self.open = threading.Event()
        self.busy = threading.Event()

    def deliver(self, spans: Sequence[Span]) -> int:
        self.busy.set()
        assert self.open.wait(WITHIN_S)
        self.batches.append(list(spans))
        return 0


def test_spans_arrive_in_order_and_in_bounded_batches() -> None:
    sink = Sink()
    sink.open.set()
    queue = SpanQueue("test", sink.deliver, spans_max=1000)
    spans = [span(number) for number in range(1, 301)]
    for one in spans:
        queue.put(one)
    queue.close()
    assert queue.join(WITHIN_S)
    assert [one for batch in sink.batches for one in batch] == spans
    assert max(map(len, sink.batches)) <= BATCH_SPANS_MAX
    assert queue.dropped == 0


def test_a_span_is_sent_soon_without_a_close() -> None:
    sink = Sink()
    sink.open.set()
    queue = SpanQueue("test", sink.deliver, spans_max=10)
    for number in (1, 2):
        queue.put(span(number))
        until(partial(delivered, sink, number))
    queue.close()
    assert queue.join(WITHIN_S)


def test_what_finds_no_place_is_dropped_and_counted() -> None:
    sink = Sink()
    queue = SpanQueue("test", sink.deliver, spans_max=3)
    queue.put(span(1))
    assert sink.busy.wait(WITHIN_S), "the first one is on its way"
    begun = time.monotonic()
    for number in range(2, 1002):
        queue.put(span(number))
    assert time.monotonic() - begun < WITHIN_S / 2, "nobody waits for a sink"
    assert queue.dropped == 997
    sink.open.set()
    queue.close()
    assert queue.join(WITHIN_S)
    assert [one.name for batch in sink.batches for one in batch] == ["span 1", "span 2", "span 3", "span 4"]


def test_what_a_sink_loses_or_raises_at_is_counted_and_the_next_batch_goes_on() -> None:
    said: list[str] = []

    def deliver(spans: Sequence[Span]) -> int:
        said.extend(one.name for one in spans)
        if spans[0].name == "span 1":
            raise ValueError("no such value")
        return 1

    queue = SpanQueue("test", deliver, spans_max=10)
    queue.put(span(1))
    until(lambda: queue.dropped == 1)
    queue.put(span(2))
    queue.put(span(3))
    queue.close()
    assert queue.join(WITHIN_S)
    assert said == ["span 1", "span 2", "span 3"]
    assert queue.dropped in (2, 3), "one batch or two"


def test_a_sink_that_hangs_does_not_keep_the_process() -> None:
    sink = Sink()
    queue = SpanQueue("test", sink.deliver, spans_max=3)
    queue.put(span(1))
    queue.close()
    assert not queue.join(0.05)
    sink.open.set()
    assert queue.join(WITHIN_S)


def test_what_was_dropped_stands_on_every_processs_page() -> None:
    registry = CollectorRegistry()
    register(registry, "edge", lambda: True)
    sink = Sink()

    def shown() -> float | None:
        return registry.get_sample_value("penstock_spans_dropped_total", {"sink": "shown"})

    def deliver(spans: Sequence[Span]) -> int:
        sink.deliver(spans)
        return len(spans)

    queue = SpanQueue("shown", deliver, spans_max=1)
    assert shown() == 0, "a rate needs a beginning"
    queue.put(span(1))
    assert sink.busy.wait(WITHIN_S)
    queue.put(span(2))
    queue.put(span(3))
    assert shown() == 1
    sink.open.set()
    queue.close()
    assert queue.join(WITHIN_S)
    assert shown() == queue.dropped == 3
