"""END, failed and handoff: how an attempt is over, and what is acked when."""

from __future__ import annotations

import hashlib

import pytest

from schemas.log import Entry
from schemas.output import Delta, End, Failed, Handoff, Lease, Tail, Tok
from tests.unit.workers.world import KEY, RID, USAGE, Harness, all_of, item, lease, one, record
from workers.engines.base import EngineFailed
from workers.events import (
    Ack,
    CancelHinted,
    ConnectionChanged,
    HandOff,
    Nak,
    Publish,
    Settled,
    StopEngine,
    Tick,
)
from workers.records import END_TEXT_BYTES_MAX


def _end(publish: Publish) -> End:
    end = record(publish)
    assert isinstance(end, End)
    return end


def test_a_short_request_needs_a_lease_and_an_end() -> None:
    harness = Harness()
    harness.offer(item(attempt=1, meta={"stream": False, "fingerprint": "f"}))
    nonce = harness.nonce()
    harness.stored(10)
    harness.now += 0.020
    harness.output((1, "a"))
    harness.now += 0.020
    publish = one(harness.finish((2, "é")), Publish)
    assert (publish.kind, publish.expect) == ("end", 10)
    end = _end(publish)
    assert end.tail == Tail(0, [1, 2], [Delta("aé")])
    assert (end.status, end.n, end.sha256) == ("ok", 2, hashlib.sha256("aé".encode()).hexdigest())
    assert (end.usage, end.finish_reasons, end.text) == (USAGE, ["stop"], ["aé"])
    assert (end.nonce, end.lease, end.attempts, end.fingerprint) == (nonce, 10, 1, "f")
    assert end.timings is not None
    assert (end.timings.first_token_ms, end.timings.total_ms) == (20.0, 40.0)
    assert one(harness.stored(11), Ack).ack == f"ack.{RID}.1"


def test_end_waits_for_the_append_in_flight() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    assert harness.finish((2, "b")) == []
    end = _end(one(harness.stored(11), Publish))
    assert (end.n, end.tail) == (2, Tail(1, [2], [Delta("b")]))
    assert end.text is None, "somebody streamed"


def test_end_waits_for_the_lease() -> None:
    harness = Harness()
    harness.offer(item())
    assert harness.finish((1, "a")) == []
    assert one(harness.stored(10), Publish).kind == "end"


def test_a_tail_that_is_too_long_is_appended_first() -> None:
    harness = Harness(append_bytes_max=100)
    harness.running()
    harness.output((0, ""))
    for i in range(1, 4):
        harness.output((i, "x" * 40))
    harness.finish()
    assert one(harness.stored(11), Publish).kind == "append"
    end = _end(one(harness.stored(12), Publish))
    assert (end.n, end.tail) == (4, Tail(3, [3], [Delta("x" * 40)]))


def test_a_long_text_is_not_repeated_in_end() -> None:
    harness = Harness(append_bytes_max=10_000_000)
    harness.running(meta={"stream": False})
    end = _end(one(harness.finish((1, "x" * (END_TEXT_BYTES_MAX + 1))), Publish))
    assert end.text is None


def test_ack_only_after_the_puback_of_end() -> None:
    harness = Harness(append_timeout_s=1)
    harness.running()
    end = one(harness.finish((1, "a")), Publish)
    assert all_of(harness.later(0.9), Ack) == []
    actions = harness.later(0.2)
    assert all_of(actions, Publish) == [end], "the same bytes"
    assert all_of(actions, Ack) == []
    assert one(harness.stored(11), Ack)


def test_end_refused_by_our_own_end_is_success() -> None:
    harness = Harness()
    harness.running()
    end = _end(one(harness.finish((1, "a")), Publish))
    harness.refused(last_seq=11)
    actions = harness.ctl(11, end)
    assert one(actions, Ack)
    assert one(actions, Settled).outcome == "ended"


def test_end_refused_by_another_end_acks() -> None:
    harness = Harness()
    harness.running()
    harness.finish((1, "a"))
    harness.refused(last_seq=11)
    assert one(harness.ctl(11, End(status="cancelled")), Ack)


def test_end_refused_by_another_lease_does_not_ack() -> None:
    harness = Harness()
    harness.running()
    harness.finish((1, "a"))
    harness.refused(last_seq=11)
    actions = harness.ctl(11, lease("other", attempt=2))
    assert one(actions, Settled).outcome == "fenced"
    assert all_of(actions, Ack) == []


def test_a_fenced_end_with_a_newer_delivery_is_written_under_the_next_lease() -> None:
    harness = Harness()
    harness.running()
    harness.finish((1, "a"))
    harness.offer(item(attempt=3, ctl_seq=11, cause="redelivered"))
    harness.refused(last_seq=11)
    assert one(harness.ctl(11, lease("other", attempt=2)), Publish).kind == "lease"
    harness.stored(20)
    end = _end(one(harness.log(Entry(11, lease("other", 2)), Entry(20, lease("w1.9", 3))), Publish))
    assert (end.status, end.n, end.tail, end.attempts) == ("ok", 1, Tail(0, [1], [Delta("a")]), 3)
    assert one(harness.stored(21), Ack).ack == f"ack.{RID}.3"


def test_an_engine_that_raises_leaves_a_failed_record_and_gives_the_request_back() -> None:
    harness = Harness()
    harness.offer(item())
    nonce = harness.nonce()
    harness.stored(10)
    harness.output((1, "a"))
    assert harness.request is not None
    actions = harness.do(EngineFailed(KEY, harness.request.run, "RuntimeError: x"))
    assert [type(action) for action in actions] == [StopEngine], "the append in flight is settled first"
    publish = one(harness.stored(11), Publish)
    assert (publish.kind, publish.expect) == ("failed", 10)
    assert record(publish) == Failed(nonce=nonce, error="RuntimeError: x")
    actions = harness.stored(12)
    assert one(actions, Nak) == Nak(f"ack.{RID}.1", 0.2)
    assert one(actions, Settled).outcome == "failed"


def test_failed_refused_by_our_own_failed_is_success() -> None:
    harness = Harness()
    harness.running()
    assert harness.request is not None
    failed = record(one(harness.do(EngineFailed(KEY, harness.request.run, "x")), Publish))
    assert isinstance(failed, Failed)
    harness.refused(last_seq=11)
    assert one(harness.ctl(11, failed), Nak)


@pytest.mark.parametrize("reason", ["bad_request", "context_length"])
def test_an_invalid_request_ends_with_the_clients_error(reason: str) -> None:
    harness = Harness()
    harness.offer(item())
    assert harness.request is not None
    harness.do(EngineFailed(KEY, harness.request.run, "`prompt` is missing", reason))  # type: ignore[arg-type]
    end = _end(one(harness.stored(10), Publish))
    assert (end.status, end.reason, end.message, end.n) == ("error", reason, "`prompt` is missing", 0)
    assert one(harness.stored(11), Ack)


def test_the_deadline_cuts_the_engine_off_and_ends_with_what_there_is() -> None:
    harness = Harness()
    harness.running(age_s=10.0, meta={"request_timeout_s": 30.0})
    harness.output((1, "a"))
    harness.stored(11)
    assert all_of(harness.later(19.9), StopEngine) == []
    actions = harness.later(0.2)
    assert one(actions, StopEngine)
    end = _end(one(actions, Publish))
    assert (end.status, end.reason, end.n) == ("expired", "request_timeout", 1)
    assert one(harness.stored(12), Ack)


def test_a_deadline_is_never_longer_than_the_longest() -> None:
    harness = Harness(request_timeout_max_s=60)
    harness.running(meta={"request_timeout_s": 1e6})
    assert one(harness.later(60.1), StopEngine)


def test_the_deadline_waits_for_the_append_in_flight() -> None:
    harness = Harness(append_timeout_s=100, request_timeout_s=5)
    harness.running()
    harness.output((1, "a"))
    harness.output((2, "b"))
    assert all_of(harness.later(5.1), Publish) == []
    assert _end(one(harness.stored(11), Publish)).tail == Tail(1, [2], [Delta("b")])


def test_what_cannot_be_stored_long_after_the_deadline_is_given_up() -> None:
    harness = Harness(request_timeout_s=5, ack_wait_s=12)
    harness.running()
    harness.finish((1, "a"))
    actions = harness.later(17.1)
    assert one(actions, Settled).outcome == "gave_up"
    assert all_of(actions, Ack) + all_of(actions, Nak) == []
    harness.core.check()


def test_a_hand_off_comes_after_the_last_append() -> None:
    harness = Harness()
    harness.offer(item())
    nonce = harness.nonce()
    harness.stored(10)
    harness.output((1, "a"))
    harness.output((2, "b"))
    assert one(harness.do(HandOff()), StopEngine)
    assert record(one(harness.stored(11), Publish)) == Tok(10, 1, [2], [Delta("b")])
    publish = one(harness.stored(12), Publish)
    assert (publish.kind, publish.expect, record(publish)) == ("handoff", 10, Handoff(nonce=nonce, n=2))
    actions = harness.stored(13)
    assert one(actions, Nak) == Nak(f"ack.{RID}.1", 0.0)
    assert one(actions, Settled).outcome == "handed_off"
    assert harness.core.drained


def test_a_hand_off_leaves_what_is_ending_alone() -> None:
    harness = Harness()
    harness.running()
    harness.finish((1, "a"))
    assert all_of(harness.do(HandOff()), Publish) == []
    assert one(harness.stored(11), Ack)


def test_past_the_hold_a_failed_request_is_not_given_back() -> None:
    harness = Harness(ack_wait_s=12)
    harness.running()
    assert harness.request is not None
    harness.do(EngineFailed(KEY, harness.request.run, "x"))
    harness.do(ConnectionChanged(connected=False))
    harness.now += 6.5
    harness.do(ConnectionChanged(connected=True))
    actions = harness.stored(11)
    assert all_of(actions, Nak) == []
    assert one(actions, Settled).outcome == "failed"


def test_past_the_hold_there_is_no_lease_but_an_ack_on_end() -> None:
    harness = Harness(ack_wait_s=12)
    harness.running()
    harness.output((1, "a"))
    harness.do(ConnectionChanged(connected=False))
    harness.now += 6.5
    harness.do(ConnectionChanged(connected=True))
    harness.offer(item(attempt=1))
    harness.do(ConnectionChanged(connected=False))
    harness.now += 6.5
    harness.do(ConnectionChanged(connected=True))
    harness.refused(last_seq=11)
    assert one(harness.ctl(11, Failed(nonce="x", error="x")), Settled).outcome == "fenced"

    harness = Harness(ack_wait_s=12)
    harness.running()
    harness.now += 30
    harness.do(CancelHinted(KEY))
    assert one(harness.ctl(11, End(status="cancelled")), Ack)


def test_past_the_hold_an_unanswered_lease_is_not_sent_again() -> None:
    harness = Harness(ack_wait_s=12)
    assert isinstance(record(one(harness.offer(item()), Publish)), Lease)
    harness.do(ConnectionChanged(connected=False))
    harness.now += 6.5
    actions = harness.do(ConnectionChanged(connected=True))
    assert all_of(actions, Publish) == []
    assert one(actions, Settled).outcome == "fenced"


def test_a_tick_with_nothing_due_does_nothing() -> None:
    harness = Harness()
    harness.running()
    harness.later(0.001)
    assert harness.do(Tick()) == []
