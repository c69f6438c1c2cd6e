"""Spans on their way to a collector, by OTLP over HTTP; the one place that knows OpenTelemetry's SDK.

Imported only where there is a collector to send to: its libraries take 0.2 s to load.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from infra.settings import SettingsError
from infra.trace_names import SCOPE, SERVICE_INSTANCE, SERVICE_NAME, SERVICE_VERSION
from infra.tracing import Span, unix_offset_ns
from schemas.trace import TraceContext

EXPORT_TIMEOUT_S = 10.0
"""All tries of one batch, OpenTelemetry's own default: a collector that starts or is slow to warm up gets what waits
for it, as far as the queue holds it. A process that stops does not wait for this, see `CLOSE_S`."""


class Converter:
    """Makes the SDK's spans out of ours, for one process."""

    def __init__(self, role: str, process_id: str) -> None:
        # Not Resource.create: that would add what the environment says.
        self._resource = Resource(
            {
                SERVICE_NAME: f"penstock-{role}",
                SERVICE_INSTANCE: process_id,
                SERVICE_VERSION: own_version(),
            }
        )
        self._scope = InstrumentationScope(SCOPE, own_version())

    def convert(self, spans: Sequence[Span]) -> list[ReadableSpan]:
        """All of them at one reading of the clocks, so that what is between two of them stays."""
        offset_ns = unix_offset_ns()
        return [self._convert(span, offset_ns) for span in spans]

    def _convert(self, span: Span, offset_ns: int) -> ReadableSpan:
        parent = span.context.at(span.parent_id) if span.parent_id else None
        return ReadableSpan(
            name=span.name,
            context=_context(span.context),
            parent=None if parent is None else _context(parent),
            resource=self._resource,
            attributes=cast("Mapping[str, Any]", span.attributes),
            events=[
                Event(
                    event.name, cast("Mapping[str, Any]", event.attributes), offset_ns + int(event.at * 1e9)
                )
                for event in span.events
            ],
            links=[Link(_context(link)) for link in span.links],
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=offset_ns + int(span.start * 1e9),
            end_time=offset_ns + int(span.end * 1e9),
            instrumentation_scope=self._scope,
        )


class Collector:
    """Sends spans to `endpoint`."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], role: str, process_id: str) -> None:
        # It would say for every batch that a collector is away; the queue says it once in a while.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._converter = Converter(role, process_id)
        # What is left out here it would look for in the environment, which is read in one place only.
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint,
            headers=dict(headers),
            timeout=EXPORT_TIMEOUT_S,
            compression=Compression.NoCompression,
            meter_provider=NoOpMeterProvider(),
        )

    def send(self, spans: Sequence[Span]) -> int:
        """The number of spans that did not arrive: all or none."""
        result = self._exporter.export(self._converter.convert(spans))
        return 0 if result is SpanExportResult.SUCCESS else len(spans)

    def give_up(self) -> None:
        """What is being sent is not tried again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def headers_of(text: str) -> dict[str, str]:
    """Reads `name=value,name=value`; values may be percent-encoded. Raises SettingsError."""
    headers = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if not pair.strip():
            continue
        if not equals or not name.strip():
            # Not what it says: it is a secret.
            raise SettingsError("otlp_headers: expected name=value,name=value")
        headers[name.strip().lower()] = unquote(value.strip())
    return headers


def own_version() -> str:
    """Of this distribution; empty where it is not installed."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return ""


def _context(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote=False, trace_flags=flags
    )
