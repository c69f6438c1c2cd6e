"""Append: one in flight, coalesced, retried with the same bytes, fenced."""

from __future__ import annotations

import pytest

from schemas.log import Entry
from schemas.output import Delta, End, Handoff, Tok
from tests.unit.workers.world import KEY, Harness, all_of, item, lease, one, record, told
from workers.engines.base import EngineOutput
from workers.events import (
    Ack,
    CancelHinted,
    ConnectionChanged,
    Forget,
    Publish,
    ReadCtl,
    ReadFailed,
    ReadLog,
    Settled,
    StartEngine,
    StopEngine,
    Stored,
)


def test_one_append_in_flight_and_the_rest_coalesces_into_the_next() -> None:
    harness = Harness()
    harness.running()
    first = one(harness.output((1, "a")), Publish)
    assert harness.output((2, "b"), (3, "c")) == []
    assert harness.output((4, "d")) == []
    second = one(harness.stored(11), Publish)
    assert second.op != first.op
    assert record(second) == Tok(lease=10, off=1, ids=[2, 3, 4], deltas=[Delta("bcd")])
    assert harness.stored(12) == []


def test_only_adjacent_deltas_of_one_choice_are_merged() -> None:
    harness = Harness()
    harness.running()
    harness.output((0, ""))
    assert harness.request is not None
    run = harness.request.run
    harness.do(EngineOutput(KEY, run, [1, 2], [Delta("a"), Delta("x", 1)]))
    harness.do(EngineOutput(KEY, run, [3], [Delta("y", 1)]))
    harness.do(EngineOutput(KEY, run, [4], [Delta("b")]))
    tok = record(one(harness.stored(11), Publish))
    assert isinstance(tok, Tok)
    assert tok.deltas == [Delta("a"), Delta("xy", 1), Delta("b")]


def test_a_record_is_bounded() -> None:
    harness = Harness(append_bytes_max=100)
    harness.running()
    harness.output((0, ""))
    for i in range(1, 6):
        harness.output((i, "x" * 40))
    sizes = []
    for seq in range(11, 14):
        tok = record(one(harness.stored(seq), Publish))
        assert isinstance(tok, Tok)
        sizes.append(len(tok.ids))
    assert sizes == [2, 2, 1]


def test_an_unanswered_append_is_sent_again_byte_for_byte() -> None:
    harness = Harness(append_timeout_s=1)
    harness.running()
    append = one(harness.output((1, "a")), Publish)
    harness.output((2, "b"))
    assert all_of(harness.later(0.9), Publish) == []
    assert all_of(harness.later(0.2), Publish) == [append]
    assert all_of(harness.later(1.0), Publish) == [append]


@pytest.mark.parametrize("err_code", [10164, 503])
def test_a_busy_broker_gets_the_same_bytes_soon(err_code: int) -> None:
    harness = Harness()
    harness.running()
    append = one(harness.output((1, "a")), Publish)
    harness.output((2, "b"))
    assert harness.refused(err_code) == []
    assert all_of(harness.later(0.04), Publish) == []
    assert all_of(harness.later(0.02), Publish) == [append]


def test_without_a_connection_appends_wait_and_go_out_unchanged() -> None:
    harness = Harness()
    harness.running()
    append = one(harness.output((1, "a")), Publish)
    harness.do(ConnectionChanged(connected=False))
    harness.output((2, "b"))
    assert all_of(harness.later(30), Publish) == []
    assert all_of(harness.do(ConnectionChanged(connected=True)), Publish) == [append]


def test_what_is_made_without_a_connection_is_appended_after_it() -> None:
    harness = Harness()
    harness.running()
    harness.do(ConnectionChanged(connected=False))
    assert all_of(harness.output((1, "a")), Publish) == []
    assert record(one(harness.do(ConnectionChanged(connected=True)), Publish)) == Tok(
        10, 0, [1], [Delta("a")]
    )


def test_late_answers_of_an_older_publish_are_ignored() -> None:
    harness = Harness()
    harness.running()
    first = one(harness.output((1, "a")), Publish)
    harness.stored(11)
    harness.output((2, "b"))
    assert harness.do(Stored(KEY, first.op, 11)) == []
    assert all_of(harness.output((3, "c")), Publish) == [], "the second append is still in flight"


def test_nobody_streams_so_appends_keep_an_interval() -> None:
    harness = Harness(append_interval_s=0.25)
    harness.running(meta={"stream": False})
    assert harness.output((1, "a")) == []
    assert all_of(harness.later(0.2), Publish) == []
    harness.output((2, "b"))
    first = one(harness.later(0.1), Publish)
    assert record(first) == Tok(10, 0, [1, 2], [Delta("ab")])
    harness.stored(11)
    assert harness.output((3, "c")) == []
    assert record(one(harness.later(0.3), Publish)) == Tok(10, 2, [3], [Delta("c")])


def test_append_fenced_by_end_acks() -> None:
    harness = Harness()
    harness.running()
    append = one(harness.output((1, "a")), Publish)
    assert one(harness.refused(last_seq=12), ReadCtl)
    actions = harness.ctl(12, End(status="cancelled"))
    assert one(actions, Forget).op == append.op
    assert one(actions, StopEngine)
    assert one(actions, Ack)


def test_append_fenced_by_a_newer_attempt_stops_in_silence() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    harness.refused(last_seq=12)
    actions = harness.ctl(12, lease("other", attempt=2))
    assert one(actions, Settled).outcome == "fenced"
    assert all_of(actions, Ack) == []
    assert harness.core.next_deadline() is not None
    assert all_of(harness.later(60), Publish) == []


def test_append_refused_under_our_own_lease_is_sent_again() -> None:
    harness = Harness()
    harness.offer(item())
    nonce = harness.nonce()
    harness.stored(10)
    append = one(harness.output((1, "a")), Publish)
    harness.refused(last_seq=10)
    assert harness.ctl(10, lease(nonce)) == []
    assert all_of(harness.later(0.06), Publish) == [append]


def _fenced_with_newer_delivery(harness: Harness) -> None:
    """Tokens 1 and 2 are stored, 3 is in flight and 4 waits; attempt 2 took over, and attempt 3 is ours again."""
    harness.running()
    harness.output((1, "a"), (2, "b"))
    harness.stored(11)
    harness.output((3, "c"))
    harness.output((4, "d"))
    harness.offer(item(attempt=3, ctl_seq=12, cause="redelivered"))
    harness.refused(last_seq=12)
    publish = one(harness.ctl(12, lease("other", attempt=2)), Publish)
    assert (publish.kind, publish.expect) == ("lease", 12)
    assert one(harness.stored(20), ReadLog).upto_seq == 20


OLD = [Entry(10, lease("w1.1")), Entry(11, Tok(10, 0, [1, 2], [Delta("ab")])), Entry(12, lease("other", 2))]
OURS = Entry(20, lease("w1.2", 3))


def test_fenced_by_an_older_attempt_than_our_delivery_keeps_the_tokens() -> None:
    harness = Harness()
    _fenced_with_newer_delivery(harness)
    actions = harness.log(*OLD, OURS)
    assert all_of(actions, StartEngine) == []
    assert record(one(actions, Publish)) == Tok(20, 2, [3, 4], [Delta("cd")])


def test_tokens_that_the_log_has_already_are_not_appended_again() -> None:
    harness = Harness()
    _fenced_with_newer_delivery(harness)
    actions = harness.log(*OLD, Entry(13, Tok(12, 2, [3], [Delta("c")])), OURS)
    assert record(one(actions, Publish)) == Tok(20, 3, [4], [Delta("d")])


@pytest.mark.parametrize(
    "other",
    [Tok(12, 2, [9], [Delta("c")]), Tok(12, 2, [3], [Delta("X")]), Tok(12, 2, [3, 4, 5], [Delta("cde")])],
    ids=["other id", "other text", "further than ours"],
)
def test_where_the_log_is_not_our_prefix_the_engine_restarts_from_it(other: Tok) -> None:
    harness = Harness()
    _fenced_with_newer_delivery(harness)
    actions = harness.log(*OLD, Entry(13, other), OURS)
    assert [type(action) for action in actions] == [StopEngine, StartEngine]
    prefix = one(actions, StartEngine).request.prefix
    assert told(prefix) == ([1, 2, *other.ids], ["ab" + other.deltas[0].text])


def test_a_finish_that_the_log_contradicts_is_forgotten() -> None:
    harness = Harness()
    _fenced_with_newer_delivery(harness)
    harness.finish((5, "e"))
    actions = harness.log(*OLD, Entry(13, Tok(12, 2, [9], [Delta("z")])), OURS)
    assert told(one(actions, StartEngine).request.prefix) == ([1, 2, 9], ["abz"])


def test_a_lost_log_is_written_again() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"), (2, "b"))
    harness.stored(11)
    harness.output((3, "c"))
    harness.refused()
    assert one(harness.ctl(0, None), Publish).expect == 0
    assert record(one(harness.stored(5000), Publish)) == Tok(5000, 0, [1, 2, 3], [Delta("abc")])


def test_a_cancel_hint_reads_and_end_frees_everything() -> None:
    harness = Harness()
    harness.running()
    assert one(harness.do(CancelHinted(KEY)), ReadCtl).key == KEY
    assert harness.do(CancelHinted(KEY)) == [], "one read at a time"
    actions = harness.ctl(12, End(status="cancelled"))
    assert [type(action) for action in actions] == [StopEngine, Ack, Settled]


def test_a_cancel_hint_without_end_is_only_a_hint() -> None:
    harness = Harness()
    harness.running()
    harness.do(CancelHinted(KEY))
    assert harness.ctl(10, lease("w1.1")) == []
    assert one(harness.output((1, "a")), Publish)
    read = one(harness.do(CancelHinted(KEY)), ReadCtl)
    assert harness.do(ReadFailed(KEY, read.op)) == []
    assert all_of(harness.later(0.5), ReadCtl) == []


def test_a_fence_met_while_a_hint_is_read_gets_a_read_of_its_own() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    hint = one(harness.do(CancelHinted(KEY)), ReadCtl)
    fence = one(harness.refused(last_seq=12), ReadCtl)
    assert fence.op != hint.op
    harness.read = hint
    assert harness.ctl(10, Handoff(nonce="x", n=0)) == []
    harness.read = fence
    assert one(harness.ctl(12, lease("other", attempt=2)), Settled)
