"""Spans on their way out of a process: to the store of this machine and to a collector, never in anybody's way.

A span is built when it is over, from times that were taken anyway: there is no current span, nothing to carry from
call to call, and a request that is not sampled costs one comparison. What a killed process did not get to say, the next
one says for it, from the request's log (`Lease.trace`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from infra import clock
from schemas.trace import TraceContext

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool | Sequence[str]

CLOCK_READINGS = 3


class SpanEvent(msgspec.Struct, frozen=True):
    """Something that happened within a span, at `at` (seconds of `infra.clock`)."""

    name: str
    at: float
    attributes: Mapping[str, Value] = {}


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A finished span. `context` is its own; `parent_id` is empty for the root of a trace. Times are seconds of
    `infra.clock`. `error` describes what went wrong; empty: nothing."""

    name: str
    context: TraceContext
    parent_id: str
    start: float
    end: float
    kind: Kind = "internal"
    attributes: Mapping[str, Value] = {}
    events: Sequence[SpanEvent] = ()
    links: Sequence[TraceContext] = ()
    error: str = ""


class Tracer(Protocol):
    """Takes spans. `ratio` is the share of requests without a context of their own that are sampled."""

    ratio: float

    def emit(self, span: Span) -> None:
        """Sends a span of a sampled trace on its way; returns at once, and drops it if too many wait."""

    def close(self) -> None:
        """Sends what waits, for a bounded time."""


class NoTracer:
    """Of a process that traces nothing."""

    ratio = 0.0

    def emit(self, span: Span) -> None:
        """Drops it."""

    def close(self) -> None:
        """Nothing waits."""


def new_span_id() -> str:
    """16 hex digits that no other span of the trace has."""
    # Never zero: that is no id.
    return f"{random.getrandbits(64) or 1:016x}"


def new_trace_id() -> str:
    """32 hex digits that no other trace has."""
    return f"{random.getrandbits(128) or 1:032x}"


def unix_ns(at: float) -> int:
    """A time of `infra.clock` as nanoseconds since 1970."""
    return unix_offset_ns() + int(at * 1e9)


def clock_time(unix_s: float) -> float:
    """A time in seconds since 1970 as one of `infra.clock`."""
    return unix_s - unix_offset_ns() / 1e9


def unix_offset_ns() -> int:
    """What makes a time of `infra.clock`, in nanoseconds, one since 1970, as the clocks stand now.

    Both clocks are read, and a thread may lose its turn in between: the closest of a few readings holds.
    """
    readings = []
    for _ in range(CLOCK_READINGS):
        before = clock.now()
        unix = time.time_ns()
        after = clock.now()
        readings.append((after - before, unix - int((before + after) / 2 * 1e9)))
    return min(readings)[1]
