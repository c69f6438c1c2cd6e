"""Limits, compare-and-set, duplicates, ages, reads and restarts of streams, down to codes and texts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from infra.jetstream import FULL, SERVICE_UNAVAILABLE, WRONG_LAST, JetStream, PubAck, expect_headers
from infra.wire import encode_headers, header_value, parse_headers, status_of
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.requests import MSG_ID
from schemas.streams import NS_PER_S, OUTPUT, REQUESTS, StreamSpec
from tests.contract.protocol import OUTPUT_BYTES_MAX, AnyBroker, Contract, lease, restart, until

RID = "r" * 20
MISSING_SEQUENCE = 10193


def rid(number: int) -> str:
    return f"{number:020d}"


def ctl(of: str = RID) -> str:
    return subjects.output_ctl("public", of)


def tok(of: str = RID) -> str:
    return subjects.output_tok("public", of)


def with_id(name: str) -> bytes:
    return encode_headers({MSG_ID: name})


def expecting(sequence: str, on: str = "") -> bytes:
    """Expectation headers, also such as no builder of ours makes."""
    headers = {"Nats-Expected-Last-Subject-Sequence": sequence} if sequence else {}
    return encode_headers(headers | ({"Nats-Expected-Last-Subject-Sequence-Subject": on} if on else {}))


async def small(js: JetStream, name: str, **config: Any) -> StreamSpec:
    """A stream of its own on `<name>.>`."""
    spec = StreamSpec(name, {"name": name, "subjects": [f"{name}.>"], "allow_direct": True, **config})
    await js.ensure_stream(spec)
    return spec


# Compare-and-set.


async def test_a_refused_expectation_says_the_last_sequence_in_words(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    refused = await contract.ctl(RID, lease(), 0)
    assert refused == PubAck(err_code=WRONG_LAST, description=f"wrong last sequence: {own.seq}")
    empty = await contract.js.publish(tok(), b"x", headers=expect_headers(7))
    assert empty == PubAck(err_code=WRONG_LAST, description="wrong last sequence: 0")
    garbage = await contract.js.publish(ctl(), b"x", headers=expecting("abc"))
    assert garbage.last_seq == own.seq


async def test_an_expectation_on_another_subject_needs_no_message_there_nor_a_stream(
    contract: Contract,
) -> None:
    other = subjects.output_ctl("public", "s" * 20)
    assert (await contract.js.publish(tok(), b"x", headers=expecting("0", other))).stored
    assert (await contract.js.publish(tok(), b"x", headers=expecting("0", "elsewhere"))).stored
    refused = await contract.js.publish(tok(), b"x", headers=expecting("1", other))
    assert refused.last_seq == 0


async def test_an_expectation_on_a_wildcard_means_the_newest_message_it_covers(contract: Contract) -> None:
    await contract.ctl(RID, lease(), 0)
    newest = await contract.js.publish(tok(), b"x")
    log = subjects.output_log("public", RID)
    assert (await contract.js.publish(ctl("s" * 20), b"x", headers=expecting(str(newest.seq), log))).stored
    stale = await contract.js.publish(ctl("s" * 20), b"x", headers=expecting(str(newest.seq - 1), log))
    assert stale.last_seq == newest.seq


async def test_a_subject_without_a_sequence_is_an_error_of_its_own(contract: Contract) -> None:
    refused = await contract.js.publish(tok(), b"x", headers=expecting("", ctl()))
    assert refused.err_code == MISSING_SEQUENCE


# Limits.


async def test_each_limit_is_refused_in_its_own_words(contract: Contract) -> None:
    for number in range(3):
        assert (await contract.request(rid(number))).stored
    full = await contract.request(rid(3))
    assert full == PubAck(err_code=FULL, description="maximum messages exceeded")
    taken = await contract.request(rid(0))
    assert taken == PubAck(err_code=FULL, description="maximum messages per subject exceeded")
    large = await contract.js.publish(tok(), b"x" * OUTPUT_BYTES_MAX)
    assert large == PubAck(err_code=FULL, description="maximum bytes exceeded")


async def test_duplicates_are_told_also_while_the_queue_is_full(contract: Contract) -> None:
    first = await contract.request(rid(0), headers=with_id("a"))
    for number in (1, 2):
        await contract.request(rid(number))
    assert (await contract.request(rid(3))).err_code == FULL
    assert await contract.request(rid(0), headers=with_id("a")) == PubAck(first.seq, duplicate=True)


async def test_a_stale_expectation_is_told_before_fullness_and_before_a_duplicate(contract: Contract) -> None:
    headers = with_id("a")[:-2] + expect_headers(0).partition(b"\r\n")[2]
    first = await contract.js.publish(ctl(), b"x", headers=headers)
    assert first.stored
    assert (await contract.js.publish(ctl(), b"x", headers=headers)).last_seq == first.seq
    large = await contract.js.publish(ctl(), b"x" * OUTPUT_BYTES_MAX, headers=expect_headers(0))
    assert large.last_seq == first.seq


@pytest.mark.parametrize(
    ("storage", "plain_overhead", "header_overhead"), [("file", 30, 34), ("memory", 16, 16)]
)
async def test_what_a_message_counts_besides_its_own_bytes(
    contract: Contract, storage: str, plain_overhead: int, header_overhead: int
) -> None:
    await small(contract.js, "counted", storage=storage)
    headers = encode_headers({"A": "1"})
    await contract.js.publish("counted.a", b"12345")
    await contract.js.publish("counted.a", b"12345", headers=headers)
    reply = await contract.bus.request(subjects.js_stream("INFO", "counted"), timeout_s=5)
    own_bytes = 2 * len("counted.a" + "12345") + len(headers)
    state = msgspec.json.decode(reply.payload)["state"]
    assert state["bytes"] == own_bytes + plain_overhead + header_overhead


async def test_only_the_newest_of_a_subject_is_kept_where_old_ones_give_way(contract: Contract) -> None:
    await small(contract.js, "newest", max_msgs_per_subject=1)
    await contract.js.publish("newest.a", b"1")
    await contract.js.publish("newest.b", b"2")
    await contract.js.publish("newest.a", b"3")
    assert [one.payload for one in await contract.js.read("newest", "newest.>")] == [b"2", b"3"]
    await small(contract.js, "few", max_msgs=2)
    for number in range(4):
        await contract.js.publish(f"few.{number}", b"%d" % number)
    assert [one.payload for one in await contract.js.read("few", "few.>")] == [b"2", b"3"]


# Duplicates.


async def test_a_message_id_belongs_to_the_stream_not_to_the_subject(contract: Contract) -> None:
    first = await contract.request(rid(0), headers=with_id("same"))
    other = await contract.request(rid(1), headers=with_id("same"))
    assert other == PubAck(first.seq, duplicate=True)


async def test_past_the_duplicate_window_an_id_is_new(contract: Contract) -> None:
    await small(contract.js, "known", duplicate_window=2 * NS_PER_S)
    first = await contract.js.publish("known.a", b"x", headers=with_id("a"))
    assert (await contract.js.publish("known.a", b"x", headers=with_id("a"))).duplicate
    await asyncio.sleep(2.0)  # the window
    for _ in range(500):
        again = await contract.js.publish("known.a", b"x", headers=with_id("a"))
        if not again.duplicate:
            break
        await asyncio.sleep(0.02)
    assert again.seq == first.seq + 1


async def test_a_restart_forgets_the_ids_of_messages_that_are_gone(
    contract: Contract, own_broker: AnyBroker
) -> None:
    """Why a client's retry is checked against the log, not only against the duplicate window."""
    waiting = await contract.request(rid(0), headers=with_id("waiting"))
    done = await contract.request(rid(1), headers=with_id("done"))
    assert await contract.js.delete(REQUESTS, done.seq)
    assert (await contract.request(rid(1), headers=with_id("done"))).duplicate
    await restart(own_broker, contract.bus)
    assert await contract.request(rid(0), headers=with_id("waiting")) == PubAck(waiting.seq, duplicate=True)
    again = await contract.request(rid(1), headers=with_id("done"))
    assert again == PubAck(done.seq + 1), "accepted as new, after every sequence that was ever given"


# Restarts and ages.


async def test_a_restart_keeps_files_and_loses_memory_with_its_config(
    contract: Contract, own_broker: AnyBroker
) -> None:
    await small(contract.js, "memory", storage="memory")
    own = await contract.ctl(RID, lease(), 0)
    await restart(own_broker, contract.bus)
    assert not await contract.js.exists("memory")
    assert (await contract.js.publish("memory.a", b"x")).err_code == SERVICE_UNAVAILABLE
    assert (await contract.tok(RID, own.seq, 0)).seq == own.seq + 1


async def test_what_is_too_old_is_gone_and_its_subject_can_be_leased_anew(contract: Contract) -> None:
    """Why OUTPUT keeps its messages for longer than any request runs."""
    await small(contract.js, "aged", max_age=2 * NS_PER_S, duplicate_window=NS_PER_S)
    first = await contract.js.publish("aged.a", b"x")
    assert (await contract.js.publish("aged.a", b"y", headers=expect_headers(0))).err_code == WRONG_LAST
    for _ in range(500):
        if await contract.js.last("aged", "aged.a") is None:
            break
        await asyncio.sleep(0.01)
    fenced = await contract.js.publish("aged.a", b"z", headers=expect_headers(first.seq))
    assert fenced == PubAck(err_code=WRONG_LAST, description="wrong last sequence: 0")
    assert await contract.js.publish("aged.a", b"z", headers=expect_headers(0)) == PubAck(first.seq + 1)


async def test_every_message_has_its_own_age(contract: Contract) -> None:
    await small(contract.js, "aged", max_age=NS_PER_S, duplicate_window=NS_PER_S)
    for payload in (b"1", b"2", b"3"):
        asked_at = time.monotonic()
        await contract.js.publish("aged.a", payload)
        while await contract.js.last("aged", "aged.a") is not None:
            assert time.monotonic() - asked_at < 5
            await asyncio.sleep(0.01)
        assert time.monotonic() - asked_at > 0.95


# Reads and live copies.


async def test_the_newest_message_under_a_wildcard_is_found(contract: Contract) -> None:
    await contract.ctl(RID, lease(), 0)
    newest = await contract.js.publish(tok(), b"newest")
    await contract.js.publish(ctl("s" * 20), b"of another")
    found = await contract.js.last(OUTPUT, subjects.output_log("public", RID))
    assert found is not None
    assert (found.seq, found.subject, found.payload) == (newest.seq, tok(), b"newest")
    everything = await contract.js.last(OUTPUT, subjects.OUTPUT_ALL)
    assert everything is not None
    assert everything.payload == b"of another"


async def test_a_direct_get_says_how_many_are_left_and_where_it_ended(contract: Contract) -> None:
    stored = [await contract.js.publish(tok(), b"%d" % number) for number in range(3)]
    await contract.js.publish(tok("s" * 20), b"of another")
    said: list[tuple[bytes, bytes]] = []
    inbox = contract.bus.inbox()
    contract.bus.subscribe(inbox, lambda _s, _r, headers, payload: said.append((headers, payload)))

    async def get(**query: Any) -> list[tuple[bytes, bytes]]:
        said.clear()
        contract.bus.publish(subjects.js_direct_get(OUTPUT), msgspec.json.encode(query), reply=inbox)
        await until(lambda: said and (status_of(said[-1][0]) or "batch" not in query))
        return list(said)

    one, two, end = await get(seq=1, batch=2, next_by_subj=tok())
    assert parse_headers(one[0]) | {"Nats-Time-Stamp": ""} == {
        "Nats-Stream": OUTPUT,
        "Nats-Subject": tok(),
        "Nats-Sequence": str(stored[0].seq),
        "Nats-Time-Stamp": "",
        "Nats-Num-Pending": "2",
        "Nats-Last-Sequence": "0",
    }
    assert header_value(two[0], b"Nats-Last-Sequence") == b"%d" % stored[0].seq
    assert (one[1], two[1]) == (b"0", b"1")
    last = stored[1].seq
    assert end == (b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 1\r\nNats-Last-Sequence: %d\r\n\r\n" % last, b"")
    nothing = [(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")]
    assert await get(seq=stored[2].seq + 1, batch=2, next_by_subj=tok()) == nothing
    assert await get(last_by_subj=ctl()) == nothing
    assert [payload for _, payload in await get(last_by_subj=tok())] == [b"2"]
    assert [payload for _, payload in await get(seq=stored[1].seq)] == [b"1"]


async def test_what_was_deleted_is_not_read_any_more(contract: Contract) -> None:
    stored = [await contract.js.publish(tok(), b"%d" % number) for number in range(3)]
    assert await contract.js.delete(OUTPUT, stored[1].seq)
    assert not await contract.js.delete(OUTPUT, stored[1].seq)
    assert not await contract.js.delete(OUTPUT, stored[2].seq + 7), "a sequence that was never given"
    assert [one.payload for one in await contract.js.read(OUTPUT, tok())] == [b"0", b"2"]
    assert await contract.js.delete(OUTPUT, stored[2].seq)
    refused = await contract.js.publish(tok(), b"x", headers=expect_headers(stored[2].seq))
    assert refused.last_seq == stored[0].seq, "the expectation goes by what is left"
    assert (await contract.js.publish(tok(), b"x")).seq == stored[2].seq + 1, (
        "a sequence is never given twice"
    )


async def test_a_live_copy_says_where_it_is_stored_and_what_was_before_it(contract: Contract) -> None:
    live: list[tuple[str, bytes, bytes]] = []
    subject = subjects.live("public", RID)
    contract.bus.subscribe(subject, lambda one, _r, headers, payload: live.append((one, headers, payload)))
    own = await contract.ctl(RID, lease(), 0)
    first = await contract.tok(RID, own.seq, 0)
    second = await contract.js.publish(tok(), b"plain")
    await until(lambda: len(live) == 3)
    prefix = subject.removesuffix("*")
    assert [one for one, _, _ in live] == [prefix + "ctl", prefix + "tok", prefix + "tok"]
    assert parse_headers(live[1][1]) | {"Nats-Time-Stamp": ""} == {
        "Nats-Expected-Last-Subject-Sequence": str(own.seq),
        "Nats-Expected-Last-Subject-Sequence-Subject": ctl(),
        "Nats-Stream": OUTPUT,
        "Nats-Subject": tok(),
        "Nats-Sequence": str(first.seq),
        "Nats-Time-Stamp": "",
        "Nats-Last-Sequence": "0",
    }
    assert header_value(live[2][1], b"Nats-Sequence") == b"%d" % second.seq
    assert header_value(live[2][1], b"Nats-Last-Sequence") == b"%d" % first.seq
    stamp = header_value(live[2][1], b"Nats-Time-Stamp")
    read = (await contract.js.read(OUTPUT, tok()))[-1]
    assert stamp == header_value(read.headers, b"Nats-Time-Stamp")


# The API.


async def test_streams_that_do_not_fit_are_refused(contract: Contract) -> None:
    with pytest.raises(BrokerRefused, match="10065"):
        await small(contract.js, "overlap", subjects=["llm.v1.*.>"])
    with pytest.raises(BrokerRefused, match="10052"):
        await small(contract.js, "window", max_age=NS_PER_S, duplicate_window=2 * NS_PER_S)
    with pytest.raises(BrokerRefused, match="10025"):
        await small(contract.js, "unknown", surprise=True)
    spec = await small(contract.js, "first", first_seq=7)
    assert (await contract.js.publish("first.a", b"x")).seq == 7
    body = msgspec.json.encode({**spec.config, "first_seq": 8})
    reply = await contract.bus.request(subjects.js_stream("CREATE", "first"), body, timeout_s=5)
    assert msgspec.json.decode(reply.payload)["error"]["err_code"] == 10058


async def test_a_bucket_lets_nobody_delete_by_sequence(contract: Contract) -> None:
    await small(contract.js, "bucket", deny_delete=True)
    stored = await contract.js.publish("bucket.a", b"x")
    assert not await contract.js.delete("bucket", stored.seq)
    assert await contract.js.last("bucket", "bucket.a") is not None


async def test_a_read_without_direct_get_is_nobodys(contract: Contract) -> None:
    await small(contract.js, "leader", allow_direct=False)
    reply = await contract.bus.request(subjects.js_direct_get("leader"), b'{"seq":1}', timeout_s=5)
    assert status_of(reply.headers) == SERVICE_UNAVAILABLE


async def test_a_stream_that_is_not_there_leaves_everything_open(contract: Contract) -> None:
    """It may have been lost with the broker's memory and come back: "no such stream" says nothing of a message."""
    with pytest.raises(BrokerAway):
        await contract.js.last("GONE", ctl())
    with pytest.raises(BrokerAway):
        await contract.js.read("GONE", ctl())


async def test_clients_publish_to_streams_and_subscribers_alike(contract: Contract) -> None:
    seen: list[bytes] = []
    contract.bus.subscribe(subjects.OUTPUT_ALL, lambda _s, _r, _h, payload: seen.append(payload))
    assert (await contract.js.publish(tok(), b"x")).stored
    assert contract.bus.publish(tok(), b"without an answer")
    await until(lambda: seen == [b"x", b"without an answer"])
    assert [one.payload for one in await contract.js.read(OUTPUT, tok())] == seen
