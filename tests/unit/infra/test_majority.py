"""When a process leaves the broker that it is connected to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from infra.bus import Bus, Reply
from infra.majority import SILENT_MAX_S, Patience, stay_with_majority
from schemas.errors import BrokerAway
from tests.unit.virtual_time import in_virtual_time

NONE_FOUND = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
UNAVAILABLE = {
    "error": {"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"}
}
FORBIDDEN = {"error": {"code": 500, "err_code": 10002, "description": "account has no JetStream"}}


def test_a_connection_has_its_time_and_each_answer_gives_it_anew() -> None:
    patience = Patience(100.0)
    assert not patience.is_over(100.0 + SILENT_MAX_S, connected_since=0.0)
    assert patience.is_over(100.1 + SILENT_MAX_S, connected_since=0.0)
    patience.heard(103.0)
    assert not patience.is_over(103.0 + SILENT_MAX_S, connected_since=0.0)
    assert patience.is_over(103.1 + SILENT_MAX_S, connected_since=0.0)


def test_another_broker_gets_as_much_time() -> None:
    patience = Patience(100.0)
    assert not patience.is_over(105.0 + SILENT_MAX_S, connected_since=105.0)
    assert patience.is_over(105.1 + SILENT_MAX_S, connected_since=105.0)


class Broker:
    """A bus whose broker answers that, or not at all; the others are those of `others`, by their URLs."""

    def __init__(self, answer: object, **others: Broker) -> None:
        self.answer = answer
        self.around = others
        self.connected_since: float | None = 0.0
        self.asked = 0
        self.left = 0

    @property
    def others(self) -> list[str]:
        return list(self.around)

    async def request(self, _subject: str, _payload: bytes = b"", **_: Any) -> Reply:
        self.asked += 1
        if self.answer is None:
            raise BrokerAway("no answer")
        return Reply(b"", json.dumps(self.answer).encode())

    @contextlib.asynccontextmanager
    async def visit(self, url: str) -> AsyncIterator[Broker]:
        if self.around[url].connected_since is None:
            await asyncio.Event().wait()
        yield self.around[url]

    async def leave(self) -> None:
        self.left += 1
        self.connected_since = asyncio.get_running_loop().time()


class Elected(Broker):
    """It is the leader from the first question on, which those around it hear, too."""

    def __init__(self) -> None:
        super().__init__(NONE_FOUND)

    async def request(self, _subject: str, _payload: bytes = b"", **_: Any) -> Reply:
        for broker in self.around.values():
            broker.answer = NONE_FOUND
        return await super().request(_subject)


@contextlib.asynccontextmanager
async def watched(broker: Broker) -> AsyncIterator[None]:
    watch = asyncio.create_task(stay_with_majority(cast("Bus", broker)))
    try:
        yield
    finally:
        assert not watch.done()
        watch.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10 * SILENT_MAX_S):
        while not condition():
            await asyncio.sleep(0.01)


def unreachable() -> Broker:
    broker = Broker(NONE_FOUND)
    broker.connected_since = None
    return broker


@pytest.mark.parametrize("answer", [None, UNAVAILABLE])
@in_virtual_time
async def test_a_broker_without_a_leader_is_left_for_one_that_has(answer: object) -> None:
    broker = Broker(answer, down=unreachable(), alone=Broker(None), good=Broker(NONE_FOUND))
    async with watched(broker):
        await until(lambda: broker.left == 2)
    assert broker.asked > 4, "not at the first silence, neither here nor there"


@pytest.mark.parametrize("answer", [None, UNAVAILABLE])
@in_virtual_time
async def test_while_nobody_leads_every_broker_is_as_good(answer: object) -> None:
    broker = Broker(answer, down=unreachable(), other=Broker(answer))
    async with watched(broker):
        await until(lambda: broker.around["other"].asked > 1)
    assert broker.left == 0


@in_virtual_time
async def test_a_leader_that_is_elected_meanwhile_is_found_here_too() -> None:
    broker = Broker(None, other=Elected())
    broker.around["other"].around = {"asker": broker}
    async with watched(broker):
        await until(lambda: broker.around["other"].asked > 0)
        await asyncio.sleep(2 * SILENT_MAX_S)
    assert broker.left == 0


@pytest.mark.parametrize("answer", [NONE_FOUND, FORBIDDEN])
@in_virtual_time
async def test_one_that_answers_is_stayed_with(answer: object) -> None:
    broker = Broker(answer, good=Broker(NONE_FOUND))
    async with watched(broker):
        await asyncio.sleep(4 * SILENT_MAX_S)
    assert broker.asked > 4
    assert (broker.left, broker.around["good"].asked) == (0, 0)


@in_virtual_time
async def test_who_knows_of_one_broker_or_has_none_asks_nobody() -> None:
    alone, away = Broker(None), Broker(None, good=Broker(NONE_FOUND))
    away.connected_since = None
    async with watched(alone), watched(away):
        await asyncio.sleep(4 * SILENT_MAX_S)
    assert (alone.asked, away.asked) == (0, 0)
    assert (alone.left, away.left) == (0, 0)
