"""What only the fake has: a life in given time, faults on demand, and evidence of what it stored.

How it treats messages is held against the real server by `tests/contract`.
"""

from __future__ import annotations

import msgspec
import pytest

from infra import wire
from infra.jetstream import IN_PROCESS, SERVICE_UNAVAILABLE, PubAck, decode_puback, expect_headers
from schemas import subjects
from schemas.requests import MSG_ID
from schemas.streams import OUTPUT, REQUESTS
from tests.unit.chaos.broker_world import CONSUMER_SPEC, Client, World, creation, fetch, with_streams

RID = "r" * 20
CTL = subjects.output_ctl("public", RID)
TOK = subjects.output_tok("public", RID)


def request_subject(number: int = 0) -> str:
    return subjects.request("standard", "m", "public", f"{number:020d}")


def stored(client: Client, subject: str, payload: bytes = b"x", headers: bytes = b"") -> PubAck | None:
    answer = client.request(subject, payload, headers=headers)
    return None if answer is None else decode_puback(*answer)


def delivered(client: Client) -> list[tuple[str, int]]:
    """(subject, how often delivered) of what consumers sent since the last look."""
    found = []
    for subject, reply, _, _ in client.messages():
        delivery = subjects.parse_ack(reply)
        if delivery is not None:
            found.append((subject, delivery.delivered))
    return found


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    client = Client(world)
    with_streams(client)
    return client


# Connections.


def test_a_client_is_greeted_at_once_and_refused_while_the_broker_is_down(world: World) -> None:
    greeting: list[bytes] = []
    world.broker.connect(greeting.append, lambda: None)
    info = msgspec.json.decode(greeting[0].removeprefix(b"INFO "))
    assert (info["headers"], info["jetstream"], info["max_payload"]) == (True, True, 8 << 20)
    world.broker.kill()
    assert not world.broker.up
    with pytest.raises(ConnectionRefusedError):
        world.broker.connect(greeting.append, lambda: None)
    world.broker.start()
    assert world.broker.up


def test_bytes_may_be_cut_anywhere(world: World) -> None:
    whole, cut = Client(World()), Client(world)
    sent = b"SUB a.* 2\r\nPUB b.c in.x 3\r\nn\r\n\r\nHPUB a.b 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\nPING\r\n"
    whole.feed(sent + b"UNSUB 2\r\n")
    expected = b"".join(whole.sent)
    assert expected.endswith(b"PONG\r\n")
    for at in range(len(sent)):
        cut.feed(sent[at : at + 1])
    assert b"".join(cut.sent) == expected
    large = b"PUB a.l 300000\r\n" + b"y" * 300_000 + b"\r\n"
    for at in range(0, len(large), 1000):
        cut.feed(large[at : at + 1000])
    assert [len(payload) for *_, payload in cut.messages()][-1] == 300_000


def test_a_silent_client_is_pinged_and_cut_off_after_15_s(world: World) -> None:
    silent, busy = Client(world), Client(world)
    for _ in range(16):
        world.advance(1)
        busy.feed(b"PONG\r\n")
    assert silent.is_closed
    assert b"".join(silent.sent).endswith(b"PING\r\nPING\r\n-ERR 'Stale Connection'\r\n")
    assert not busy.is_closed
    assert b"PING" not in b"".join(busy.sent)


def test_nothing_is_left_of_clients_that_are_gone(world: World) -> None:
    for _ in range(3):
        client = Client(world)
        client.feed(b"SUB a.> 2\r\nSUB a.*.* q 3\r\n")
        client.connection.closed()
        client.connection.closed()
        client.feed(b"PUB a.b 0\r\n\r\n")
    assert world.timers == 0
    other = Client(world)
    assert other.request("a.b.c") == (b"NATS/1.0 503\r\nNats-Subject: a.b.c\r\n\r\n", b"")


def test_a_client_that_answers_from_within_keeps_the_order(world: World) -> None:
    asker, seen = Client(world), []

    def answer(data: bytes) -> None:
        for number in range(data.count(b"MSG ask")):
            server.feed(b"PUB in.x 1\r\n%d\r\n" % number) if started else None

    started: list[bool] = []
    server = world.broker.connect(answer, lambda: None)
    started.append(True)
    server.feed(b'CONNECT {"verbose":false}\r\nSUB ask 1\r\n')
    asker.feed(b"PUB ask 0\r\n\r\nPUB ask 0\r\n\r\nPUB in.x 1\r\n!\r\n")
    seen = [payload for *_, payload in asker.messages()]
    assert seen == [b"!", b"0", b"1"]


# Killed, started, paused.


def test_a_kill_closes_every_connection_and_loses_memory_but_no_file(world: World) -> None:
    client = Client(world)
    with_streams(client, memory=True)
    removed: list[tuple[str, int, str]] = []
    world.broker.on_removed(lambda stream, seq, _subject, why: removed.append((stream, seq, why)))
    assert stored(client, request_subject())
    assert stored(client, CTL)
    world.broker.kill()
    assert client.is_closed
    assert removed == [(OUTPUT, 1000, "lost")]
    assert [one.subject for one in world.broker.messages(REQUESTS)] == [request_subject()]
    assert world.broker.messages(OUTPUT) == []
    assert world.timers == 0
    client.connection.closed()
    world.broker.start()
    again = Client(world)
    assert "error" in again.api(subjects.js_stream("INFO", OUTPUT))
    assert again.api(subjects.js_stream("INFO", REQUESTS))["state"]["messages"] == 1


def test_after_a_kill_unsettled_messages_come_back_when_their_ack_wait_is_over(
    world: World, client: Client
) -> None:
    stored(client, request_subject())
    fetch(client)
    assert delivered(client) == [(request_subject(), 1)]
    world.advance(4)
    world.broker.kill()
    world.broker.start()
    client = Client(world)
    fetch(client, expires_s=30)
    world.advance(5.5)
    assert delivered(client) == []
    world.advance(0.6)
    assert delivered(client) == [(request_subject(), 2)]


def test_a_kill_may_forget_what_was_delivered(world: World, client: Client) -> None:
    stored(client, request_subject())
    stored(client, request_subject(1))
    fetch(client, 2)
    acks = [reply for _, reply, _, _ in client.messages() if reply]
    client.publish(acks[0], b"+ACK")
    world.broker.kill(forget_delivered=True)
    world.broker.start()
    client = Client(world)
    fetch(client, 2)
    assert delivered(client) == [(request_subject(1), 1)], "at once, and counted from 1 again"
    client.publish(acks[1], b"+ACK")
    assert world.broker.messages(REQUESTS) == [], "the ack subject from before still counts"


def test_a_restart_remembers_ids_of_stored_messages_within_their_window_only(
    world: World, client: Client
) -> None:
    headers = wire.encode_headers({MSG_ID: "public.a"})
    first = stored(client, request_subject(), headers=headers)
    assert first is not None
    world.advance(100)
    world.broker.kill()
    world.broker.start()
    client = Client(world)
    assert stored(client, request_subject(), headers=headers) == PubAck(first.seq, duplicate=True)
    world.advance(30)
    client = Client(world)  # the other was silent for too long
    refused = stored(client, request_subject(), headers=headers)
    assert refused is not None
    assert not refused.stored, "past its window the id is unknown, and the subject is taken"


def test_a_paused_broker_keeps_everything_waiting_in_order(world: World, client: Client) -> None:
    fetch(client, expires_s=1)
    world.broker.pause()
    client.publish(CTL, b"1", reply="in.a")
    client.publish(CTL, b"2", reply="in.b")
    late: list[bytes] = []
    connection = world.broker.connect(late.append, lambda: None)
    connection.feed(b"PING\r\n")
    world.advance(3)
    assert client.sent == []
    assert late == []
    assert world.broker.messages(OUTPUT) == []
    world.broker.resume()
    assert [to for to, *_ in client.messages()] == ["in.a", "in.b", "in.fetch"], "the fetch was over long ago"
    assert [one.payload for one in world.broker.messages(OUTPUT)] == [b"1", b"2"]
    assert b"".join(late).startswith(b"INFO ")
    assert b"".join(late).endswith(b"PONG\r\n")
    assert world.broker.messages(OUTPUT)[0].stored_ns == int(world.time * 1e9), "stored when it was handled"


def test_a_kill_ends_a_pause_and_loses_what_waited(world: World, client: Client) -> None:
    world.broker.pause()
    client.publish(CTL, b"1", reply="in.a")
    world.broker.kill()
    world.broker.start()
    assert world.broker.messages(OUTPUT) == []
    assert decode_puback(*(Client(world).request(CTL, b"2") or (b"", b""))).stored


# Faults.


def test_a_lost_ack_is_of_a_stored_message(world: World, client: Client) -> None:
    world.faults.lose_ack = lambda subject: subject == CTL
    assert stored(client, CTL) is None
    assert stored(client, TOK) == PubAck(1001)
    assert [one.subject for one in world.broker.messages(OUTPUT)] == [CTL, TOK]
    refused = stored(client, CTL, headers=expect_headers(7))
    assert refused is not None
    assert refused.last_seq == 1000, "only acks of what was stored are lost"


def test_a_live_copy_is_lost_for_one_subscriber_and_stored_all_the_same(world: World, client: Client) -> None:
    other = Client(world)
    for one in (client, other):
        one.feed(b"SUB %b 2\r\n" % subjects.live("public", RID).encode())
    asked: list[str] = []

    def every_second(subject: str) -> bool:
        asked.append(subject)
        return len(asked) % 2 == 0

    world.faults.drop_live = every_second
    stored(client, CTL)
    live = subjects.live("public", RID).removesuffix("*") + "ctl"
    assert asked == [live, live]
    client.publish(CTL, b"second")
    assert [payload for subject, *_, payload in other.messages() if subject == live] == []
    assert [payload for subject, *_, payload in client.messages() if subject == live] == [b"second"]
    assert len(world.broker.messages(OUTPUT)) == 2


def test_a_publish_without_an_answer_can_be_lost(world: World, client: Client) -> None:
    world.faults.drop_publish = lambda _subject: True
    client.publish(CTL, b"lost")
    assert stored(client, CTL, b"asked for") is not None
    assert [one.payload for one in world.broker.messages(OUTPUT)] == [b"asked for"]


def test_a_busy_stream_stores_nothing_that_carries_an_expectation(world: World, client: Client) -> None:
    world.faults.busy = lambda _subject: True
    refused = stored(client, CTL, headers=expect_headers(0))
    assert refused is not None
    assert refused.err_code == IN_PROCESS
    assert stored(client, CTL) == PubAck(1000)


def test_while_a_stream_elects_a_leader_nobody_answers_for_it(world: World, client: Client) -> None:
    stored(client, request_subject())
    fetch(client)
    ack = next(reply for _, reply, _, _ in client.messages() if reply)
    fetch(client, 5, expires_s=60)
    world.faults.stream_unavailable_until[REQUESTS] = world.time + 6
    refused = stored(client, request_subject(1))
    assert refused is not None
    assert refused.err_code == SERVICE_UNAVAILABLE
    for subject in (subjects.js_stream("INFO", REQUESTS), ack):
        answer = client.request(subject)
        assert answer is not None
        assert wire.status_of(answer[0]) == SERVICE_UNAVAILABLE
    client.publish(ack, b"+ACK")
    assert stored(client, CTL) is not None, "the other streams have a leader"
    world.advance(12)
    assert client.messages() == [], "the fetch from before is forgotten"
    fetch(client)
    assert delivered(client) == [(request_subject(), 2)], "and so is the ack"


def test_a_message_can_come_back_too_early(world: World, client: Client) -> None:
    seq = (stored(client, request_subject()) or PubAck()).seq
    assert not world.broker.redeliver(REQUESTS, CONSUMER_SPEC.name, seq), "it has not been delivered"
    fetch(client, 2)
    assert delivered(client) == [(request_subject(), 1)]
    assert world.broker.redeliver(REQUESTS, CONSUMER_SPEC.name, seq)
    assert delivered(client) == [(request_subject(), 2)]


# Evidence.


def test_taps_tell_what_is_stored_and_why_it_leaves(world: World, client: Client) -> None:
    came: list[tuple[str, int, str, bytes, bytes]] = []
    left: list[tuple[str, int, str, str]] = []
    world.broker.on_stored(lambda *one: came.append(one))
    world.broker.on_removed(lambda *one: left.append(one))
    headers = expect_headers(0)
    stored(client, CTL, b"lease", headers)
    stored(client, CTL, b"refused", headers)
    for number in range(3):
        stored(client, request_subject(number))
    assert came[0] == (OUTPUT, 1000, CTL, headers, b"lease")
    assert [(stream, seq) for stream, seq, *_ in came[1:]] == [(REQUESTS, 1), (REQUESTS, 2), (REQUESTS, 3)]
    fetch(client, 2)
    acks = [reply for _, reply, _, _ in client.messages() if reply]
    client.publish(acks[0], b"+ACK")
    client.publish(acks[1], b"+TERM poisoned")
    client.api(subjects.js_stream("MSG.DELETE", REQUESTS), {"seq": 3})
    world.advance(61)
    assert left == [
        (REQUESTS, 1, request_subject(0), "acked"),
        (REQUESTS, 2, request_subject(1), "terminated"),
        (REQUESTS, 3, request_subject(2), "deleted"),
        (OUTPUT, 1000, CTL, "expired"),
    ]
    assert world.broker.messages(REQUESTS) == []


def test_what_it_cannot_do_is_refused_and_not_ignored(client: Client) -> None:
    for config in ({"retention": "interest"}, {"mirror": {"name": "x"}}, {"allow_msg_ttl": True}):
        body = {"name": "other", "subjects": ["other"], **config}
        assert "error" in client.api(subjects.js_stream("CREATE", "other"), body)
    subject, body = creation(CONSUMER_SPEC._replace(name="other"))
    body["config"] = {
        "durable_name": "other",
        "filter_subject": "other",
        "ack_policy": "explicit",
        "max_deliver": 3,
    }
    assert "error" in client.api(subject, body)
    answer = client.request(
        subjects.js_consumer("MSG.NEXT", REQUESTS, CONSUMER_SPEC.name), b'{"batch":1,"idle_heartbeat":1}'
    )
    assert answer is not None
    assert wire.status_of(answer[0]) == 400


def test_the_same_story_twice_is_the_same_bytes(world: World) -> None:
    def story() -> list[bytes]:
        world = World()
        client, other = Client(world), Client(world)
        with_streams(client)
        other.feed(b"SUB > q 2\r\nSUB llm.v1.live.*.*.* 3\r\nSUB in.> q 4\r\n")
        for number in range(20):
            client.publish(request_subject(number), b"x", reply="in.a")
            client.publish(CTL, b"%d" % number, reply="in.b")
            fetch(client, 3)
            world.advance(0.7)
        world.advance(20)
        said: list[bytes] = client.sent + other.sent
        return said

    assert story() == story()
