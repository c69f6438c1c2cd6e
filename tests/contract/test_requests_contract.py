"""What the design leans on in REQUESTS: one message per request, a bounded queue, acks from anywhere."""

from __future__ import annotations

import asyncio

from infra.broker import Broker
from infra.bus import Bus
from infra.consumers import Consumer, Delivered
from infra.jetstream import FULL, JetStream
from infra.wire import encode_headers
from schemas import subjects
from schemas.ids import ModelKey
from schemas.requests import MSG_ID
from schemas.streams import REQUESTS, ConsumerSpec, requests_consumer
from tests.contract.protocol import Contract, progress_until, until

ACK_WAIT_S = 1.0
TRIES = 5


def rid(number: int) -> str:
    return f"{number:020d}"


def spec(ack_wait_s: float = 30.0) -> ConsumerSpec:
    return requests_consumer("standard", ModelKey(Contract.model), ack_wait_s=ack_wait_s, queue_max=3)


class Pulled:
    """A consumer whose deliveries and ends are kept."""

    def __init__(self, js: JetStream, consumer: ConsumerSpec) -> None:
        self.deliveries: list[Delivered] = []
        self.unused: list[int] = []
        self.consumer: Consumer = js.consume(consumer, self.deliveries.append, self.unused.append)

    async def next(self) -> Delivered:
        seen = len(self.deliveries)
        assert self.consumer.fetch(1, 5.0)
        await until(lambda: len(self.deliveries) > seen)
        return self.deliveries[-1]


async def pulled(contract: Contract, ack_wait_s: float = 30.0) -> Pulled:
    await contract.js.ensure_consumer(spec(ack_wait_s))
    return Pulled(contract.js, spec(ack_wait_s))


async def depth(contract: Contract) -> int:
    return await contract.js.queue_depth(REQUESTS)


async def test_a_full_queue_answers_10077_and_takes_again_when_there_is_room(contract: Contract) -> None:
    queue = await pulled(contract)
    for number in range(3):
        assert (await contract.request(rid(number))).stored
    assert (await contract.request(rid(3))).err_code == FULL
    contract.js.ack((await queue.next()).ack)
    await until_depth(contract, 2)
    assert (await contract.request(rid(3))).stored


async def test_a_refused_id_is_not_remembered_as_a_duplicate(contract: Contract) -> None:
    for number in range(3):
        await contract.request(rid(number))
    headers = encode_headers({MSG_ID: f"public.{rid(9)}"})
    assert (await contract.request(rid(9), headers=headers)).err_code == FULL
    stored = await contract.js.last(REQUESTS, subjects.request_of_any_model("public", rid(0)))
    assert stored is not None
    await contract.js.delete(REQUESTS, stored.seq)
    retry = await contract.request(rid(9), headers=headers)
    assert retry.stored
    assert not retry.duplicate


async def test_a_repeated_publish_with_its_id_is_a_duplicate_and_without_it_is_refused(
    contract: Contract,
) -> None:
    headers = encode_headers({MSG_ID: f"public.{rid(0)}"})
    first = await contract.request(rid(0), headers=headers)
    again = await contract.request(rid(0), headers=headers)
    assert again.stored
    assert again.duplicate
    assert again.seq == first.seq
    # Past the duplicate window, or after a restart, only the subject tells: the same 10077 as a full queue.
    unknown = await contract.request(rid(0))
    assert unknown.err_code == FULL
    assert "per subject" in unknown.description
    assert await depth(contract) == 1


async def test_a_queued_request_is_found_by_its_subject_and_a_missing_one_is_not(contract: Contract) -> None:
    stored = await contract.request(rid(0), b'{"prompt":"x"}')
    subject = subjects.request("standard", contract.model, contract.tenant, rid(0))
    found = await contract.js.last(REQUESTS, subject)
    assert found is not None
    assert (found.seq, found.payload) == (stored.seq, b'{"prompt":"x"}')
    assert await contract.js.last(REQUESTS, subjects.request_of_any_model("public", rid(0))) == found
    assert await contract.js.last(REQUESTS, subjects.request_of_any_model("public", rid(1))) is None


async def test_an_undelivered_request_is_deleted_by_sequence_and_never_delivered(contract: Contract) -> None:
    queue = await pulled(contract)
    gone, kept = await contract.request(rid(0)), await contract.request(rid(1))
    assert await contract.js.delete(REQUESTS, gone.seq)
    assert not await contract.js.delete(REQUESTS, gone.seq), "it was gone already"
    assert (await queue.next()).subject.endswith(rid(1))
    assert kept.stored
    assert await depth(contract) == 1


async def test_an_ack_pending_request_is_deleted_by_sequence_and_not_redelivered(contract: Contract) -> None:
    queue = await pulled(contract, ACK_WAIT_S)
    stored = await contract.request(rid(0))
    delivery = await queue.next()
    assert await contract.js.delete(REQUESTS, stored.seq)
    assert await depth(contract) == 0
    queue.consumer.fetch(1, 3 * ACK_WAIT_S)
    await until(lambda: queue.unused, 6 * ACK_WAIT_S)
    assert queue.deliveries == [delivery], "not again past its ack wait"
    contract.js.ack(delivery.ack)  # a late ack of it harms nobody
    assert (await contract.request(rid(0))).stored, "and the rid's place is free"


async def test_a_running_request_keeps_its_place_in_the_queue(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    await queue.next()
    assert (await contract.request(rid(0))).err_code == FULL, "the subject is taken until it is settled"


async def test_a_stale_ack_of_another_connection_settles_the_message(
    contract: Contract, own_broker: Broker
) -> None:
    """Why a worker acks only after its own END is stored, or on finding one."""
    queue = await pulled(contract)
    await contract.request(rid(0))
    first = await queue.next()
    contract.js.nak(first.ack)
    second = await queue.next()
    before, after = subjects.parse_ack(first.ack), subjects.parse_ack(second.ack)
    assert before is not None
    assert after == before._replace(delivered=2), "one message, delivered twice"
    zombie = await Bus.connect(own_broker.url, name="zombie", fail=print)
    JetStream(zombie).ack(first.ack)
    await until_depth(contract, 0)
    await zombie.close()


async def test_a_delivery_not_settled_comes_back_after_the_ack_wait_and_progress_delays_that(
    contract: Contract,
) -> None:
    queue = await pulled(contract, ACK_WAIT_S)
    for number in range(TRIES):
        await contract.request(rid(number))
        first = await queue.next()
        before = len(queue.deliveries), len(queue.unused)
        queue.consumer.fetch(1, 1.5 * ACK_WAIT_S)
        silent_s = await progress_until(
            contract,
            first.ack,
            lambda before=before: (len(queue.deliveries), len(queue.unused)) != before,  # type: ignore[misc]
        )
        if silent_s < 0.8 * ACK_WAIT_S:
            break
        contract.js.ack(first.ack)
    assert queue.unused, "the fetch ended empty although the ack wait had passed meanwhile"
    assert queue.deliveries[-1] == first
    second = await queue.next()
    found = subjects.parse_ack(second.ack)
    assert found
    assert found.delivered == 2


async def test_a_nak_is_delivered_again_at_once(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    contract.js.nak((await queue.next()).ack)
    again = subjects.parse_ack((await queue.next()).ack)
    assert again
    assert again.delivered == 2


async def test_a_delivery_carries_headers_and_body_as_published(contract: Contract) -> None:
    queue = await pulled(contract)
    body = bytes(range(256))
    await contract.request(rid(0), body, headers=encode_headers({"Penstock-Max-Tokens": "64"}))
    delivery = await queue.next()
    assert delivery.payload == body
    assert b"Penstock-Max-Tokens: 64\r\n" in delivery.headers
    assert subjects.parse_request(delivery.subject) == ("standard", "m", "public", rid(0))


async def test_a_fetch_that_ends_says_how_much_credit_is_unused(contract: Contract) -> None:
    queue = await pulled(contract)
    await contract.request(rid(0))
    assert queue.consumer.fetch(5, 0.3)
    await until(lambda: queue.unused)
    assert len(queue.deliveries) == 1
    assert queue.unused == [4]


async def test_a_closed_consumers_open_fetch_takes_nothing(contract: Contract) -> None:
    """A scheduler that stops leading: what it would still get goes to the next leader, undelivered."""
    old = await pulled(contract)
    assert old.consumer.fetch(100, 5.0)
    old.consumer.close()
    await contract.request(rid(0))
    delivery = subjects.parse_ack((await Pulled(contract.js, spec()).next()).ack)
    assert delivery is not None
    assert delivery.delivered == 1
    assert not old.deliveries


async def test_what_is_queued_can_be_counted_by_subject(contract: Contract) -> None:
    """The look of the quotas at what direct publishers have queued."""
    assert await contract.js.counts_by_subject(REQUESTS, subjects.REQUESTS_ALL) == {}
    for number in range(2):
        await contract.request(rid(number))
    wanted = {subjects.request("standard", Contract.model, Contract.tenant, rid(one)): 1 for one in range(2)}
    assert await contract.js.counts_by_subject(REQUESTS, subjects.REQUESTS_ALL) == wanted
    assert await contract.js.counts_by_subject(REQUESTS, next(iter(wanted))) == dict(
        [next(iter(wanted.items()))]
    )


async def until_depth(contract: Contract, wanted: int) -> None:
    for _ in range(500):
        if await depth(contract) == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"depth is {await depth(contract)}, not {wanted}")
