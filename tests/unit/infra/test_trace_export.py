"""What a collector gets, over the wire; and where the spans of a process go by its settings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import clock
from infra import trace_names as names
from infra.settings import SettingsError, load_settings
from infra.trace_export import EXPORT_TIMEOUT_S, headers_of
from infra.trace_sinks import Sinks, open_tracer
from infra.trace_store import read_spans
from infra.tracing import NoTracer, SpanEvent, Tracer, unix_ns
from tests.collector import Collector, collecting
from tests.unit.infra.spans import ROOT, TRACE, span


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def tracer_of(directory: Path, **settings: object) -> Tracer:
    given = {"store_dir": directory, "trace_store_bytes_max": 0, **settings}
    return open_tracer(load_settings({name: str(value) for name, value in given.items()}), "edge", "edge-1")


def test_a_collector_gets_the_whole_span(tmp_path: Path, collector: Collector) -> None:
    tracer = tracer_of(tmp_path, otlp_endpoint=collector.endpoint, otlp_headers="x-key=a%20b, y=c")
    now = clock.now()
    linked = ROOT.at("00000000000000aa")
    tracer.emit(
        span(
            7,
            name="publish",
            kind="producer",
            start=now - 2,
            end=now,
            attributes={names.REQUEST_ID: "r1", "n": 3, "share": 0.5, "yes": True, names.LINK: ["request"]},
            events=[SpanEvent("head sent", now - 1, {"n": 1})],
            links=[linked],
            error="broker_away",
        )
    )
    tracer.emit(span(8, parent_id="", attributes={"n": 1}))
    tracer.close()
    (one, root) = collector.wait_for(2)
    assert (one.service, one.instance) == ("penstock-edge", "edge-1")
    sent: Any = one.span
    assert (sent.trace_id.hex(), sent.span_id.hex()) == (TRACE, f"{7:016x}")
    assert sent.parent_span_id.hex() == ROOT.span_id
    assert (sent.name, sent.kind) == ("publish", 4)
    assert abs(sent.end_time_unix_nano - unix_ns(now)) < 50e6
    assert abs(sent.end_time_unix_nano - sent.start_time_unix_nano - 2e9) < 1e4
    assert one.attributes == {
        names.REQUEST_ID: "r1",
        "n": 3,
        "share": 0.5,
        "yes": True,
        names.LINK: ["request"],
    }
    assert [event.name for event in sent.events] == ["head sent"]
    assert abs(sent.events[0].time_unix_nano - sent.start_time_unix_nano - 1e9) < 1e4
    assert [link.span_id.hex() for link in sent.links] == [linked.span_id]
    assert (sent.status.code, sent.status.message) == (2, "broker_away")
    assert (root.span.parent_span_id, root.span.status.code) == (b"", 0)
    assert collector.headers[0]["x-key"] == "a b"
    assert collector.headers[0]["y"] == "c"


def test_store_and_collector_get_the_same_spans(tmp_path: Path, collector: Collector) -> None:
    tracer = tracer_of(tmp_path, otlp_endpoint=collector.endpoint, trace_store_bytes_max=1 << 20)
    for number in range(1, 301):
        tracer.emit(span(number))
    tracer.close()
    sent = [one.span.name for one in collector.wait_for(300)]
    assert sent == [one.name for one in read_spans(tmp_path, [TRACE.encode()])]
    assert len(sent) == 300


def test_a_collector_that_is_away_or_hangs_costs_spans_and_no_time(
    tmp_path: Path, collector: Collector
) -> None:
    collector.wait_s = EXPORT_TIMEOUT_S + 1
    for endpoint in ("http://127.0.0.1:9/v1/traces", collector.endpoint):
        tracer = tracer_of(
            tmp_path, otlp_endpoint=endpoint, trace_store_bytes_max=1 << 20, span_queue_max=100
        )
        took_s = []
        for _ in range(5):
            begun = time.monotonic()
            for number in range(1, 1001):
                tracer.emit(span(number))
            took_s.append(time.monotonic() - begun)
        assert min(took_s) < 0.5
        begun = time.monotonic()
        tracer.close()
        assert time.monotonic() - begun < EXPORT_TIMEOUT_S / 2, "it waits for a second, not for the collector"
        assert isinstance(tracer, Sinks)


def test_where_spans_go_is_in_the_settings(tmp_path: Path) -> None:
    assert isinstance(tracer_of(tmp_path), NoTracer)
    tracer = tracer_of(tmp_path, trace_store_bytes_max=1 << 20, trace_sample_ratio=0)
    assert isinstance(tracer, Sinks), "what comes with a sampled traceparent has a place to go to"
    assert tracer.ratio == 0
    tracer.close()
    with pytest.raises(SettingsError, match="otlp_headers"):
        tracer_of(tmp_path, otlp_endpoint="http://127.0.0.1:9/", otlp_headers="secret")


@pytest.mark.parametrize(
    ("text", "headers"),
    [("", {}), ("a=b", {"a": "b"}), (" A = b=c , d=%2C,", {"a": "b=c", "d": ","})],
)
def test_headers_are_read_as_the_standard_variable_is(text: str, headers: dict[str, str]) -> None:
    assert headers_of(text) == headers


def test_a_process_without_a_collector_does_not_load_the_exporter(tmp_path: Path) -> None:
    code = (
        "import sys; from infra.settings import load_settings; from infra.trace_sinks import open_tracer\n"
        f"tracer = open_tracer(load_settings({{'store_dir': {str(tmp_path)!r}}}), 'edge', 'e'); tracer.close()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False).returncode == 0


def test_a_collector_that_starts_after_us_gets_everything(tmp_path: Path, collector: Collector) -> None:
    collector.status = 503
    tracer = tracer_of(tmp_path, otlp_endpoint=collector.endpoint)
    for number in range(1, 301):
        tracer.emit(span(number))
    # Time passes: what was tried meanwhile must not be given up.
    time.sleep(2.5)
    collector.status = 200
    collector.wait_for(300)
    tracer.close()
