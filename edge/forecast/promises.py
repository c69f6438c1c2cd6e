"""A virtual queue of clients that were sent away: each is told when there will be a place for it. Pure.

Promises are given out one after the other at the rate at which places become free, so that those who come back find
one, and come one by one. Only their times are kept, in steps of `STEP_S`: what this takes is bounded by the longest
wait, not by the number of clients. `now` is monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from math import inf

RETRY_AFTER_MAX_S = 120.0
"""The longest wait that is told: official clients give up when they are told of a longer one."""

PACE = 0.95
"""Promises are made at this share of the measured rate: it is measured, and a place too few is a client sent away
twice, while a place too many is taken by the next who comes."""

STEP_S = 0.25

GRACE_S = 2.0
"""A place is kept for so long for a client that was told of it: round trips, and clients that wait whole seconds."""

SOON_S = 1.0
"""A client that comes this much too early takes the place it was promised."""


KEPT_WEIGHT = 0.05
"""Of one client in the share of those who come back when they were told to: the last twenty count most."""


class Promises:
    """One virtual queue."""

    def __init__(self) -> None:
        self._tail = -inf
        self._kept = 1.0
        self._steps: deque[list[float]] = deque()
        """[time, promises] of each step that has any, in order."""

    def promise(self, now: float, rate: float, *, edges: int = 1, after_s: float = 0.0) -> float:
        """Seconds until a place is free for one more client, at least `after_s`; at most the longest wait, and then it
        is not promised. `rate`: places per second, shared with `edges - 1` others who promise as many."""
        self._forget(now)
        at = max(self._tail, now + after_s) + edges / (rate * PACE)
        if at - now > RETRY_AFTER_MAX_S:
            return RETRY_AFTER_MAX_S
        self._tail = at
        if self._steps and at - self._steps[-1][0] < STEP_S:
            self._steps[-1][1] += 1
        else:
            self._steps.append([at, 1])
        return at - now

    def due(self, now: float) -> float:
        """Clients that are expected any moment now: of those who were told to come, the share that does. Places that
        are kept for clients who never come back would be kept from those who are there."""
        self._forget(now)
        count = 0.0
        for at, promises in self._steps:
            if at > now + SOON_S:
                break
            count += promises
        return count * self._kept

    def waits(self, now: float) -> bool:
        """Whether anybody was promised a place and has not come yet."""
        self._forget(now)
        return bool(self._steps)

    def redeem(self, now: float) -> None:
        """A client has come back: the first promise that it can be is kept."""
        self._forget(now)
        if self._steps and self._steps[0][0] <= now + SOON_S:
            self._kept += (1 - self._kept) * KEPT_WEIGHT
            self._steps[0][1] -= 1
            if not self._steps[0][1]:
                self._steps.popleft()

    def _forget(self, now: float) -> None:
        while self._steps and self._steps[0][0] + STEP_S + GRACE_S < now:
            _, missed = self._steps.popleft()
            self._kept *= (1 - KEPT_WEIGHT) ** missed
