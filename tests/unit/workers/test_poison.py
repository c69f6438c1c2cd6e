"""Poison: the copy in DEAD comes first, END after it, and nothing of that keeps a request alive for ever."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.dead import Tried
from schemas.log import Entry
from schemas.output import Delta, End, Failed, Handoff, Lease, Tok
from schemas.requests import EDGE, GRACE_S, MAX_TOKENS, TRACEPARENT
from tests.unit.workers.world import DEAD, KEY, RID, Harness, all_of, item, lease, letter, one, record
from workers.attempt import LETTER_TRIES_MAX
from workers.engines.base import EngineFailed
from workers.events import (
    Ack,
    CancelHinted,
    ConnectionChanged,
    LetterLost,
    Nak,
    Progress,
    Publish,
    SendPull,
    Settled,
    StartEngine,
    StopEngine,
    Stored,
    Tick,
)
from workers.letters import ERROR_CHARS_MAX, HEADERS_BYTES_MAX

BODY = b'{"prompt": "brings it down", "max_tokens": 8}'
OLD = [
    Entry(9, lease("begun", 1, cause="first")),
    Entry(10, Tok(9, 0, [1, 2], [Delta("ab")])),
    Entry(11, lease("old0", 2, cause="worker_dead")),
    Entry(12, lease("old1", 3, cause="worker_dead")),
    Entry(13, Failed(nonce="old1", error="RuntimeError: x")),
    Entry(14, lease("old2", 4, cause="engine_error")),
]
OWN = Entry(20, lease("w1.1", 5, cause="worker_dead"))


def _poisoned(harness: Harness, *entries: Entry, **changes: Any) -> Publish:
    """The dead letter of a request whose log is `entries` up to the own lease."""
    harness.offer(item(attempt=5, ctl_seq=14, cause="worker_dead", body=BODY, **changes))
    harness.stored(20)
    return one(harness.log(*(entries or [*OLD, OWN])), Publish)


def _end(publish: Publish) -> End:
    end = record(publish)
    assert isinstance(end, End)
    return end


def test_the_letter_is_the_request_itself_and_its_story() -> None:
    meta = {"max_tokens": 8, "grace_s": 5.0, "edge": "e1"}
    publish = _poisoned(Harness(strikes_max=3), klass="interactive", meta=meta)
    assert (publish.kind, publish.subject, publish.fence, publish.expect) == ("dead", DEAD, DEAD, 0)
    assert publish.body == BODY
    assert publish.headers is not None
    assert {name: publish.headers[name] for name in (MAX_TOKENS, GRACE_S, EDGE)} == {
        MAX_TOKENS: "8",
        GRACE_S: "5.0",
        EDGE: "e1",
    }
    told = letter(publish)
    assert told.subject.split(".")[3:] == ["interactive", "m", "public", RID]
    assert (told.reason, told.tokens) == ("poison", 2)
    assert told.message == "the engine failed 3 times in a row at this request"
    ctl = [entry for entry in (*OLD, OWN) if not isinstance(entry.record, Tok)]
    assert told.history == [
        Tried(entry.seq, entry.record) for entry in ctl if not isinstance(entry.record, Tok)
    ]


def test_end_comes_after_the_letter_and_ack_after_end() -> None:
    harness = Harness(strikes_max=3)
    _poisoned(harness)
    assert all_of(harness.later(0.5), Publish) == []
    publish = one(harness.stored(1), Publish)
    end = _end(publish)
    assert (publish.kind, publish.expect, end.status, end.reason, end.n) == ("end", 20, "error", "poison", 2)
    actions = harness.stored(21)
    assert one(actions, Ack).ack == f"ack.{RID}.5"
    assert one(actions, Settled).outcome == "ended"


def test_a_letter_that_is_there_already_is_as_good() -> None:
    harness = Harness(strikes_max=3)
    _poisoned(harness)
    assert _end(one(harness.refused(last_seq=7), Publish)).reason == "poison"


def test_attempts_without_a_strike_make_a_request_poison_too() -> None:
    harness = Harness(attempts_max=20)
    leases = [Entry(10 + i, lease(f"old{i}", i + 1, cause="redelivered")) for i in range(20)]
    publish = _poisoned(harness, *leases, Entry(20, lease("w1.1", 1000)))
    assert letter(publish).message == "given up after 20 attempts"
    assert len(letter(publish).history) == 21
    assert (_end(one(harness.stored(1), Publish)).reason) == "poison"


def test_a_poisoned_request_takes_no_slot_but_keeps_its_delivery() -> None:
    harness = Harness(strikes_max=3, slots=1, ack_wait_s=12, append_timeout_s=100)
    harness.do(Tick())
    _poisoned(harness)
    actions = harness.later(5)
    assert one(actions, Progress)
    assert all_of(actions, SendPull)[-1].pull.free == 1


def test_an_unanswered_letter_is_sent_again_byte_for_byte() -> None:
    harness = Harness(strikes_max=3, append_timeout_s=1)
    publish = _poisoned(harness)
    assert all_of(harness.later(1.1), Publish) == [publish]
    harness.do(ConnectionChanged(connected=False))
    assert all_of(harness.later(5), Publish) == []
    assert all_of(harness.do(ConnectionChanged(connected=True)), Publish) == [publish]


@pytest.mark.parametrize("err_code", [10077, 503, 10059])
def test_dead_that_refuses_keeps_nobody_alive_for_ever(err_code: int) -> None:
    harness = Harness(strikes_max=3, append_timeout_s=1)
    publish = _poisoned(harness)
    for _ in range(LETTER_TRIES_MAX - 1):
        assert harness.refused(err_code) == []
        assert all_of(harness.later(0.9), Publish) == [], "never at once"
        assert all_of(harness.later(0.2), Publish) == [publish]
    actions = harness.refused(err_code)
    assert one(actions, LetterLost) == LetterLost(KEY, LETTER_TRIES_MAX, err_code)
    assert _end(one(actions, Publish)).reason == "poison"
    assert one(harness.stored(21), Ack)


def test_dead_that_never_answers_keeps_nobody_alive_for_ever() -> None:
    harness = Harness(strikes_max=3, append_timeout_s=1)
    _poisoned(harness)
    actions = harness.later(LETTER_TRIES_MAX + 0.1)
    assert one(actions, LetterLost) == LetterLost(KEY, LETTER_TRIES_MAX, 0)
    assert [publish.kind for publish in all_of(actions, Publish)] == ["dead"] * (LETTER_TRIES_MAX - 1) + [
        "end"
    ]


@pytest.mark.parametrize("err_code", [10054, 10097])
def test_a_letter_that_is_too_large_is_not_tried_again(err_code: int) -> None:
    harness = Harness(strikes_max=3)
    _poisoned(harness)
    actions = harness.refused(err_code)
    assert one(actions, LetterLost) == LetterLost(KEY, 1, err_code)
    assert _end(one(actions, Publish)).reason == "poison"


def test_an_end_by_somebody_else_ends_it_in_between() -> None:
    harness = Harness(strikes_max=3)
    _poisoned(harness)
    harness.do(CancelHinted(KEY))
    actions = harness.ctl(22, End(status="cancelled"))
    assert one(actions, Ack)
    assert all_of(actions, Publish) == []


def test_a_crash_between_letter_and_end_heals_at_the_next_delivery() -> None:
    harness = Harness(strikes_max=3)
    harness.offer(item(attempt=5, ctl_seq=20, cause="worker_dead"))
    harness.stored(30)
    again = one(harness.log(*OLD, OWN, Entry(30, lease("w1.1", 5, cause="worker_dead"))), Publish)
    assert again.kind == "dead"
    assert _end(one(harness.refused(last_seq=1), Publish)).reason == "poison"
    assert one(harness.stored(31), Ack)


def test_an_end_that_meets_a_newer_lease_leaves_the_rest_to_it() -> None:
    harness = Harness(strikes_max=3)
    _poisoned(harness)
    harness.stored(1)
    harness.refused(last_seq=25)
    actions = harness.ctl(25, lease("other", attempt=5))
    assert one(actions, Settled).outcome == "fenced"
    assert all_of(actions, Ack) + all_of(actions, Nak) == []


def test_a_letter_fits_the_brokers_headers() -> None:
    """However much there is to tell: the newest part of it is told."""
    harness = Harness(strikes_max=500, attempts_max=500)
    entries: list[Entry] = []
    for i in range(250):
        entries += [
            Entry(1000 + 2 * i, lease(f"old{i}", i + 1, cause="engine_error")),
            Entry(1001 + 2 * i, Failed(nonce=f"old{i}", error="é" * 5000 + f"error {i}")),
        ]
    entries += [Entry(2000 + i, lease(f"r{i}", cause="redelivered")) for i in range(300)]
    own = Entry(5000, lease("w1.1", 600))
    harness.offer(item(attempt=600, ctl_seq=4000, meta={"traceparent": "half\na line\rbreak"}))
    harness.stored(5000)
    publish = one(harness.log(*entries, own), Publish)
    assert publish.headers is not None
    size = sum(len(name) + len(value.encode()) for name, value in publish.headers.items())
    assert HEADERS_BYTES_MAX * 0.9 < size <= HEADERS_BYTES_MAX
    assert publish.headers[TRACEPARENT] == "half a line break"
    history = letter(publish).history
    assert [tried.seq for tried in history] == sorted(tried.seq for tried in history)
    assert history[-1] == Tried(5000, lease("w1.1", 600))
    failed = [tried.record for tried in history if isinstance(tried.record, Failed)]
    assert failed[-1].error.endswith("error 249")
    assert all(len(one.error) <= ERROR_CHARS_MAX + 2 for one in failed)


def test_a_request_that_makes_the_engine_raise_harms_no_batch_mate() -> None:
    harness = Harness(strikes_max=3)
    mate = "b" * 26
    actions = harness.offer(item(), item(mate))
    suspect, other = [start.request for start in all_of(actions, StartEngine)]
    for seq, publish in zip((10, 11), all_of(actions, Publish), strict=True):
        harness.do(Stored(publish.key, publish.op, seq))
    actions = harness.do(EngineFailed(KEY, suspect.run, "RuntimeError: x"))
    assert [stop.key for stop in all_of(actions, StopEngine)] == [KEY]
    assert isinstance(record(one(actions, Publish)), Failed)
    assert one(harness.stored(12), Nak).ack == f"ack.{RID}.1"
    harness.request = other
    append = one(harness.output((1, "a")), Publish)
    assert (append.key, append.expect) == (other.key, 11), "the mate goes on, under the lease that it has"


def test_a_request_that_makes_the_engine_raise_is_tried_again_and_then_given_up() -> None:
    entries: list[Entry] = []
    for attempt in range(1, 4):
        harness = Harness(strikes_max=3)
        ctl_seq, cause = (entries[-1].seq, "engine_error") if entries else (0, "first")
        harness.offer(item(attempt=attempt, ctl_seq=ctl_seq, cause=cause))
        entries.append(Entry(10 * attempt, record_of(harness)))
        harness.stored(10 * attempt)
        if attempt > 1:
            harness.log(*entries)
        assert harness.request is not None
        raised = EngineFailed(KEY, harness.request.run, "RuntimeError: x")
        failed = record(one(harness.do(raised), Publish))
        assert isinstance(failed, Failed)
        entries.append(Entry(10 * attempt + 1, failed))
        assert one(harness.stored(10 * attempt + 1), Nak)
    harness = Harness(strikes_max=3)
    harness.offer(item(attempt=4, ctl_seq=31, cause="engine_error"))
    entries.append(Entry(40, record_of(harness)))
    harness.stored(40)
    told = letter(one(harness.log(*entries), Publish))
    assert [type(tried.record).__name__ for tried in told.history] == ["Lease", "Failed"] * 3 + ["Lease"]


def record_of(harness: Harness) -> Lease:
    """The lease that was published last."""
    assert harness.publish is not None
    leased = record(harness.publish)
    assert isinstance(leased, Lease)
    return leased


def test_hand_offs_and_restarts_poison_nothing() -> None:
    """A rolling restart of everything: each attempt is handed off before it made a token."""
    harness = Harness(strikes_max=3)
    entries: list[Entry] = []
    for i in range(15):
        entries += [
            Entry(100 + 2 * i, lease(f"old{i}", i + 1, cause="handoff" if i else "first")),
            Entry(101 + 2 * i, Handoff(nonce=f"old{i}", n=0)),
        ]
    harness.offer(item(attempt=16, ctl_seq=129, cause="handoff"))
    harness.stored(200)
    assert one(harness.log(*entries, Entry(200, lease("w1.1", 16, cause="handoff"))), StartEngine)
