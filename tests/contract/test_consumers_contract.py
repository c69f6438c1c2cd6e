"""What the design leans on in consumers that vanish, stand still or are made anew, and in keys that are given back."""

from __future__ import annotations

import asyncio

import msgspec

from infra.consumers import Consumer, Delivered
from infra.kv import KeyValue
from schemas import subjects
from schemas.ids import ModelKey
from schemas.streams import LEADER_BUCKET, REQUESTS, ConsumerSpec, requests_consumer
from tests.contract.protocol import Contract, until


def rid(number: int) -> str:
    return f"{number:020d}"


def spec() -> ConsumerSpec:
    return requests_consumer("standard", ModelKey(Contract.model), ack_wait_s=30, queue_max=3)


async def open_fetches(contract: Contract) -> int:
    info = subjects.js_consumer("INFO", REQUESTS, spec().name)
    answer = await contract.js.bus.request(info, timeout_s=5)
    return int(msgspec.json.decode(answer.payload)["num_waiting"])


class Watched:
    """A consumer whose deliveries and whose loss are kept."""

    def __init__(self, contract: Contract) -> None:
        self.deliveries: list[Delivered] = []
        self.gone = 0
        on_end = [].append  # type: ignore[var-annotated]
        self.consumer: Consumer = contract.js.consume(spec(), self.deliveries.append, on_end, self._on_gone)

    def _on_gone(self) -> None:
        self.gone += 1


async def test_an_open_fetch_tells_when_its_consumer_is_deleted(contract: Contract) -> None:
    await contract.js.ensure_consumer(spec())
    watched = Watched(contract)
    watched.consumer.fetch(1, 10.0)
    async with asyncio.timeout(5):
        while not await open_fetches(contract):
            await asyncio.sleep(0.01)  # one that the server has not taken in yet is lost without a word
    await contract.js.delete_consumer(spec())
    await until(lambda: watched.gone == 1)


async def test_a_fetch_tells_when_there_is_no_consumer(contract: Contract) -> None:
    watched = Watched(contract)
    watched.consumer.fetch(1, 10.0)
    await until(lambda: watched.gone == 1)


async def test_a_fetch_that_only_expires_tells_of_no_loss(contract: Contract) -> None:
    await contract.js.ensure_consumer(spec())
    watched = Watched(contract)
    ended: list[int] = []
    consumer = contract.js.consume(spec(), watched.deliveries.append, ended.append, watched._on_gone)
    consumer.fetch(2, 0.1)
    await until(lambda: ended == [2])
    assert not watched.gone


async def test_a_consumer_made_anew_delivers_what_was_not_settled_and_counts_from_one(
    contract: Contract,
) -> None:
    await contract.js.ensure_consumer(spec())
    assert (await contract.request(rid(1))).stored
    first = Watched(contract)
    for attempt in (1, 2):
        first.consumer.fetch(1, 5.0)
        await until(lambda attempt=attempt: len(first.deliveries) == attempt)  # type: ignore[misc]
        delivery = subjects.parse_ack(first.deliveries[-1].ack)
        assert delivery is not None
        assert delivery.delivered == attempt
        if attempt == 1:
            contract.js.nak(first.deliveries[-1].ack)
    await contract.js.delete_consumer(spec())
    assert await contract.js.undelivered(spec()) is None
    age_s = await contract.js.ensure_consumer(spec())
    assert 0 <= age_s < 5
    assert await contract.js.undelivered(spec()) == 1
    again = Watched(contract)
    again.consumer.fetch(1, 5.0)
    await until(lambda: again.deliveries)
    delivery = subjects.parse_ack(again.deliveries[0].ack)
    assert delivery is not None
    assert delivery.delivered == 1, "although somebody may run it since its second delivery"
    contract.js.ack(again.deliveries[0].ack)
    async with asyncio.timeout(5):
        while await contract.js.queue_depth(REQUESTS):
            await asyncio.sleep(0.01)


async def test_how_full_a_stream_is(contract: Contract) -> None:
    before = await contract.js.usage(REQUESTS)
    assert (await contract.request(rid(1), body=b"x" * 1000)).stored
    after = await contract.js.usage(REQUESTS)
    assert after.messages == before.messages + 1
    assert after.bytes - before.bytes > 1000
    assert after.share == after.bytes / after.bytes_max


async def test_a_key_that_is_given_back_is_told_to_all_who_wait(contract: Contract) -> None:
    key = await KeyValue.open(contract.js, LEADER_BUCKET, ttl_s=3)
    told: list[None] = []
    key.on_delete("leader", lambda: told.append(None))
    revision = await key.create("leader", b"s1")
    assert revision is not None
    await key.update("leader", b"s1", revision)
    assert not told
    assert await key.delete("leader", revision + 1)
    await until(lambda: len(told) == 1)
    assert await key.create("leader", b"s2")
