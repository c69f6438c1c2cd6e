"""Rates hold over all edges at once, are told in headers, and are never in the way of a broker's trouble."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import httpx
import pytest
from limits import RateLimitItemPerSecond

from edge import metrics
from edge.admission import Admitted, Arrival
from edge.call import Caller, Rate
from edge.errors import Problem
from edge.gate import Entering, Pass
from edge.lineages import Lineages, Resolved
from edge.rates import limit as rates
from edge.rates.limit import COUNT_TIMEOUT_S, Rates
from edge.rates.storage import NatsStorage, _subject
from infra.broker import Broker
from infra.counters import Counters
from infra.settings import load_settings
from schemas import subjects
from schemas.ids import ANONYMOUS, RequestId, TenantKey
from schemas.output import End, Usage
from schemas.requests import RequestMeta
from schemas.streams import RATES
from tests.contract.protocol import paused
from tests.integration.edge_under_test import (
    CHAT,
    MESSAGES,
    MODEL,
    World,
    backend_on,
    begin_of_a_window,
    card,
    edge_at,
    until,
)

USED = Usage(prompt_tokens=5, completion_tokens=3)
_numbers = count(1)

pytestmark = pytest.mark.usefixtures("patient")


@dataclass
class Stage:
    """Two edges, one broker, a worker that answers everything, and a client whose address is nobody else's."""

    worlds: tuple[World, World]
    address: str
    worker: asyncio.Task[None]

    async def ask(self, edge: int = 0, *, key: str = "", **fields: object) -> httpx.Response:
        body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 100, **fields}
        headers = {"X-Forwarded-For": self.address} | ({"Idempotency-Key": key} if key else {})
        async with self.worlds[edge].http as http:
            return await http.post(CHAT, json=body, headers=headers)

    def set_clock(self, unix_s: float) -> None:
        """It is so late at both edges, until the next call."""
        for world in self.worlds:
            limit = world.edge._entrance._rates
            limit._now = limit._storage._now = lambda: unix_s

    async def counted(self, amount: int, window_s: int, since: float, what: str = "requests") -> list[int]:
        """What the broker has counted in each window from `since` till now."""
        counters = Counters(self.worlds[0].backend.js, RATES, timeout_s=2)
        key = RateLimitItemPerSecond(amount, window_s).key_for(self.address, what)
        keys = [
            NatsStorage.sliding_window_keys(key, window_s, number * window_s)[1]
            for number in range(int(since // window_s), int(time.time() // window_s) + 1)
        ]
        return [await counters.read(_subject(key)) for key in keys]


@contextlib.asynccontextmanager
async def stage_on(broker: Broker, **settings: object) -> AsyncIterator[Stage]:
    loaded = load_settings({"nats_url": broker.url, "trusted_proxies": "127.0.0.1", **settings})
    async with (
        backend_on(loaded) as backend,
        edge_at(loaded, backend, "edge-a") as one,
        edge_at(loaded, backend, "edge-b") as two,
    ):

        async def work() -> None:
            while True:
                attempt = await backend._attempts.get()
                await attempt.lease()
                await attempt.end(End(status="ok", n=3, text=["x"], usage=USED, finish_reasons=["stop"]))

        worker = asyncio.create_task(work())
        try:
            yield Stage((one, two), f"203.0.113.{next(_numbers)}", worker)
        finally:
            worker.cancel()


def entering(caller_id: str) -> Entering:
    """A request at the gate, of a caller with limits that let one through."""
    rate = Rate(1, 60)
    arrival = Arrival(RequestId("a" * 26), ANONYMOUS, b"{}", "", {}, "chat", 0)
    admitted = Admitted(card(), "", {}, RequestMeta(cost=1))
    return Entering(Caller(id=caller_id, requests=rate, tokens=rate), arrival, admitted, {})


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot be counted in time is let in: not where all share one event loop, and exact counts are looked at."""
    monkeypatch.setattr(rates, "COUNT_TIMEOUT_S", 5.0)


async def test_a_burst_at_two_edges_gets_exactly_the_limit(broker: Broker) -> None:
    async with stage_on(broker, rate_requests_max=20, rate_window_s=3600) as stage:
        begun = await begin_of_a_window(3600, 30)
        answers = await asyncio.gather(*(stage.ask(number % 2) for number in range(80)))
        codes = [answer.status_code for answer in answers]
        assert (codes.count(200), codes.count(429)) == (20, 60)

        async def settled() -> int:
            return sum(await stage.counted(20, 3600, begun))

        async with asyncio.timeout(15):
            while await settled() != 20:
                await asyncio.sleep(0.02)


async def test_under_lasting_overload_every_window_gets_the_limit_and_no_more(broker: Broker) -> None:
    limit, window_s, windows = 20, 2, 4
    async with stage_on(broker, rate_requests_max=limit, rate_window_s=window_s) as stage:
        begun = await begin_of_a_window(window_s, window_s - 0.1)
        accepted = 0

        async def client(edge: int) -> None:
            nonlocal accepted
            while time.time() < begun + windows * window_s - 0.2:
                answer = await stage.ask(edge)
                assert answer.status_code in (200, 429)
                accepted += answer.status_code == 200
                await asyncio.sleep(0.02)

        await asyncio.gather(*(client(number % 2) for number in range(8)))
        counted = await stage.counted(limit, window_s, begun)
        deadline = time.monotonic() + 5
        while sum(counted) > accepted and time.monotonic() < deadline:  # what is given back is on its way
            await asyncio.sleep(0.02)
            counted = await stage.counted(limit, window_s, begun)
        assert max(counted) <= limit
        assert sum(counted) == accepted
        assert accepted >= 0.75 * limit * windows, counted


async def test_the_headers_tell_what_is_left_and_who_obeys_gets_in(broker: Broker) -> None:
    async with stage_on(broker, rate_requests_max=3, rate_window_s=2) as stage:
        now = 1_000_000_000.5  # in a window that it is half past
        stage.set_clock(now)
        answers = [await stage.ask(number % 2) for number in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        remaining = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
        assert remaining == ["2", "1", "0", "0"]
        for answer in answers:
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert re.fullmatch(r"[0-9.]+m?s", answer.headers["x-ratelimit-reset-requests"])
            assert "x-ratelimit-limit-tokens" not in answer.headers
        refused = answers[-1]
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        wait_s = int(refused.headers["retry-after-ms"]) / 1000
        assert 0 < wait_s < 4
        assert int(refused.headers["retry-after"]) >= wait_s
        stage.set_clock(now + wait_s * 0.9)
        assert (await stage.ask()).status_code == 429
        stage.set_clock(now + wait_s + 0.02)
        assert (await stage.ask()).status_code == 200


async def test_tokens_are_taken_by_cost_and_corrected_by_usage(broker: Broker) -> None:
    async with stage_on(broker, rate_tokens_max=10_000, rate_window_s=3600) as stage:
        begun = await begin_of_a_window(3600, 20)
        first = await stage.ask(max_tokens=1000)
        left = int(first.headers["x-ratelimit-remaining-tokens"])
        assert 8_900 < left < 9_000
        async with asyncio.timeout(15):
            while await stage.counted(10_000, 3600, begun, "tokens") != [8]:
                await asyncio.sleep(0.02)
        second = await stage.ask(1, max_tokens=1000)
        assert int(second.headers["x-ratelimit-remaining-tokens"]) == left - 8


async def test_a_request_that_costs_more_than_the_limit_is_told_not_to_wait(broker: Broker) -> None:
    async with stage_on(broker, rate_requests_max=100, rate_tokens_max=500) as stage:
        refused = await stage.ask(max_tokens=1000)
        assert refused.status_code == 429
        assert refused.headers["x-should-retry"] == "false"
        assert "ask for less" in refused.json()["error"]["message"]
        assert refused.headers["x-ratelimit-limit-tokens"] == "500"
        begun = time.time()
        accepted = await stage.ask(max_tokens=100)
        assert accepted.headers["x-ratelimit-remaining-requests"] == "99", "what was refused was given back"
        assert begun > 0


async def test_what_the_queue_refuses_costs_nothing(own_broker: Broker) -> None:
    async with stage_on(own_broker, rate_requests_max=100, rate_window_s=3600, queue_max=1) as stage:
        begun = await begin_of_a_window(3600, 20)
        stage.worker.cancel()  # it hears of a request before the queue refuses it
        queued = subjects.request("standard", card().key, "public", "q" * 20)
        assert (await stage.worlds[0].backend.js.publish(queued, b"{}")).stored
        refused = await stage.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["x-ratelimit-limit-requests"] == "100"
        async with asyncio.timeout(15):
            while await stage.counted(100, 3600, begun) != [0]:
                await asyncio.sleep(0.02)


async def test_what_cannot_be_counted_is_let_in(own_broker: Broker) -> None:
    async with stage_on(own_broker, rate_requests_max=1) as stage:
        await stage.worlds[0].backend.bus.request(subjects.js_stream("DELETE", RATES), timeout_s=5)
        before = metrics.RATES_UNKNOWN._value.get()
        answers = [await stage.ask(number % 2) for number in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert answers[0].headers["x-ratelimit-limit-requests"] == "1"
        assert "x-ratelimit-remaining-requests" not in answers[0].headers
        assert metrics.RATES_UNKNOWN._value.get() == before + 4


async def test_a_broker_that_does_not_answer_keeps_nobody_waiting(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "COUNT_TIMEOUT_S", COUNT_TIMEOUT_S)
    async with stage_on(own_broker, rate_requests_max=1, rate_tokens_max=1) as stage:
        bus = stage.worlds[0].edge.bus
        limit = Rates(bus)

        async def entered_within_s() -> float:
            """The quickest of three."""
            took_s = []
            for _ in range(3):
                begun = time.monotonic()
                said = await limit.enter(entering(stage.address))
                assert isinstance(said, Pass), "more than the limit"
                took_s.append(time.monotonic() - begun)
            return min(took_s)

        with paused(own_broker):
            assert await entered_within_s() < 4 * COUNT_TIMEOUT_S
        await asyncio.to_thread(own_broker.kill)
        await until(lambda: not bus.connected)
        assert await entered_within_s() < COUNT_TIMEOUT_S / 2, "nobody is asked"
        await asyncio.to_thread(own_broker.start)
        await until(lambda: bus.connected)


async def test_without_limits_nothing_is_counted(own_broker: Broker) -> None:
    async with stage_on(own_broker) as stage:
        answer = await stage.ask()
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
        assert (await stage.worlds[0].backend.js.bounds(RATES))[1] == 0


@pytest.mark.parametrize("forwarded", [None, "not an address"])
async def test_who_hides_its_address_is_counted_as_the_proxy(
    own_broker: Broker, forwarded: str | None
) -> None:
    async with stage_on(own_broker, rate_requests_max=1, rate_window_s=3600) as stage:
        await begin_of_a_window(3600, 20)
        headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
        async with stage.worlds[0].http as http:
            codes = [
                (
                    await http.post(CHAT, json={"model": MODEL, "messages": MESSAGES}, headers=headers)
                ).status_code
                for _ in range(2)
            ]
        assert codes == [200, 429]
        await until(lambda: stage.worlds[0].backend.arrivals == 1)


async def test_a_request_with_a_key_counts_once_however_often_it_is_asked_for(broker: Broker) -> None:
    async with stage_on(broker, rate_requests_max=3, rate_tokens_max=10_000, rate_window_s=3600) as stage:
        begun = await begin_of_a_window(3600, 20)
        first = await stage.ask(key="rates-one")
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        assert "x-ratelimit-remaining-tokens" in first.headers
        for edge in (0, 1):
            again = await stage.ask(edge, key="rates-one")
            assert (again.status_code, again.headers["x-request-id"]) == (200, first.headers["x-request-id"])
        assert (await stage.ask(key="rates-two", model="nobody")).status_code == 404
        assert (await stage.ask(key="rates-three", max_tokens=4000, n=128)).status_code == 429
        async with asyncio.timeout(15):
            while await stage.counted(3, 3600, begun) != [1]:
                await asyncio.sleep(0.02)


async def test_what_a_key_stands_for_is_not_looked_up_for_who_may_not_ask(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 16 reads, and a key is whatever a client says."""
    resolved: list[str] = []
    resolve = Lineages.resolve

    async def noted(lineages: Lineages, tenant: TenantKey, key: str, fingerprint: str) -> Resolved | Problem:
        resolved.append(key)
        return await resolve(lineages, tenant, key, fingerprint)

    monkeypatch.setattr(Lineages, "resolve", noted)
    async with stage_on(broker, rate_requests_max=2, rate_window_s=3600) as stage:
        await begin_of_a_window(3600, 20)
        answers = [await stage.ask(number % 2, key=f"rates-{number}") for number in range(6)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429, 429]
        assert answers[2].headers["x-ratelimit-remaining-requests"] == "0"
        assert int(answers[2].headers["retry-after"]) > 1
        assert resolved == ["rates-0", "rates-1"]
