"""What JetStream promises about deliveries that are not settled: when they come back, and to whose word it listens."""

from __future__ import annotations

import asyncio
import time

import pytest

from infra.bus import Reply
from infra.consumers import Consumer, Delivered
from infra.jetstream import SERVICE_UNAVAILABLE, JetStream
from infra.wire import status_of
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import ModelKey
from schemas.streams import REQUESTS, ConsumerSpec, requests_consumer
from tests.contract.protocol import AnyBroker, Contract, paused, progress_until, restart, until

ACK_WAIT_S = 1.0
TRIES = 5
WRITTEN_S = 1.0
"""The real broker writes what it delivered a moment later; a kill within that moment makes it count from 1 again."""


def rid(number: int) -> str:
    return f"{number:020d}"


def spec(*, ack_wait_s: float = ACK_WAIT_S, max_ack_pending: int = 3) -> ConsumerSpec:
    return requests_consumer(
        "standard", ModelKey(Contract.model), ack_wait_s=ack_wait_s, queue_max=max_ack_pending
    )


class Pulled:
    """A consumer whose deliveries and ends are kept."""

    def __init__(self, js: JetStream, consumer: ConsumerSpec) -> None:
        self.deliveries: list[Delivered] = []
        self.unused: list[int] = []
        self.consumer: Consumer = js.consume(consumer, self.deliveries.append, self.unused.append)

    async def next(self, within_s: float = 5.0) -> Delivered:
        seen = len(self.deliveries)
        assert self.consumer.fetch(1, within_s)
        await until(lambda: len(self.deliveries) > seen)
        return self.deliveries[-1]

    async def is_empty(self, for_s: float) -> bool:
        """Whether a fetch of `for_s` ends without a delivery."""
        before = len(self.deliveries), len(self.unused)
        assert self.consumer.fetch(1, for_s)
        await until(lambda: (len(self.deliveries), len(self.unused)) != before)
        return len(self.deliveries) == before[0]

    async def nothing(self, for_s: float) -> None:
        """A fetch of `for_s` ends without a delivery."""
        assert await self.is_empty(for_s)


async def pulled(contract: Contract, consumer: ConsumerSpec | None = None) -> Pulled:
    consumer = consumer or spec()
    await contract.js.ensure_consumer(consumer)
    return Pulled(contract.js, consumer)


def numbers(delivery: Delivered) -> tuple[str, int]:
    """The rid of a delivery and how often it has been delivered."""
    found = subjects.parse_ack(delivery.ack)
    assert found is not None
    return delivery.subject.rpartition(".")[2], found.delivered


async def answer(contract: Contract, ack_subject: str, body: bytes, *, within_s: float = 5.0) -> Reply | None:
    """What an acknowledgement that asks for an answer gets."""
    try:
        return await contract.bus.request(ack_subject, body, timeout_s=within_s)
    except BrokerAway:
        return None


async def depth(contract: Contract) -> int:
    return await contract.js.queue_depth(REQUESTS)


async def test_an_unsettled_message_comes_back_after_the_ack_wait_and_not_before(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    asked_at = time.monotonic()
    first = await queue.next()
    again = await queue.next()
    assert time.monotonic() - asked_at > 0.95 * ACK_WAIT_S
    assert numbers(again) == (rid(0), 2)
    assert subjects.parse_ack(again.ack) != subjects.parse_ack(first.ack)


async def test_a_nak_with_a_delay_comes_back_after_it(contract: Contract) -> None:
    queue = await pulled(contract, spec(ack_wait_s=30))
    await contract.request(rid(0))
    first = await queue.next()
    refused_at = time.monotonic()
    contract.js.nak(first.ack, 0.5)
    assert numbers(await queue.next()) == (rid(0), 2)
    assert 0.45 < time.monotonic() - refused_at < 3


async def test_progress_after_a_delayed_nak_starts_the_ack_wait_anew(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    first = await queue.next()
    contract.js.nak(first.ack, 0.2)
    contract.js.progress(first.ack)
    said_at = time.monotonic()
    await queue.next()
    assert time.monotonic() - said_at > 0.95 * ACK_WAIT_S


async def test_the_word_of_a_superseded_delivery_counts(contract: Contract) -> None:
    """Stale progress, stale NAK, stale ack: the reason why a worker acks only on a stored END."""
    queue = await pulled(contract)
    for number in range(TRIES):
        await contract.request(rid(number))
        first = await queue.next()
        contract.js.nak(first.ack)
        assert numbers(await queue.next()) == (rid(number), 2)
        enough_at = time.monotonic() + 1.6 * ACK_WAIT_S
        looked: list[asyncio.Task[bool]] = []

        def is_over(enough_at: float = enough_at, looked: list[asyncio.Task[bool]] = looked) -> bool:
            if not looked and time.monotonic() > enough_at:
                looked.append(asyncio.create_task(queue.is_empty(0.05)))
            return bool(looked) and looked[0].done()

        if await progress_until(contract, first.ack, is_over) < 0.8 * ACK_WAIT_S:
            break
        contract.js.ack(first.ack)
    assert looked[0].result()
    contract.js.nak(first.ack)
    assert numbers(await queue.next()) == (rid(number), 3)
    contract.js.nak(first.ack, 1.5)
    await queue.nothing(0.1)
    assert numbers(await queue.next()) == (rid(number), 4)
    assert await answer(contract, first.ack, b"+ACK") == (b"", b"")
    assert await depth(contract) == 0


async def test_an_acknowledgement_is_answered_also_the_second_time(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    first = await queue.next()
    for body in (b"+WPI", b"+ACK", b"+ACK", b"+WPI", b"-NAK", b'-NAK {"delay": 1000000}', b"+TERM"):
        assert await answer(contract, first.ack, body) == (b"", b""), body
    await queue.nothing(0.2)


async def test_an_ack_of_what_was_never_delivered_is_not_answered_and_does_nothing(
    contract: Contract,
) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    await contract.request(rid(1))
    first = await queue.next()
    tokens = first.ack.split(".")
    for seq in ("2", "99"):
        never = ".".join([*tokens[:5], seq, *tokens[6:]])
        assert await answer(contract, never, b"+ACK", within_s=0.3) is None
    assert await depth(contract) == 2


async def test_an_ack_to_nobody_is_a_503(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    first = await queue.next()
    for wrong in (first.ack.replace("standard-m", "standard-x"), first.ack + ".7"):
        said = await answer(contract, wrong, b"+ACK")
        assert said is not None
        assert status_of(said.headers) == SERVICE_UNAVAILABLE
    assert await depth(contract) == 1


async def test_a_terminated_message_is_gone(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    contract.bus.publish((await queue.next()).ack, b"+TERM poisoned")
    await queue.nothing(1.5 * ACK_WAIT_S)
    assert await depth(contract) == 0


async def test_what_comes_back_goes_before_what_is_new(contract: Contract) -> None:
    queue = await pulled(contract, spec(ack_wait_s=30))
    await contract.request(rid(0))
    first = await queue.next()
    await contract.request(rid(1))
    # With an answer: the real server settles and fetches side by side, so a fetch may overtake a NAK sent before it.
    assert await answer(contract, first.ack, b"-NAK") is not None
    assert numbers(await queue.next()) == (rid(0), 2)
    assert numbers(await queue.next()) == (rid(1), 1)


async def test_messages_that_come_back_together_come_back_in_stream_order(contract: Contract) -> None:
    ack_wait_s = 2 * ACK_WAIT_S  # all three are taken within it, on a machine that pauses too
    queue = await pulled(contract, spec(ack_wait_s=ack_wait_s))
    for number in range(3):
        await contract.request(rid(number))
    first = [await queue.next() for _ in range(3)]
    for delivery in reversed(first):
        contract.js.progress(delivery.ack)
    assert await answer(contract, first[0].ack, b"+WPI") is not None
    await asyncio.sleep(1.2 * ack_wait_s)
    assert [numbers(await queue.next()) for _ in range(3)] == [(rid(number), 2) for number in range(3)]


async def test_unsettled_messages_hold_back_new_ones_at_the_limit_but_not_each_other(
    contract: Contract,
) -> None:
    queue = await pulled(contract, spec(max_ack_pending=1, ack_wait_s=30))
    await contract.request(rid(0))
    await contract.request(rid(1))
    first = await queue.next()
    await queue.nothing(0.2)
    contract.js.nak(first.ack)
    again = await queue.next()
    assert numbers(again) == (rid(0), 2)
    contract.js.ack(again.ack)
    assert numbers(await queue.next()) == (rid(1), 1)


async def test_two_fetchers_take_turns(contract: Contract) -> None:
    patient = spec(ack_wait_s=30)
    one, other = await pulled(contract, patient), Pulled(contract.js, patient)
    one.consumer.fetch(2, 5.0)
    other.consumer.fetch(2, 5.0)
    for number in range(3):
        await contract.request(rid(number))
    await until(lambda: len(one.deliveries) + len(other.deliveries) == 3)
    assert [numbers(delivery) for delivery in one.deliveries] == [(rid(0), 1), (rid(2), 1)]
    assert [numbers(delivery) for delivery in other.deliveries] == [(rid(1), 1)]


async def test_a_consumer_delivers_what_was_there_before_it(contract: Contract) -> None:
    await contract.request(rid(0))
    assert numbers(await (await pulled(contract)).next()) == (rid(0), 1)


async def test_a_fetch_ends_when_its_consumer_is_deleted(contract: Contract) -> None:
    queue = await pulled(contract)
    said: list[bytes] = []
    inbox = contract.bus.inbox()
    contract.bus.subscribe(inbox, lambda _s, _r, headers, _p: said.append(headers))
    name = queue.consumer.spec.name
    contract.bus.publish(
        subjects.js_consumer("MSG.NEXT", REQUESTS, name), b'{"batch":1,"expires":5000000000}', reply=inbox
    )
    info = subjects.js_consumer("INFO", REQUESTS, name)
    while b'"num_waiting":1' not in (await contract.bus.request(info, timeout_s=5)).payload:
        await asyncio.sleep(0.01)
    await contract.bus.request(subjects.js_consumer("DELETE", REQUESTS, name), timeout_s=5)
    await until(lambda: said)
    assert said == [b"NATS/1.0 409 Consumer Deleted\r\n\r\n"]
    assert queue.consumer.fetch(1, 5.0)
    await until(lambda: queue.unused)
    assert queue.unused == [0], "nobody listens for the fetches of a consumer that is gone"


async def test_a_fetch_that_finds_nothing_ends_with_a_408_that_says_what_is_left(contract: Contract) -> None:
    queue = await pulled(contract)
    said: list[bytes] = []
    inbox = contract.bus.inbox()
    contract.bus.subscribe(inbox, lambda _s, _r, headers, _p: said.append(headers))
    next_subject = subjects.js_consumer("MSG.NEXT", REQUESTS, queue.consumer.spec.name)
    contract.bus.publish(next_subject, b'{"batch":7,"expires":100000000}', reply=inbox)
    await until(lambda: said)
    assert said == [
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\nNats-Pending-Bytes: 0\r\n\r\n"
    ]
    contract.bus.publish(next_subject, b'{"batch":7,"no_wait":true}', reply=inbox)
    await until(lambda: len(said) == 2)
    assert said[1] == b"NATS/1.0 404 No Messages\r\n\r\n"


async def test_a_second_consumer_for_the_same_messages_is_refused(contract: Contract) -> None:
    await pulled(contract)
    twin = spec()
    config = {**twin.config, "durable_name": "twin", "filter_subject": subjects.REQUESTS_ALL}
    with pytest.raises(BrokerRefused, match="10100"):
        await contract.js.ensure_consumer(ConsumerSpec(REQUESTS, "twin", config))


async def test_after_a_kill_unsettled_messages_come_back_and_old_ack_subjects_work(
    contract: Contract, own_broker: AnyBroker
) -> None:
    queue = await pulled(contract, spec(ack_wait_s=2 * ACK_WAIT_S))
    for number in range(3):
        await contract.request(rid(number))
    first = [await queue.next() for _ in range(3)]
    assert await answer(contract, first[0].ack, b"+ACK") is not None
    await asyncio.sleep(WRITTEN_S)
    await restart(own_broker, contract.bus)
    assert await depth(contract) == 2
    again = [await queue.next() for _ in range(2)]
    assert [numbers(delivery) for delivery in again] == [(rid(1), 2), (rid(2), 2)]
    for delivery in first:
        contract.js.ack(delivery.ack)
    await queue.nothing(0.1)
    async with asyncio.timeout(5):
        while await depth(contract):
            await asyncio.sleep(0.01)


async def test_a_kill_rounds_the_ack_wait_down_by_up_to_a_second(
    contract: Contract, own_broker: AnyBroker
) -> None:
    """Whoever holds a delivery must not count on the last second of its ack wait."""
    ack_wait_s = 3.5
    queue = await pulled(contract, spec(ack_wait_s=ack_wait_s))
    for number in range(TRIES):
        await contract.request(rid(number))
        asked_at = time.time()
        await queue.next()
        delivered_at = time.time()
        await asyncio.sleep(WRITTEN_S)
        await restart(own_broker, contract.bus)
        again = await queue.next()
        came_at = time.time()
        assert numbers(again) == (rid(number), 2)
        assert came_at > int(asked_at) + ack_wait_s - 0.1
        if came_at < int(delivered_at) + ack_wait_s + 0.6:  # later only where the machine paused
            break
        contract.js.ack(again.ack)
    assert came_at < int(delivered_at) + ack_wait_s + 0.6


async def test_a_paused_broker_answers_late_and_what_it_was_told_holds(
    contract: Contract, own_broker: AnyBroker
) -> None:
    """An unanswered publish may be stored: unknown is not the same as no."""
    subject = subjects.request("standard", contract.model, contract.tenant, rid(0))
    with paused(own_broker):
        with pytest.raises(BrokerAway):
            await contract.js.publish(subject, b"{}", timeout_s=0.3)
        assert contract.bus.connected
    # Polled: a stream of the real server stores side by side with the answers about it.
    async with asyncio.timeout(5):
        while await depth(contract) != 1:
            await asyncio.sleep(0.01)


async def test_a_fetch_open_at_a_pause_is_served_after_it(contract: Contract, own_broker: AnyBroker) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    with paused(own_broker):
        queue.consumer.fetch(1, 5.0)
        await asyncio.sleep(0.2)
        assert not queue.deliveries
    await until(lambda: queue.deliveries)
