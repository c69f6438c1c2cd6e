"""Spans for tests."""

from __future__ import annotations

from typing import Any

from infra import clock
from infra.tracing import Span
from schemas.trace import TraceContext

TRACE = "0af7651916cd43dd8448eb211c80319c"
ROOT = TraceContext(TRACE, "b7ad6b7169203331", True)


def span(number: int = 1, **fields: Any) -> Span:
    """A span of a second that has just ended, below `ROOT`."""
    now = clock.now()
    given: dict[str, Any] = {
        "name": f"span {number}",
        "context": ROOT.at(f"{number:016x}"),
        "parent_id": ROOT.span_id,
        "start": now - 1,
        "end": now,
    }
    return Span(**{**given, **fields})
