"""What real clients read of answers, and what they are asked to do."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.real.checker.reference import Reference
from chaos.real.clients import Surroundings
from chaos.real.clients_events import Answer, Dialect, Event, Splitter
from chaos.real.clients_nats import Publisher
from chaos.real.history import Line, Told
from chaos.real.workload import MODEL, TOKENS_MAX, Options, Wish, gap_s, wish
from infra import wire
from infra.bus import Bus
from infra.jetstream import JetStream, Stored
from schemas.output import CtlRecord, Delta, End, Lease, Tok, encode
from workers.engines.simulator import reference_text

TENANTS = ("ann", "bob", "cem")
OPTIONS = Options(seed=5, duration_s=60.0, tenants={})

CHAT = (
    b'id: 0-0\ndata: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b': queued position=3 eta=7\n\n'
    b'id: 1-0\ndata: {"choices":[{"index":0,"delta":{"content":"turns"}}]}\n\n'
    b'id: 2-0\ndata: {"choices":[{"index":1,"delta":{"content":"by"}}]}\n\n'
    b'id: 3-0\ndata: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    b'id: 3-1\ndata: {"choices":[],"usage":{"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)  # fmt: skip
MESSAGE = (
    b'id: 1-1\nevent: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"turns"}}\n\n'
    b'id: 4-1\nevent: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},'
    b'"usage":{"output_tokens":1}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSE = (
    b'id: 4-0\nevent: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"turns"}\n\n'
    b'id: 9-0\nevent: response.incomplete\ndata: {"type":"response.incomplete","response":{"status":"incomplete",'
    b'"usage":{"output_tokens":1}}}\n\n'
    b"data: [DONE]\n\n"
)


def read(dialect: Dialect, events: list[Event]) -> tuple[Answer, list[tuple[str, int, str]]]:
    answer = Answer(dialect)
    return answer, [piece for event in events for piece in answer.event(event)]


@given(st.lists(st.integers(0, len(CHAT)), max_size=8))
def test_events_are_the_same_however_their_bytes_come(cuts: list[int]) -> None:
    splitter, places = Splitter(), [0, *sorted(cuts), len(CHAT)]
    events = [event for a, b in pairwise(places) for event in splitter.feed(CHAT[a:b])]
    assert events == Splitter().feed(CHAT)
    answer, pieces = read("chat", events)
    assert pieces == [("1-0", 0, "turns"), ("2-0", 1, "by")]
    assert (answer.is_done, answer.tokens, answer.finish_reason, answer.last_id) == (True, 2, "length", "3-1")


@pytest.mark.parametrize(("dialect", "stream", "reason"), [
    ("message", MESSAGE, "max_tokens"), ("response", RESPONSE, "incomplete"),
])  # fmt: skip
def test_every_dialect_is_read(dialect: Dialect, stream: bytes, reason: str) -> None:
    answer, pieces = read(dialect, Splitter().feed(stream))
    assert [(choice, text) for _, choice, text in pieces] == [(0, "turns")]
    assert (answer.is_done, answer.tokens, answer.finish_reason, answer.error) == (True, 1, reason, "")


@pytest.mark.parametrize(("dialect", "said", "code"), [
    ("chat", {"error": {"code": "poison", "type": "server_error"}}, "poison"),
    ("message", {"type": "error", "error": {"type": "api_error", "details": {"error_code": "poison"}}}, "poison"),
    ("response", {"type": "error", "code": "poison", "error": {"code": "poison"}}, "poison"),
])  # fmt: skip
def test_an_error_in_a_stream_is_no_end(dialect: Dialect, said: dict[str, object], code: str) -> None:
    answer, pieces = read(dialect, [Event("", msgspec.json.encode(said))])
    assert (pieces, answer.error, answer.is_done) == ([], code, False)


def wishes(count: int) -> list[Wish]:
    return [wish(OPTIONS, number, TENANTS) for number in range(count)]


def test_a_wish_is_a_function_of_the_seed_and_its_number() -> None:
    assert wishes(50) == wishes(50)
    other = Options(seed=6, duration_s=60.0, tenants={})
    assert [wish(other, number, TENANTS) for number in range(50)] != wishes(50)
    assert gap_s(OPTIONS, 3) == gap_s(OPTIONS, 3)


def test_everything_that_clients_do_is_drawn_and_poison_is_rare() -> None:
    drawn = wishes(5000)
    assert set(Counter(one.way for one in drawn)) == {"stream", "whole", "direct"}
    assert {one.dialect for one in drawn} == {"chat", "completion", "message", "response"}
    assert {one.tenant for one in drawn} == set(TENANTS)
    for what in ("key", "leaving", "deadline_s", "twice", "visits", "cancel", "read_every_s", "spy"):
        assert 20 < sum(bool(getattr(one, what)) for one in drawn) < 4500, what
    faults = Counter(
        name for one in drawn for name in msgspec.json.decode(one.body).get("penstock_fault", {})
    )
    assert set(faults) == {"raise_at_token", "oom_at_token", "die_at_token", "hang_at_token", "slow_factor"}
    assert sum(one.may_fail == "poison" for one in drawn) < 100
    assert all(one.spy != one.tenant for one in drawn)


def test_the_reference_of_every_wish_is_known_from_what_its_client_sends() -> None:
    for one in wishes(400):
        reference = Reference(one.body)
        asked = msgspec.json.decode(one.body)
        most = asked.get("max_tokens") or asked["max_output_tokens"]
        assert asked["model"] == MODEL
        assert 1 <= most <= TOKENS_MAX
        assert reference.texts is not None
        assert len(reference.texts) == asked.get("n", 1)
        assert reference.is_healthy == (one.may_fail != "poison")
        if "stop" not in asked and "stop_sequences" not in asked:
            assert reference.counts == [most] * len(reference.texts)
            prompt = asked.get("prompt") or f"user: {one.tenant} asks 5 {one.number}"
            assert reference.texts[0] == reference_text(prompt, asked.get("seed", 0), most)


async def test_a_direct_reader_misses_nothing_that_was_lost_before_a_lease() -> None:
    """Live records may be lost; a later lease that comes says nothing of the tokens before it."""
    log: list[tuple[int, str, CtlRecord | Tok]] = [
        (10, "ctl", Lease("w1.1", "w1", 1, "first")),
        (11, "tok", Tok(10, 0, [1], [Delta("one")])),
        (12, "tok", Tok(10, 1, [2], [Delta(" two")])),
        (13, "ctl", Lease("w2.1", "w2", 2, "worker_dead")),
        (14, "tok", Tok(13, 2, [3], [Delta(" three")])),
        (15, "ctl", End(status="ok", nonce="w2.1", lease=13, n=3)),
    ]
    told: list[Line] = []
    wanted = Wish(number=1, way="direct", dialect="chat", tenant="ann", klass="standard", door=0, body=b"{}")
    around = Surroundings(httpx.AsyncClient(), [], {}, told.append)
    js = ReadableLog([Stored(seq, f"x.{kind}", b"", encode(record)) for seq, kind, record in log])
    reader = Publisher(wanted, around, js)
    for seq, kind, record in log:
        if seq != 12:
            headers = wire.encode_headers({"Nats-Sequence": str(seq)})
            reader.on_live(f"x.{kind}", "", headers, encode(record))
    end = await reader.read()
    assert end.n == 3
    assert "".join(line.text for line in told if isinstance(line, Told)) == "one two three"


class ReadableLog(JetStream):
    """Answers with what is stored."""

    def __init__(self, stored: list[Stored]) -> None:
        super().__init__(Bus.unconnected())
        self._stored = stored

    async def read(
        self, stream: str, subject_filter: str, *, start_seq: int = 1, limit: int | None = None
    ) -> list[Stored]:
        return [one for one in self._stored if one.seq >= start_seq]
