"""Spans that wait to leave the process, and the thread that takes them out: a collector or a disk that is slow or away
costs the event loop nothing, and the process no more than the spans that found no place.

OpenTelemetry's own queue drops the oldest span without telling how many, and its shutdown takes up to 30 s.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from infra.logs import get_logger
from infra.metrics.process import SPANS_DROPPED
from infra.tracing import Span

BATCH_SPANS_MAX = 128
"""Spans that leave together: encoding them holds the interpreter for about as long as one switch between threads takes,
5 ms, so no stream waits longer for it than that."""

FLUSH_S = 0.25
"""How long the first span of a batch waits for others."""

LOG_INTERVAL_S = 60.0
"""A collector that is away is told of once in this time."""

CLOSE_S = 1.0
"""What a process that stops waits for its last spans."""

_log = get_logger("traces")


class SpanQueue:
    """At most `spans_max` spans; `deliver` gets batches of them in a thread of this queue's own and returns how many of
    them it lost. `sink` names it in logs."""

    def __init__(self, sink: str, deliver: Callable[[Sequence[Span]], int], *, spans_max: int) -> None:
        self._sink = sink
        self._deliver = deliver
        self._spans_max = spans_max
        # One for each thread: neither has to wait for the other to count.
        self._refused = 0
        self._lost = 0
        self._shown = SPANS_DROPPED.labels(sink)
        self._waiting: deque[Span] = deque()
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._told_dropped = 0
        self._tell_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"spans to {sink}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that never arrived, since the start."""
        return self._refused + self._lost

    def put(self, span: Span) -> None:
        """Returns at once. For one thread: the event loop's."""
        if len(self._waiting) >= self._spans_max:
            self._refused += 1
            self._shown.inc()
            return
        self._waiting.append(span)
        if not self._awake.is_set():
            self._awake.set()

    def close(self) -> None:
        """Begins to send what waits, at once; `join` waits for it."""
        self._closing.set()
        self._awake.set()

    def join(self, timeout_s: float) -> bool:
        """Whether everything left in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._awake.wait()
            self._closing.wait(FLUSH_S)
            self._awake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while self._waiting:
            # Only this thread takes out, so what was there is there.
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_SPANS_MAX))]
            try:
                lost = self._deliver(batch)
            except Exception:  # noqa: BLE001  # a span nobody can encode must not end the tracing of all others
                lost = len(batch)
                _log.error("spans could not be sent", sink=self._sink, exc_info=True)
            if lost:
                self._lost += lost
                self._shown.inc(lost)
            self._tell()

    def _tell(self) -> None:
        now, dropped = time.monotonic(), self.dropped
        if dropped > self._told_dropped and now >= self._tell_at:
            self._tell_at = now + LOG_INTERVAL_S
            _log.warning("spans were dropped", sink=self._sink, spans=dropped - self._told_dropped)
            self._told_dropped = dropped
