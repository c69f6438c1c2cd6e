"""Requests whose reader left count no longer than they must, whatever is lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from edge.counts import leftover
from edge.counts.leftover import Leftovers
from edge.lookup import Lookup
from infra.broker import Broker
from infra.bus import Bus, MessageCallback, Subscription
from infra.settings import load_settings
from schemas.ids import ANONYMOUS, RequestId
from schemas.output import End
from tests.integration.edge_under_test import edge_on, leave, post, until

TIMEOUT_S = 600.0
DETACH = {"X-Penstock-On-Disconnect": "detach"}


class Deaf(Bus):
    """What is published live does not come through."""

    def subscribe(self, subject: str, callback: MessageCallback) -> Subscription:
        return super().subscribe(f"deaf.{subject}", callback)


async def test_an_end_that_nobody_was_told_of_is_found_soon(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftover, "LOOK_FIRST_S", 0.05)
    settings = load_settings({"nats_url": own_broker.url})
    failures: list[Exception] = []
    async with edge_on(settings) as world:
        client = post(world, DETACH)
        attempt = await world.backend.attempt()
        await leave(world, client)
        bus = await Deaf.connect(own_broker.url, name="deaf", fail=failures.append)
        leftovers = Leftovers(bus, Lookup(world.backend.js, world.backend.log), failures.append)
        over = asyncio.Event()
        leftovers.watch(attempt.tenant, attempt.rid, TIMEOUT_S, over.set)
        await asyncio.sleep(0.2)
        assert not over.is_set(), "it runs"
        await attempt.end(End(status="ok"))
        await until(over.is_set)
        assert not leftovers._watches
        await bus.close()
    assert not failures


async def test_what_was_never_stored_counts_until_that_is_certain(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a request with a key may be whose publish nobody confirmed."""
    monkeypatch.setattr(leftover, "LOOK_FIRST_S", 0.2)
    async with edge_on(load_settings({"nats_url": own_broker.url})) as world:
        over = asyncio.Event()
        begun = asyncio.get_running_loop().time()
        world.edge._entrance._leftovers.watch(ANONYMOUS, RequestId("nobody" * 4), TIMEOUT_S, over.set)
        await until(over.is_set)
        assert asyncio.get_running_loop().time() - begun >= 0.2, "it may have been on its way"
