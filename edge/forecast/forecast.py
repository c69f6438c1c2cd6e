"""The lines of all models. Pure; `now` is monotonic seconds."""

from __future__ import annotations

from collections import deque
from math import inf

from edge.forecast.line import Line
from edge.registry import LEADER_SILENT_S, MODELS_MAX
from schemas.dispatch import Leader

LOOKED_S = 0.5
"""The leader's count of the queue is up to this much older than its heartbeat."""

PUBLISHED_MAX = 8192


class Forecast:
    """What the leader's heartbeats say of the queue, and what this edge has added since."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._term = 0
        self._heard_at = -inf
        self._depth = 0
        self._published: deque[float] = deque(maxlen=PUBLISHED_MAX)

    def heard(self, leader: Leader, now: float) -> None:
        """Takes in a heartbeat, unless a newer leader has spoken meanwhile."""
        if leader.term < self._term and now - self._heard_at <= LEADER_SILENT_S:
            return
        self._term, self._heard_at, self._depth = leader.term, now, leader.queue_depth
        while self._published and self._published[0] <= now - LOOKED_S:
            self._published.popleft()
        for state in leader.models[:MODELS_MAX]:
            self.line(state.card.key).heard(state, leader.term, now)

    def line(self, key: str) -> Line:
        """A model's line; one that nobody told of is empty."""
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= MODELS_MAX:
                del self._lines[min(self._lines, key=lambda key: self._lines[key].heard_at)]
            line = self._lines[key] = Line()
        return line

    def published(self, now: float) -> None:
        """A request was published here."""
        self._published.append(now)

    def withdrawn(self, at: float) -> None:
        """What was published at `at` was not stored."""
        if at in self._published:
            self._published.remove(at)

    def depth(self, edges: int) -> int:
        """Requests in the queue and running, where `edges` edges publish as many as this one does."""
        return self._depth + edges * len(self._published)

    def rate(self, now: float) -> float | None:
        """Requests per second that leave the queue while it is full: those of all models that requests wait for."""
        rates = [
            rate
            for line in self._lines.values()
            if any(line.waiting.values()) and (rate := line.rate(None, now)) is not None
        ]
        return sum(rates) if rates else None

    def spare(self) -> int:
        """Requests that wait and run nowhere: by so many the queue may be shorter without a free slot."""
        return sum(sum(line.waiting.values()) for line in self._lines.values())
