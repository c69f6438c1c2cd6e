"""Requests and tokens of one caller in a time, counted over all edges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from limits import RateLimitItemPerSecond
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from edge import metrics
from edge.call import Caller, Rate
from edge.errors import Header, Problem
from edge.gate import Entering, Pass, Settled
from edge.rates.counted import Counted, Knock
from edge.rates.storage import NatsStorage
from edge.rates.window import Window, duration
from infra import clock
from infra.bus import Bus
from infra.counters import Counters
from infra.jetstream import JetStream
from infra.logs import get_logger
from schemas.errors import BrokerAway, BrokerRefused
from schemas.streams import RATES

COUNT_TIMEOUT_S = 0.25
"""A hundred times what a count takes. Nobody waits longer for a limit: see `Rates`."""

RETRY_S_MIN = 0.05
"""Hits that raced may leave room at once, but not for all of them."""

NEVER_S = 60.0
"""`Retry-After` of a request that costs more than its caller ever may: it has to change, not to wait."""

_log = get_logger("edge.rates")


class Rates:
    """A limit of the gate: `Caller.requests` and `Caller.tokens`. A caller without them costs nothing.

    Tokens are taken by the request's cost, an estimate from above, and corrected by what its END says was used; a
    request that was never stored gives back everything, and one that runs on without its reader keeps its cost. Where
    the counters do not answer in time the request is let in and that is counted in a metric: the queue is bounded all
    the same, a broker that is away is told of by the publish itself, and a limit that stopped everybody for its own
    trouble would do more harm than it prevents.
    """

    def __init__(self, bus: Bus, now: Callable[[], float] = clock.unix_s) -> None:
        self._now = now
        self._storage = NatsStorage(Counters(JetStream(bus), RATES, timeout_s=COUNT_TIMEOUT_S), now)
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    async def knock(self, caller: Caller) -> Knock | Problem:
        """Counts a request that it costs the broker something to find out about."""
        if caller.requests.amount <= 0:
            return Knock(None, lambda _counted: None)
        counted = await self._count(caller.id, "requests", caller.requests, 1)
        if not counted.fits:
            return _refusal([counted], tuple(counted.headers))
        return Knock(counted, lambda counted: self._correct(caller.id, counted, -counted.cost))

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Counts the request, unless it has knocked, and its tokens, or says when to come again."""
        caller = entering.caller
        asked = [("requests", caller.requests, 1), ("tokens", caller.tokens, entering.admitted.meta.cost)]
        known = [] if entering.knock is None else entering.knock.take()
        limited = [(what, rate, cost) for what, rate, cost in asked[len(known) :] if rate.amount > 0]
        if not limited and not known:
            return Pass()
        counts = [self._count(caller.id, what, rate, cost) for what, rate, cost in limited]
        fresh = await asyncio.gather(*counts) if len(counts) > 1 else [await one for one in counts]
        counted = [*known, *fresh]
        headers = tuple(header for one in counted for header in one.headers)
        refusing = [one for one in counted if not one.fits]
        if not refusing:
            return Pass(headers, partial(self._settle, caller.id, counted))
        for one in counted:
            if one.fits:
                self._correct(caller.id, one, -one.cost)
        return _refusal(refusing, headers)

    async def _count(self, caller_id: str, what: str, rate: Rate, cost: int) -> Counted:
        item = _item(rate)
        counted = Counted(what, rate, cost, self._now())
        try:
            fits = await self._limiter.hit(item, caller_id, what, cost=cost)
            previous, left_s, current, _ = await self._storage.get_sliding_window(
                item.key_for(caller_id, what), rate.window_s
            )
        except (BrokerAway, BrokerRefused) as error:
            metrics.RATES_UNKNOWN.inc()
            if isinstance(error, BrokerRefused):
                _log.warning("not counted", caller=caller_id, what=what, error=str(error))
            return counted
        return counted._replace(
            fits=fits, window=Window(rate.amount, rate.window_s, previous, current, left_s)
        )

    def _settle(self, caller_id: str, counted: list[Counted], settled: Settled) -> None:
        usage = settled.end.usage if settled.end is not None else None
        for one in counted:
            if settled.how == "refused":
                self._correct(caller_id, one, -one.cost)
            elif one.what == "tokens" and usage is not None:
                self._correct(caller_id, one, usage.prompt_tokens + usage.completion_tokens - one.cost)

    def _correct(self, caller_id: str, counted: Counted, amount: int) -> None:
        if amount != 0 and counted.window is not None:
            key = _item(counted.rate).key_for(caller_id, counted.what)
            self._storage.correct(key, counted.rate.window_s, amount, counted.at)


def _item(rate: Rate) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(rate.amount, rate.window_s)


def _refusal(refusing: list[Counted], headers: tuple[Header, ...]) -> Problem:
    """What to wait for is the last of those that do not fit."""
    waits = []
    for one in refusing:
        window = one.window or Window(one.rate.amount, one.rate.window_s, 0, 0, 0.0)
        if (wait_s := window.wait_s(one.cost)) is None:
            message = f"this request may cost {one.cost} {one.what}; only {one.rate.amount} are allowed in"
            never = (b"x-should-retry", b"false")
            return Problem(
                "rate_limited",
                f"{message} {duration(one.rate.window_s)}: ask for less",
                retry_after_s=NEVER_S,
                headers=(*headers, never),
            )
        waits.append((max(wait_s, RETRY_S_MIN), one))
    wait_s, last = max(waits, key=lambda one: one[0])
    message = f"the limit of {last.rate.amount} {last.what} in {duration(last.rate.window_s)} is reached"
    return Problem(
        "rate_limited", f"{message}: try again in {duration(wait_s)}", retry_after_s=wait_s, headers=headers
    )
