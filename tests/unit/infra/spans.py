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


class Kept:
    """A tracer that keeps what it gets."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.ratio = ratio
        self.spans: list[Span] = []

    def emit(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None: ...

    def all(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (found,) = self.all(name)
        return found
