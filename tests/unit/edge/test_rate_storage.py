"""What the limiter counts with, against counters in memory and a clock of the test's own."""

from __future__ import annotations

from typing import cast

import pytest
from limits import RateLimitItemPerSecond
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from edge.rates import storage
from edge.rates.storage import NatsStorage
from infra.counters import Counters
from schemas.errors import BrokerAway

WINDOW_S = 10
BEGIN = 1000.0 * WINDOW_S


class MemoryCounters:
    """The broker's counters; `trips` counts those calls that wait for it."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self.trips = 0
        self.reachable = True

    async def add(self, subject: str, amount: int) -> int:
        self._trip()
        self.add_unheard(subject, amount)
        return self.sums[subject]

    def add_unheard(self, subject: str, amount: int) -> bool:
        self.sums[subject] = self.sums.get(subject, 0) + amount
        return True

    async def read(self, subject: str) -> int:
        self._trip()
        return self.sums.get(subject, 0)

    def _trip(self) -> None:
        self.trips += 1
        if not self.reachable:
            raise BrokerAway("away")


class Stage:
    """Edges that share counters, and a clock."""

    def __init__(self, amount: int) -> None:
        self.now = BEGIN
        self.counters = MemoryCounters()
        self.item = RateLimitItemPerSecond(amount, WINDOW_S)
        self.edges = [NatsStorage(cast("Counters", self.counters), lambda: self.now) for _ in range(2)]

    async def hit(self, edge: int = 0, cost: int = 1) -> bool:
        return await SlidingWindowCounterRateLimiter(self.edges[edge]).hit(self.item, "me", cost=cost)

    async def counts(self, edge: int = 0) -> tuple[int, int]:
        previous, _, current, _ = await self.edges[edge].get_sliding_window(self.item.key_for("me"), WINDOW_S)
        return previous, current


async def test_two_edges_share_one_limit() -> None:
    stage = Stage(5)
    assert [await stage.hit(number % 2) for number in range(8)] == [True] * 5 + [False] * 3
    assert sum(stage.counters.sums.values()) == 5, "what was refused does not count"


async def test_the_window_before_counts_by_what_is_left_of_it() -> None:
    stage = Stage(10)
    for _ in range(10):
        assert await stage.hit()
    stage.now += 1.5 * WINDOW_S
    assert [await stage.hit() for _ in range(7)] == [True] * 5 + [False] * 2
    stage.now += WINDOW_S
    assert [await stage.hit(1) for _ in range(9)] == [True] * 8 + [False], "five of the window before, halved"


async def test_a_full_window_is_not_asked_about_again_at_once() -> None:
    stage = Stage(1)
    assert await stage.hit()
    stage.now += 1
    assert not await stage.hit()
    trips = stage.counters.trips
    assert not await stage.hit()
    assert stage.counters.trips == trips
    stage.now += 2 * storage.FULL_FRESH_S
    assert not await stage.hit()
    assert stage.counters.trips > trips


async def test_what_costs_more_than_the_limit_never_fits_and_counts_nothing() -> None:
    stage = Stage(5)
    assert not await stage.hit(cost=6)
    assert stage.counters.sums == {}


async def test_a_correction_goes_to_the_window_that_was_charged() -> None:
    stage = Stage(100)
    assert await stage.hit(cost=60)
    charged_at = stage.now
    stage.now += WINDOW_S
    stage.edges[0].correct(stage.item.key_for("me"), WINDOW_S, -50, charged_at)
    assert await stage.counts() == (10, 0)
    assert await stage.counts(1) == (10, 0)
    stage.now += WINDOW_S
    stage.edges[0].correct(stage.item.key_for("me"), WINDOW_S, -10, charged_at)
    assert sum(stage.counters.sums.values()) == 10, "too late to matter: nothing is sent"


async def test_a_sum_below_zero_counts_as_zero() -> None:
    stage = Stage(100)
    stage.edges[0].correct(stage.item.key_for("me"), WINDOW_S, -50, stage.now)
    assert await stage.counts(1) == (0, 0)


async def test_a_broker_that_is_away_is_told_as_such() -> None:
    stage = Stage(5)
    stage.counters.reachable = False
    with pytest.raises(BrokerAway):
        await stage.hit()
    assert not await stage.edges[0].check()


async def test_nothing_grows_with_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SEEN_MAX", 10)
    stage = Stage(5)
    limiter = SlidingWindowCounterRateLimiter(stage.edges[0])
    for number in range(100):
        assert await limiter.hit(stage.item, f"caller {number}")
    assert len(stage.edges[0]._seen) == 10


async def test_a_caller_can_be_forgiven() -> None:
    stage = Stage(1)
    assert await stage.hit()
    await stage.edges[0].clear_sliding_window(stage.item.key_for("me"), WINDOW_S)
    assert await stage.hit()
