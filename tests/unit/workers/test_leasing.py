"""Lease and read: how an attempt begins."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.log import Entry
from schemas.output import Delta, End, Failed, Handoff, Lease, Tok
from tests.unit.workers.world import KEY, RID, Harness, item, lease, one, record, told
from workers.events import (
    Ack,
    Progress,
    Publish,
    ReadFailed,
    ReadLog,
    Reply,
    Settled,
    StartEngine,
    StopEngine,
)


def test_the_lease_leaves_before_the_engine_starts() -> None:
    harness = Harness()
    actions = harness.offer(item(meta={"fingerprint": "f"}))
    assert one(actions, Reply).answers == ["accepted"]
    kinds = [type(action) for action in actions]
    assert kinds.index(Publish) < kinds.index(StartEngine)
    publish = one(actions, Publish)
    assert (publish.kind, publish.expect, publish.subject) == ("lease", 0, publish.fence)
    stored = record(publish)
    assert isinstance(stored, Lease)
    assert (stored.attempt, stored.cause, stored.fingerprint) == (1, "first", "f")
    assert (stored.revision, stored.tokenizer, stored.engine) == ("r1", "words", "simulator")


def test_a_first_append_waits_for_the_lease() -> None:
    harness = Harness()
    harness.offer(item())
    assert harness.output((1, "a")) == []
    append = one(harness.stored(10), Publish)
    assert (append.kind, append.expect) == ("append", 10)
    assert record(append) == Tok(lease=10, off=0, ids=[1], deltas=[Delta("a")])


def test_a_later_attempt_reads_the_log_up_to_its_lease_and_continues_from_it() -> None:
    harness = Harness()
    actions = harness.offer(item(attempt=2, ctl_seq=10, cause="worker_dead"))
    assert one(actions, Publish).expect == 10
    assert not [action for action in actions if isinstance(action, StartEngine)]
    read = one(harness.stored(20), ReadLog)
    assert (read.tenant, read.rid, read.upto_seq) == ("public", RID, 20)
    entries = [
        Entry(10, lease("old")),
        Entry(11, Tok(10, 0, [1, 2], [Delta("a"), Delta("b", 0)])),
        Entry(20, lease("w1.1", 2)),
    ]
    start = one(harness.log(*entries), StartEngine)
    assert told(start.request.prefix) == ([1, 2], ["ab"])
    append = one(harness.output((3, "c")), Publish)
    assert record(append) == Tok(lease=20, off=2, ids=[3], deltas=[Delta("c")])


def test_a_lagging_replica_is_read_again() -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=10))
    harness.stored(20)
    assert harness.log(Entry(10, lease("old"))) == []
    assert one(harness.later(0.06), ReadLog).upto_seq == 20


def test_a_failed_read_is_repeated() -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=10))
    read = one(harness.stored(20), ReadLog)
    assert harness.do(ReadFailed(KEY, read.op)) == []
    assert one(harness.later(0.06), ReadLog).upto_seq == 20


def _read_back(harness: Harness, *entries: Entry, **changes: Any) -> End:
    """The END that a log leads to when an attempt reads it."""
    harness.offer(item(attempt=2, ctl_seq=10, **changes))
    harness.stored(20)
    end = record(one(harness.log(*entries, Entry(20, lease("w1.1", 2, cause="worker_dead"))), Publish))
    assert isinstance(end, End)
    assert one(harness.stored(21), Ack).ack == f"ack.{RID}.2"
    return end


def test_a_log_with_a_hole_is_not_continuable() -> None:
    end = _read_back(Harness(), Entry(10, lease("old")), Entry(11, Tok(10, 3, [1])))
    assert (end.status, end.reason, end.n) == ("error", "not_continuable", None)


@pytest.mark.parametrize("difference", [{"revision": "r0"}, {"tokenizer": "t0"}, {"engine": "vllm"}])
def test_a_log_of_another_engine_is_not_continuable(difference: dict[str, Any]) -> None:
    end = _read_back(Harness(), Entry(10, lease("old", **difference)), Entry(11, Tok(10, 0, [1])))
    assert (end.status, end.reason, end.n) == ("error", "not_continuable", 1)


def test_a_log_without_tokens_fits_any_engine() -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=10))
    harness.stored(20)
    start = one(harness.log(Entry(10, lease("old", revision="r0")), Entry(20, lease("w1.1", 2))), StartEngine)
    assert start.request.prefix is None


def test_an_unreadable_log_is_not_continuable() -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=10))
    read = one(harness.stored(20), ReadLog)
    end = record(one(harness.do(ReadFailed(KEY, read.op, is_unreadable=True)), Publish))
    assert isinstance(end, End)
    assert (end.reason, end.n) == ("not_continuable", None)


def test_a_token_clears_the_strikes() -> None:
    harness = Harness(strikes_max=3)
    harness.offer(item(attempt=4, ctl_seq=12, cause="worker_dead"))
    harness.stored(20)
    leases = [Entry(10 + i, lease(f"old{i}", i + 1, cause="worker_dead")) for i in range(3)]
    start = harness.log(*leases, Entry(13, Tok(12, 0, [1], [Delta("a")])), Entry(20, lease("w1.1", 4)))
    assert one(start, StartEngine)


def test_many_deliveries_are_no_attempts() -> None:
    harness = Harness(attempts_max=20)
    harness.offer(item(attempt=1000, ctl_seq=10))
    harness.stored(20)
    assert one(harness.log(Entry(10, lease("old", 999)), Entry(20, lease("w1.1", 1000))), StartEngine)


def test_lease_refused_by_our_own_earlier_try_counts_as_stored() -> None:
    harness = Harness()
    harness.offer(item())
    nonce = harness.nonce()
    harness.output((1, "a"))
    harness.refused(last_seq=10)
    append = one(harness.ctl(10, lease(nonce)), Publish)
    assert (append.kind, append.expect) == ("append", 10)


def test_lease_refused_by_end_acks_and_frees_the_engine() -> None:
    harness = Harness()
    harness.offer(item())
    harness.refused(last_seq=10)
    actions = harness.ctl(10, End(status="cancelled"))
    assert one(actions, Ack).ack == f"ack.{RID}.1"
    assert one(actions, StopEngine).key == KEY
    assert one(actions, Settled).outcome == "ended"


@pytest.mark.parametrize("left", [Failed(nonce="old", error="x"), Handoff(nonce="old", n=3), None])
def test_lease_refused_by_a_log_nobody_holds_is_asked_for_again(left: Failed | Handoff | None) -> None:
    harness = Harness()
    harness.offer(item())
    first = harness.nonce()
    harness.refused()
    seq = 0 if left is None else 11
    publish = one(harness.ctl(seq, left), Publish)
    assert (publish.kind, publish.expect) == ("lease", seq)
    assert harness.nonce() != first, "nonces are unique"


def test_lease_refused_by_an_older_attempt_is_asked_for_again() -> None:
    harness = Harness()
    harness.offer(item(attempt=3, ctl_seq=10))
    harness.refused(last_seq=12)
    publish = one(harness.ctl(12, lease("other", attempt=2)), Publish)
    assert (publish.kind, publish.expect) == ("lease", 12)


@pytest.mark.parametrize("attempt", [1, 2])
def test_lease_refused_by_the_same_or_a_newer_attempt_stops_in_silence(attempt: int) -> None:
    harness = Harness()
    harness.offer(item(attempt=1))
    harness.refused(last_seq=12)
    actions = harness.ctl(12, lease("other", attempt=attempt))
    assert [type(action) for action in actions][-2:] == [StopEngine, Settled]
    assert one(actions, Settled).outcome == "fenced"
    assert not [action for action in actions if isinstance(action, Ack | Progress)]
    assert all(not isinstance(action, Progress) for action in harness.later(30))


def test_a_read_older_than_the_refusal_is_repeated() -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=10))
    harness.refused(last_seq=15)
    assert harness.ctl(10, lease("old")) == []
    assert one(harness.later(0.06), type(harness.read))
    assert one(harness.ctl(15, lease("old")), Publish).expect == 15


def test_queue_timeout_ends_a_request_nobody_started() -> None:
    harness = Harness(queue_timeout_s=120)
    actions = harness.offer(item(age_s=121.0))
    publish = one(actions, Publish)
    end = record(publish)
    assert isinstance(end, End)
    assert (publish.kind, publish.expect, end.status, end.reason) == ("end", 0, "expired", "queue_timeout")
    assert not [action for action in actions if isinstance(action, StartEngine)]
    assert one(harness.stored(10), Ack)


def test_queue_timeout_does_not_end_what_was_started() -> None:
    harness = Harness(queue_timeout_s=120)
    assert one(harness.offer(item(age_s=121.0, attempt=2, ctl_seq=10)), Publish).kind == "lease"


def test_an_unleased_end_that_is_refused_leaves_the_request_to_the_next_delivery() -> None:
    harness = Harness()
    harness.offer(item(age_s=121.0))
    harness.refused(last_seq=10)
    assert one(harness.ctl(10, lease("other")), Settled).outcome == "fenced"


def test_a_request_that_comes_past_its_deadline_ends_at_once() -> None:
    harness = Harness()
    publish = one(
        harness.offer(item(age_s=50.0, ctl_seq=10, attempt=2, meta={"request_timeout_s": 40.0})), Publish
    )
    end = record(publish)
    assert isinstance(end, End)
    assert (publish.expect, end.status, end.reason) == (10, "expired", "request_timeout")
