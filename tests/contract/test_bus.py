"""The connection: what the subclass of the client library's client must keep doing, and what it adds."""

from __future__ import annotations

import asyncio

import pytest

from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import SERVICE_UNAVAILABLE, JetStream
from infra.kv import KeyValue
from infra.wire import encode_headers, header_value, status_of
from schemas.errors import BrokerAway, BrokerRefused, StreamMismatch
from schemas.streams import StreamSpec, requests_stream
from tests.contract.protocol import AnyBroker, Contract, until


async def test_what_is_published_after_a_subscribe_is_seen(contract: Contract) -> None:
    seen: list[tuple[str, str, bytes, bytes]] = []
    contract.bus.subscribe("a.*", lambda *message: seen.append(message))
    headers = encode_headers({"Name": "välue"})
    assert contract.bus.publish("a.b", b"1", headers=headers, reply="back")
    assert contract.bus.publish("a.c")
    await until(lambda: len(seen) == 2)
    assert seen == [("a.b", "back", headers, b"1"), ("a.c", "", b"", b"")]
    assert header_value(seen[0][2], b"Name") == "välue".encode()


async def test_a_closed_subscription_sees_nothing_more(contract: Contract) -> None:
    seen: list[str] = []
    first = contract.bus.subscribe("a.*", lambda subject, *_: seen.append("first " + subject))
    contract.bus.subscribe("a.*", lambda subject, *_: seen.append("second " + subject))
    first.close()
    contract.bus.publish("a.b")
    await until(lambda: seen)
    assert seen == ["second a.b"]


async def test_a_request_to_nobody_answers_503_at_once(contract: Contract) -> None:
    reply = await contract.bus.request("nobody.here", timeout_s=5)
    assert status_of(reply.headers) == SERVICE_UNAVAILABLE
    assert (await contract.js.publish("no.stream.here", b"")).err_code == SERVICE_UNAVAILABLE


async def test_an_unanswered_request_is_broker_away(contract: Contract) -> None:
    contract.bus.subscribe("silent", lambda *_: None)
    with pytest.raises(BrokerAway, match="silent"):
        await contract.bus.request("silent", timeout_s=0.05)


async def test_a_forgotten_call_is_not_answered(contract: Contract) -> None:
    answers: list[bytes] = []

    def echo(_subject: str, reply: str, _headers: bytes, payload: bytes) -> None:
        contract.bus.publish(reply, payload)

    contract.bus.subscribe("echo", echo)
    token = contract.bus.call("echo", b"forgotten", lambda _h, data: answers.append(data))
    contract.bus.forget(token)
    contract.bus.call("echo", b"wanted", lambda _h, data: answers.append(data))
    await until(lambda: answers)
    assert answers == [b"wanted"]


async def test_large_messages_arrive_whole_and_in_order(contract: Contract) -> None:
    seen: list[bytes] = []
    contract.bus.subscribe("large", lambda _s, _r, _h, data: seen.append(data))
    bodies = [bytes([number]) * size for number, size in enumerate((1, 100_000, 0, 5_000_000, 70_000))]
    for body in bodies:
        contract.bus.publish("large", body)
    await until(lambda: len(seen) == len(bodies))
    assert seen == bodies
    assert contract.bus.max_payload >= 8_000_000


async def test_a_killed_broker_is_reconnected_to_and_subscriptions_live_on(
    contract: Contract, own_broker: Broker
) -> None:
    states: list[bool] = []
    seen: list[bytes] = []
    contract.bus.on_state(states.append)
    contract.bus.subscribe("a", lambda _s, _r, _h, data: seen.append(data))
    await contract.request("q" * 20)
    own_broker.kill()
    await until(lambda: states == [False])
    assert not contract.bus.connected
    assert contract.bus.connected_since is None
    assert not contract.bus.publish("a", b"lost"), "nothing is buffered for a dead connection"
    assert contract.bus.call("a", b"lost", lambda *_: None) == 0
    contract.bus.subscribe("b", lambda _s, _r, _h, data: seen.append(data))
    with pytest.raises(BrokerAway):
        await contract.bus.request("a", timeout_s=0.1)
    await asyncio.to_thread(own_broker.start)
    await until(lambda: states == [False, True])
    assert contract.bus.publish("a", b"1")
    assert contract.bus.publish("b", b"2")
    await until(lambda: len(seen) == 2)
    assert seen == [b"1", b"2"]
    assert await contract.js.queue_depth("REQUESTS") == 1, "what was acknowledged survived kill -9"


async def test_streams_are_compared_and_a_difference_is_refused(contract: Contract) -> None:
    await contract.streams()
    with pytest.raises(StreamMismatch, match="max_msgs is 3 on the server, 4 in the settings"):
        await contract.js.ensure_stream(requests_stream(queue_max=4, queue_bytes_max=1 << 20))


async def test_an_api_error_outside_the_protocol_is_refused_by_name(contract: Contract) -> None:
    with pytest.raises(BrokerRefused, match="stream not found"):
        await contract.js.queue_depth("NOWHERE")
    assert not await contract.js.exists("NOWHERE")
    assert await contract.js.exists("REQUESTS")


async def test_a_bucket_compares_and_sets(contract: Contract) -> None:
    bucket = await KeyValue.open(contract.js, "things")
    assert await bucket.get("a") is None
    first = await bucket.create("a", b"1")
    assert first is not None
    assert await bucket.create("a", b"2") is None
    assert await bucket.update("a", b"2", first + 7) is None
    second = await bucket.update("a", b"2", first)
    assert second is not None
    assert await bucket.get("a") == (b"2", second)
    assert not await bucket.delete("a", first)
    await bucket.put("b", b"3")
    assert await bucket.items() == {"a": b"2", "b": b"3"}
    assert await bucket.delete("a", second)
    assert await bucket.get("a") is None
    assert await bucket.items() == {"b": b"3"}
    assert await bucket.create("a", b"4") is not None, "a deleted key can be created again"


async def test_a_buckets_values_expire(contract: Contract) -> None:
    bucket = await KeyValue.open(contract.js, "leases", ttl_s=2.0)
    assert await bucket.create("leader", b"a") is not None
    assert await bucket.create("leader", b"b") is None
    for _ in range(500):
        if await bucket.create("leader", b"b") is not None:
            break
        await asyncio.sleep(0.01)
    assert await bucket.get("leader") is not None


async def test_replies_to_a_dead_connection_are_not_mixed_up(contract: Contract, own_broker: Broker) -> None:
    second = await Bus.connect(own_broker.url, name="second", fail=print)
    js = JetStream(second)
    depths = await asyncio.gather(
        *(js.queue_depth("REQUESTS") for _ in range(50)), contract.request("q" * 20)
    )
    assert set(depths[:-1]) <= {0, 1}
    await second.close()
    assert not second.connected


async def test_a_callback_that_raises_ends_the_process_instead_of_leaving_it_deaf(own_broker: Broker) -> None:
    failures: list[Exception] = []
    bus = await Bus.connect(own_broker.url, name="crash", fail=failures.append)

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    bus.subscribe("a", crash)
    bus.publish("a")
    await until(lambda: failures)
    assert isinstance(failures[0], ZeroDivisionError)
    await bus.close()


async def test_a_state_callback_that_raises_is_the_event_loops_and_stops_no_reconnect(
    contract: Contract, own_broker: Broker
) -> None:
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: raised.append(what["exception"]))

    def crash(_connected: bool) -> None:
        raise ZeroDivisionError

    contract.bus.on_state(crash)
    own_broker.kill()
    await asyncio.to_thread(own_broker.start)
    await until(lambda: len(raised) == 2)
    assert contract.bus.connected


async def test_a_subject_that_is_no_text_is_a_subject_of_nobody(contract: Contract) -> None:
    seen: list[str] = []
    contract.bus.subscribe("a.*", lambda subject, *_: seen.append(subject))
    contract.bus._client.cork(b"PUB a.\xff\xfe 0\r\n\r\n")
    await until(lambda: seen)
    assert seen == ["a.\ufffd\ufffd"]


async def test_a_request_under_way_fails_with_the_connection(contract: Contract, own_broker: Broker) -> None:
    contract.bus.subscribe("silent", lambda *_: None)
    asking = asyncio.create_task(contract.bus.request("silent", timeout_s=60))
    await asyncio.sleep(0)
    own_broker.kill()
    with pytest.raises(BrokerAway, match="disconnected"):
        await asking


async def test_a_connection_closed_for_good_ends_the_process(own_broker: Broker) -> None:
    failures: list[Exception] = []
    bus = await Bus.connect(own_broker.url, name="closed", fail=failures.append)
    bus.publish("a" * 5000)  # longer than a control line: the server closes the connection
    await until(lambda: failures)
    assert isinstance(failures[0], BrokerAway)


async def test_two_creators_of_one_stream_meet_in_it(contract: Contract, own_broker: Broker) -> None:
    other = await Bus.connect(own_broker.url, name="other", fail=print)

    def spec(first_seq: int) -> StreamSpec:
        config = {"name": "RACE", "subjects": ["race.>"], "storage": "file", "first_seq": first_seq}
        return StreamSpec("RACE", config)

    await asyncio.gather(
        *(js.ensure_stream(spec(n)) for n, js in enumerate([contract.js, JetStream(other)] * 5, start=1))
    )
    assert await contract.js.exists("RACE")
    await other.close()


async def test_a_bus_visits_another_broker_and_goes_there(own_broker: AnyBroker, broker: Broker) -> None:
    failures: list[Exception] = []
    bus = await Bus.connect(f"{own_broker.url},{broker.url}", name="contract", fail=failures.append)
    since = bus.connected_since
    (other,) = bus.others
    assert other in (own_broker.url, broker.url)
    async with bus.visit(other) as visitor:
        assert visitor.others == []
        assert status_of((await visitor.request("nobody.here", timeout_s=5)).headers) == SERVICE_UNAVAILABLE
    assert not visitor.connected
    assert (bus.others, bus.connected_since) == ([other], since), "it is still where it was"
    await bus.leave()
    await until(lambda: bus.connected_since not in (None, since))
    (left,) = bus.others
    assert {left, other} == {own_broker.url, broker.url}
    await bus.close()
    assert not failures


async def test_a_visit_to_nobody_can_be_given_up(contract: Contract, free_port: int) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), contract.bus.visit(f"nats://127.0.0.1:{free_port}"):
            pytest.fail("nobody listens there")
    assert asyncio.all_tasks() == before
    assert contract.bus.connected
