"""`/metrics` as JSON. Pure."""

from __future__ import annotations

import msgspec

from edge.recent import Recent, Spread


class Milliseconds(msgspec.Struct):
    """Of the latest answers."""

    avg: float
    p50: float
    p95: float
    p99: float


class Numbers(msgspec.Struct):
    """`/metrics` as JSON: this edge's counts since its start, and what its latest answers took. `queue_depth` is the
    whole system's."""

    request_count: int
    active_requests: int
    queue_depth: int
    total_tokens_generated: int
    error_count: int
    ttft_ms: Milliseconds
    total_time_ms: Milliseconds
    tokens_per_second: float


def numbers_of(recent: Recent, queue_depth: int) -> Numbers:
    """The counts and percentiles of `recent`."""
    return Numbers(
        request_count=recent.requests,
        active_requests=recent.open,
        queue_depth=queue_depth,
        total_tokens_generated=recent.tokens,
        error_count=recent.errors,
        ttft_ms=_milliseconds(recent.first_token_s()),
        total_time_ms=_milliseconds(recent.total_s()),
        tokens_per_second=round(recent.tokens_per_second(), 3),
    )


def _milliseconds(spread: Spread) -> Milliseconds:
    return Milliseconds(*[round(seconds * 1e3, 3) for seconds in spread])
