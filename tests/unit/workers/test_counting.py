"""Which tokens a worker counts as made and as wasted, and what its metrics say of what happens."""

from __future__ import annotations

from prometheus_client.registry import Collector

from schemas.dispatch import Work
from schemas.log import Entry
from schemas.output import End, Tok
from tests.unit.workers.world import KEY, Harness, item, lease, one
from workers import metrics
from workers.counting import TIMED_EVERY, Counting
from workers.events import CancelHinted, Settled

CANCELLED = End(status="cancelled", reason="cancelled")


def value(collector: Collector, suffix: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name.endswith(suffix) and labels.items() <= sample.labels.items()
    )


def test_a_whole_answer_wastes_nothing() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    harness.finish((2, "b"))
    harness.stored(11)
    settled = one(harness.stored(12), Settled)
    assert (settled.tokens, settled.generated, settled.wasted) == (2, 2, 0)


def test_what_a_cancelled_request_did_not_store_is_wasted() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    harness.stored(11)
    harness.output((2, "b"))
    harness.output((3, "c"), (4, "d"))
    harness.do(CancelHinted(KEY))
    settled = one(harness.ctl(13, CANCELLED), Settled)
    assert (settled.generated, settled.wasted) == (4, 3)


def test_what_others_made_is_neither() -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=10, cause="worker_dead"))
    nonce = harness.nonce()
    harness.stored(20)
    harness.log(Entry(10, lease("other")), Entry(11, Tok(10, 0, [1, 2, 3])), Entry(20, lease(nonce, 2)))
    harness.finish((4, "d"))
    settled = one(harness.stored(21), Settled)
    assert (settled.tokens, settled.generated, settled.wasted) == (4, 1, 0)


def test_one_in_eight_appends_is_timed() -> None:
    counting = Counting("counted-2", 4)
    for op in range(4 * TIMED_EVERY):
        counting.sent(op, "append")
        counting.sent(op, "append")
        counting.stored(op)
    assert value(metrics.APPEND_LATENCY, "_count", model="counted-2") == 4
    counting.sent(0, "append")
    counting.refused(0, 10077)
    counting.stored(0)
    assert value(metrics.APPEND_LATENCY, "_count", model="counted-2") == 4


def test_letters_and_conflicts() -> None:
    counting = Counting("counted-3", 4)
    counters = (metrics.POISONED, metrics.DEAD_LETTERS, metrics.LEASE_CONFLICTS)
    before = [value(counter, "_total") for counter in counters]
    counting.sent(1, "dead")
    counting.stored(1)
    counting.letter_lost()
    counting.sent(2, "lease")
    counting.refused(2, 10071)
    assert [value(counter, "_total") for counter in counters] == [before[0] + 2, before[1] + 1, before[2] + 1]


def test_attempts_are_what_was_accepted() -> None:
    counting = Counting("counted-4", 4)
    counting.offered(Work(1, [item(cause="first"), item(cause="hung"), item(cause="hung")]))
    counting.answered(["full", "accepted", "mine"])
    assert value(metrics.ATTEMPTS, "_total", model="counted-4", cause="hung") == 1
    assert value(metrics.ATTEMPTS, "_total", model="counted-4", cause="first") == 0


def test_only_what_is_freed_after_its_cancel_is_timed() -> None:
    counting = Counting("counted-5", 4)
    before = value(metrics.CANCEL_TO_FREE, "_count")
    counting.cancelled(KEY)
    counting.freed(KEY)
    counting.freed(KEY)
    counting.cancelled("t.other")
    counting.settled(Settled("t.other", "ended", 3, 2, 1))
    counting.freed("t.other")
    assert value(metrics.CANCEL_TO_FREE, "_count") == before + 1
    assert value(metrics.TOKENS, "_total", model="counted-5", kind="wasted") == 1
