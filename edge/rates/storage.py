"""What the rate limiter counts with: counters on the broker that all edges add to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from math import floor

from limits.aio.storage import Storage
from limits.aio.storage.base import SlidingWindowCounterSupport
from limits.storage.base import TimestampedSlidingWindow

from infra import clock
from infra.counters import Counters
from schemas import subjects
from schemas.errors import BrokerAway
from schemas.streams import RATE_WINDOW_S_MAX

PREVIOUS_FRESH_S = 1.0
"""A past window's sum only changes by what requests give back that began in it, so it is not read for every hit."""

FULL_FRESH_S = 0.05
"""For this long after a window was seen full nobody asks again: a flood costs the broker next to nothing, and what its
refused hits add for a moment does not keep out those that fit."""

SEEN_MAX = 16_384
"""Sums that an edge remembers, two for each window of a caller. One that is forgotten is read again."""


class NatsStorage(Storage, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """Counters of the stream RATES, by the hash of the limiter's key: callers' addresses are nobody else's business.

    A hit adds first and asks then: of hits that race the server orders the sums, so the first ones that fit are in, at
    whatever edges, and one that does not fit takes back what it added. `now` gives Unix seconds, because edges must
    agree on where a window begins; clocks that differ by a second make that second's hits count in the neighbour.
    """

    STORAGE_SCHEME = ["async+nats"]  # noqa: RUF012  # typed so by the library

    def __init__(self, counters: Counters, now: Callable[[], float] = clock.unix_s) -> None:
        super().__init__()
        self._counters = counters
        self._now = now
        self._seen: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """What a call fails with while the broker is away."""
        return BrokerAway

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether `amount` fits; if so, it is counted."""
        if amount > limit:
            return False
        now = self._now()
        previous_key, current_key = self.sliding_window_keys(key, expiry, now)
        if self._is_full(previous_key, current_key, limit - amount, expiry, now):
            return False
        if self._is_fresh(previous_key, PREVIOUS_FRESH_S, now):
            previous, current = self._seen[previous_key][0], await self.incr(current_key, expiry, amount)
        else:
            previous, current = await asyncio.gather(
                self.get(previous_key), self.incr(current_key, expiry, amount)
            )
        if floor(previous * _left_s(now, expiry) / expiry + current) <= limit:
            return True
        self._give_back(current_key, amount)
        return False

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Sums and remaining lifetimes of the window before and of the present one, as this edge has last seen them."""
        now = self._now()
        previous_key, current_key = self.sliding_window_keys(key, expiry, now)
        previous = self._seen[previous_key][0] if previous_key in self._seen else await self.get(previous_key)
        current = self._seen[current_key][0] if current_key in self._seen else await self.get(current_key)
        left_s = _left_s(now, expiry)
        return previous, left_s, current, left_s + expiry

    def correct(self, key: str, expiry: int, amount: int, charged_at: float) -> None:
        """Adds to the window that a hit of `charged_at` counted in, unless that does not count any more. Not awaited:
        what is lost on the way counts for a window longer."""
        now = self._now()
        charged = self.sliding_window_keys(key, expiry, charged_at)[1]
        if charged in self.sliding_window_keys(key, expiry, now):
            self._give_back(charged, -amount)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """The sum after `amount` was added. It is forgotten when it is too old for any window."""
        return self._saw(key, await self._counters.add(_subject(key), amount))

    async def get(self, key: str) -> int:
        """The sum."""
        return self._saw(key, await self._counters.read(_subject(key)))

    async def get_expiry(self, key: str) -> float:
        """Unix seconds until which the sum is kept if nothing is added; no limiter asks it of a sliding window."""
        return self._now() + 2 * RATE_WINDOW_S_MAX

    async def check(self) -> bool:
        """Whether the broker is there."""
        return self._counters.reachable

    async def reset(self) -> int | None:
        """Everybody begins anew."""
        self._seen.clear()
        return await self._counters.forget_all()

    async def clear(self, key: str) -> None:
        """The sum is 0 again."""
        await self.incr(key, 0, -await self.get(key))

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Nothing is counted of `key`."""
        for counter in self.sliding_window_keys(key, expiry, self._now()):
            await self.clear(counter)

    def _give_back(self, key: str, amount: int) -> None:
        self._counters.add_unheard(_subject(key), -amount)
        if key in self._seen:
            value, seen_at = self._seen[key]
            self._seen[key] = (max(0, value - amount), seen_at)

    def _saw(self, key: str, value: int) -> int:
        value = max(0, value)
        # Those seen last are at the end.
        self._seen.pop(key, None)
        self._seen[key] = (value, self._now())
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return value

    def _is_full(self, previous_key: str, current_key: str, room: int, expiry: int, now: float) -> bool:
        """Whether more than `room` was there a moment ago."""
        if not self._is_fresh(current_key, FULL_FRESH_S, now):
            return False
        previous = self._seen[previous_key][0] if previous_key in self._seen else 0
        return floor(previous * _left_s(now, expiry) / expiry + self._seen[current_key][0]) > room

    def _is_fresh(self, key: str, fresh_s: float, now: float) -> bool:
        return key in self._seen and now - self._seen[key][1] < fresh_s


def _left_s(now: float, window_s: int) -> float:
    return window_s - now % window_s


def _subject(key: str) -> str:
    return subjects.rate(hashlib.sha256(key.encode()).hexdigest()[:32])
