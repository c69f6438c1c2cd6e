"""What nats-server's counters do, since the rate limits stand on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from infra.bus import Bus
from infra.counters import Counters
from infra.jetstream import JetStream
from infra.wire import encode_headers
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.streams import NS_PER_S, RATES, StreamSpec, rates_stream
from tests.contract.protocol import AnyBroker

A, B = subjects.rate("a"), subjects.rate("b")


@pytest.fixture
async def js(own_broker: AnyBroker) -> AsyncIterator[JetStream]:
    bus = await Bus.connect(own_broker.url, name="contract", fail=print)
    yield JetStream(bus)
    await bus.close()


@pytest.fixture
async def counters(js: JetStream) -> Counters:
    await js.ensure_stream(rates_stream())
    await js.ensure_stream(rates_stream())
    return Counters(js, RATES, timeout_s=10)


async def say(js: JetStream, headers: dict[str, str], payload: bytes = b"") -> dict[str, Any]:
    told = encode_headers(headers) if headers else b""
    reply = await js.bus.request(A, payload, headers=told, timeout_s=10)
    answer: dict[str, Any] = msgspec.json.decode(reply.payload)
    return answer


async def test_the_server_adds_and_tells_the_sum(counters: Counters) -> None:
    assert await counters.read(A) == 0
    assert [await counters.add(A, amount) for amount in (1, 1, 40, -2, 0, -50)] == [1, 2, 42, 40, 40, -10]
    assert await counters.read(A) == -10
    assert await counters.read(B) == 0


async def test_many_at_once_get_each_sum_once(counters: Counters) -> None:
    sums = await asyncio.gather(*(counters.add(A, 1) for _ in range(1000)))
    assert sorted(sums) == list(range(1, 1001))


async def test_what_nobody_waits_for_counts_too(counters: Counters) -> None:
    assert counters.add_unheard(A, 5)
    assert await counters.add(A, 1) == 6, "in order with what follows on the connection"


async def test_only_the_newest_message_of_a_counter_is_kept(counters: Counters, js: JetStream) -> None:
    for _ in range(10):
        await counters.add(A, 1)
    await counters.add(B, 1)
    assert (await js.usage(RATES)).messages == 2
    assert await counters.forget_all() == 2
    assert await counters.read(A) == 0


async def test_a_counter_is_as_old_as_its_last_addition(js: JetStream) -> None:
    """So one that is still added to does not vanish in the middle of its window."""
    spec = rates_stream()
    await js.ensure_stream(StreamSpec(RATES, spec.config | {"max_age": NS_PER_S}))
    counters = Counters(js, RATES, timeout_s=10)
    begun = last = time.monotonic()
    sums: list[int] = []
    while time.monotonic() - begun < 1.5:
        asked = time.monotonic()
        sums.append(await counters.add(A, 1))
        if time.monotonic() - last > 0.9:  # the machine paused: the counter may have vanished in between
            begun, sums = asked, sums[-1:]
        last = asked
        await asyncio.sleep(0.2)
    assert sums == list(range(sums[0], sums[0] + len(sums)))
    last = time.monotonic()
    while await counters.read(A):
        assert time.monotonic() - last < 5
        await asyncio.sleep(0.02)
    assert await counters.add(A, 1) == 1


async def test_a_message_that_is_no_addition_is_refused(counters: Counters, js: JetStream) -> None:
    assert (await say(js, {}))["error"]["err_code"] == 10169
    assert (await say(js, {"Nats-Incr": "abc"}))["error"]["err_code"] == 10171
    assert (await say(js, {"Nats-Incr": "+1"}, b"body"))["error"]["err_code"] == 10170
    expecting = {"Nats-Incr": "+1", "Nats-Expected-Last-Subject-Sequence": "7"}
    assert (await say(js, expecting))["error"]["err_code"] == 10171
    assert await counters.read(A) == 0


async def test_a_repeat_of_an_id_tells_no_sum(counters: Counters, js: JetStream) -> None:
    """Why additions carry none: a retry could not learn what it was told the first time."""
    headers = {"Nats-Incr": "+1", "Nats-Msg-Id": "x"}
    assert (await say(js, headers))["val"] == "1"
    assert "val" not in await say(js, headers)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("discard", "new", "counter stream cannot use discard new"),
        ("retention", "workqueue", "counter stream can only use limits retention"),
        ("allow_msg_ttl", True, "counter stream cannot use message TTLs"),
    ],
)
async def test_what_a_stream_of_counters_cannot_have(
    js: JetStream, field: str, value: object, why: str
) -> None:
    spec = rates_stream()
    with pytest.raises(BrokerRefused, match=why):
        await js.ensure_stream(StreamSpec(RATES, spec.config | {field: value}))


async def test_without_the_stream_nobody_counts(js: JetStream) -> None:
    counters = Counters(js, RATES, timeout_s=10)
    with pytest.raises(BrokerAway):
        await counters.add(A, 1)
    with pytest.raises(BrokerAway):
        await counters.read(A)
