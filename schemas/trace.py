"""Where a request stands in its trace: W3C trace context, as HTTP and NATS headers carry it (`traceparent`).

A request that comes without one has its trace id from its own name, so that edge, scheduler and every worker agree on
it, whoever published the request and however often it is delivered. Whether it is traced is read off the trace id
alone, the same everywhere.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may only append.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_INVALID_VERSION = "ff"
_TRACEPARENT_CHARS = 55
"""Of version 00."""
_SAMPLED = 0x01


class TraceContext(NamedTuple):
    """A span's place: ids as hex digits, 32 and 16 of them. `span_id` may be empty: no span of the trace is known, and
    what comes next is its root."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def at(self, span_id: str) -> TraceContext:
        """Another span of the same trace."""
        return TraceContext(self.trace_id, span_id, self.is_sampled)


def parse_traceparent(text: str) -> TraceContext | None:
    """Reads a `traceparent`. None: it is none, and counts as not sent."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    is_bad_version = version == _INVALID_VERSION or (version == "00" and more is not None)
    if is_bad_version or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def traceparent(context: TraceContext) -> str:
    """The header's value; `context` names a span."""
    assert context.span_id, "a trace without a span has no traceparent"
    return f"00-{context.trace_id}-{context.span_id}-{int(context.is_sampled):02x}"


def short_traceparent(given: str) -> str:
    """What is remembered of a header: a publisher may send any number of bytes as one. Empty: it counts as not sent."""
    if len(given) <= _TRACEPARENT_CHARS:
        return given
    context = parse_traceparent(given)
    return "" if context is None else traceparent(context)


def context_of(tenant: str, rid: str, given: str, *, ratio: float) -> TraceContext:
    """The context that a request was published in: the one its header gives, else the one its name does."""
    parsed = parse_traceparent(given) if given else None
    if parsed is not None:
        return parsed
    # A rid of a client's own choice must not choose the trace of another tenant's request.
    trace_id = hashlib.sha256(f"{tenant}.{rid}".encode()).hexdigest()[:32]
    return TraceContext(trace_id, "", is_sampled(trace_id, ratio))


def queued_context(tenant: str, rid: str, given: str, *, ratio: float) -> TraceContext:
    """Where whoever takes a request out of the queue goes on. If its publisher names no span, the trace's root is one
    that all can name: it stands for the request itself, and whoever is handed it first by the broker tells of it."""
    context = context_of(tenant, rid, given, ratio=ratio)
    # Of one that is not traced nobody names a span.
    is_told = context.is_sampled and not context.span_id
    return context.at(root_span_id(tenant, rid)) if is_told else context


def root_span_id(tenant: str, rid: str) -> str:
    """The root of the trace of a request that was published without a context."""
    # The other half of what its trace id is made of.
    return hashlib.sha256(f"{tenant}.{rid}".encode()).hexdigest()[32:48]


def is_sampled(trace_id: str, ratio: float) -> bool:
    """Whether a trace is one of the share `ratio` (0 to 1) that is kept: OpenTelemetry's TraceIdRatioBased."""
    return int(trace_id[16:], 16) < ratio * (1 << 64)
