"""What the latest answers of this edge took, for who wants percentiles without a time-series database. Pure.

Bounded: a window of answers, and counters. Times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

WINDOW = 4096
"""Answers that percentiles are taken over: the 99th is then the 41st longest, and sorting them takes a millisecond."""


class Spread(NamedTuple):
    """The average and percentiles of what was measured; all 0 where nothing was."""

    avg: float
    p50: float
    p95: float
    p99: float


class Took(NamedTuple):
    """One answer: when it ended, its tokens, and seconds from its arrival to its first token and to its end."""

    ended_at: float
    tokens: int
    first_token_s: float | None
    total_s: float


class Recent:
    """Answers that are open, counts of all since the start, and the latest ones."""

    def __init__(self, window: int = WINDOW) -> None:
        self.requests = 0
        self.errors = 0
        self.tokens = 0
        self.open = 0
        self._latest: deque[Took] = deque(maxlen=window)

    def began(self) -> None:
        """An answer opens."""
        self.open += 1

    def ended(self, took: Took, *, failed: bool) -> None:
        """An answer that was opened is over."""
        self.open -= 1
        self.requests += 1
        self.errors += failed
        self.tokens += took.tokens
        self._latest.append(took)

    def refused(self) -> None:
        """A request was turned away before it had an answer."""
        self.requests += 1
        self.errors += 1

    def first_token_s(self) -> Spread:
        """Seconds to the first token, of answers where that is known."""
        return spread_of([took.first_token_s for took in self._latest if took.first_token_s is not None])

    def total_s(self) -> Spread:
        """Seconds to the end."""
        return spread_of([took.total_s for took in self._latest])

    def tokens_per_second(self) -> float:
        """Tokens of the latest answers, over the time from the first arrival of them to the last end."""
        if not self._latest:
            return 0.0
        begin = min([took.ended_at - took.total_s for took in self._latest])
        seconds = max([took.ended_at for took in self._latest]) - begin
        return sum([took.tokens for took in self._latest]) / seconds if seconds else 0.0


def spread_of(values: Sequence[float]) -> Spread:
    """By nearest rank: each percentile is one of the values."""
    if not values:
        return Spread(0.0, 0.0, 0.0, 0.0)
    ordered = sorted(values)
    p50, p95, p99 = (ordered[ceil(len(ordered) * share) - 1] for share in (0.50, 0.95, 0.99))
    return Spread(sum(ordered) / len(ordered), p50, p95, p99)
