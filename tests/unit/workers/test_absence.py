"""A worker that was away, cut off or stopped: what it may still do, and what only the fence decides."""

from __future__ import annotations

import pytest

from schemas.dispatch import Work
from schemas.log import Entry, strikes
from schemas.output import Delta, End, Lease, Tok
from tests.unit.workers.world import (
    CAPABILITIES,
    RID,
    Harness,
    Life,
    Log,
    all_of,
    item,
    lease,
    one,
    record,
)
from workers.engines.base import EngineOutput
from workers.events import (
    Ack,
    ConnectionChanged,
    EngineHung,
    EngineProgress,
    Nak,
    Offered,
    Progress,
    Publish,
    ReadLog,
    Reply,
    SendPull,
    Settled,
    StartEngine,
    Tick,
)

CUT_OFF_S = 20.0
ACK_WAIT_S = 12.0


def _cut_off_while_running() -> Harness:
    """Token 1 is stored, 2 is in flight; 3 and 4 are made while nobody can be reached for 20 s."""
    harness = Harness(ack_wait_s=ACK_WAIT_S)
    harness.running()
    harness.output((1, "a"))
    harness.stored(11)
    harness.output((2, "b"))
    harness.do(ConnectionChanged(connected=False))
    harness.output((3, "c"))
    assert all_of(harness.later(CUT_OFF_S), Publish) == []
    harness.output((4, "d"))
    return harness


def test_the_only_worker_goes_on_under_its_lease_if_nobody_else_took_one() -> None:
    harness = _cut_off_while_running()
    again = one(harness.do(ConnectionChanged(connected=True)), Publish)
    assert record(again) == Tok(10, 1, [2], [Delta("b")]), "the same bytes"
    assert record(one(harness.stored(12), Publish)) == Tok(10, 2, [3, 4], [Delta("cd")])


def test_the_only_worker_answers_mine_and_goes_on_when_its_delivery_comes_again() -> None:
    harness = _cut_off_while_running()
    harness.do(ConnectionChanged(connected=True))
    actions = harness.offer(item(attempt=2, ctl_seq=10, cause="redelivered"), seq=2)
    assert one(actions, Reply).answers == ["mine"]
    assert all_of(actions, StartEngine) + all_of(actions, Publish) == []
    harness.stored(12)
    harness.stored(13)
    harness.finish((5, "e"))
    assert one(harness.stored(14), Ack).ack == f"ack.{RID}.2"


def _taken_over(harness: Harness, *others: Tok) -> list[Entry]:
    """The log as it stands when another worker has leased in the meantime and made `others`."""
    toks = [Entry(13 + i, tok) for i, tok in enumerate(others)]
    return [
        Entry(10, lease("w1.1")),
        Entry(11, Tok(10, 0, [1], [Delta("a")])),
        Entry(12, lease("other", 2, cause="redelivered")),
        *toks,
    ]


def test_one_of_two_is_fenced_and_says_no_more() -> None:
    harness = _cut_off_while_running()
    harness.do(ConnectionChanged(connected=True))
    harness.refused(last_seq=12)
    actions = harness.ctl(12, lease("other", attempt=2))
    assert one(actions, Settled).outcome == "fenced"
    after = [*actions, *harness.later(60)]
    for kind in (Publish, Progress, Nak, Ack):
        assert all_of(after, kind) == []


def test_one_of_two_that_is_offered_the_request_again_keeps_what_the_log_agrees_with() -> None:
    harness = _cut_off_while_running()
    harness.do(ConnectionChanged(connected=True))
    harness.offer(item(attempt=3, ctl_seq=12, cause="redelivered"), seq=2)
    harness.refused(last_seq=12)
    relet = one(harness.ctl(12, lease("other", attempt=2)), Publish)
    own = record(relet)
    assert isinstance(own, Lease)
    assert (relet.expect, own.cause) == (12, "redelivered")
    assert one(harness.stored(20), ReadLog).upto_seq == 20
    log = _taken_over(harness, Tok(12, 1, [2, 3], [Delta("bc")]))
    actions = harness.log(*log, Entry(20, own))
    assert all_of(actions, StartEngine) == []
    assert record(one(actions, Publish)) == Tok(20, 3, [4], [Delta("d")]), "no token twice, none left out"
    assert strikes([*log, Entry(20, own)]) == 0


def test_one_of_two_whose_tokens_differ_from_the_log_begins_again_from_it() -> None:
    harness = _cut_off_while_running()
    harness.do(ConnectionChanged(connected=True))
    harness.offer(item(attempt=3, ctl_seq=12, cause="redelivered"), seq=2)
    harness.refused(last_seq=12)
    harness.ctl(12, lease("other", attempt=2))
    harness.stored(20)
    log = _taken_over(harness, Tok(12, 1, [9], [Delta("z")]))
    prefix = one(harness.log(*log, Entry(20, lease("w1.9", 3))), StartEngine).request.prefix
    assert prefix is not None
    assert (prefix.ids, [choice.text for choice in prefix.choices]) == ([1, 9], ["az"])


def test_a_cut_off_worker_that_lives_on_makes_no_double_text_and_no_strike() -> None:
    """Both workers with engines and a log: one is cut off in mid-stream, the other continues, the first comes back."""
    log = Log()
    first, second = Life("w1", log), Life("w2", log)
    first.feed(Offered(Work(1, [item()]), "reply"), 0.0)
    for _ in range(12):
        first.advance(0.0)
    first.todo.clear()
    first.inbox.clear()
    first.feed(ConnectionChanged(connected=False), 1.0)
    for _ in range(3):
        for event in first.engine.step():
            first.feed(event, 2.0)
    assert log.last_ctl is not None
    again = item(attempt=2, ctl_seq=log.last_ctl.seq, cause="redelivered")
    second.feed(Offered(Work(1, [again]), "reply"), 14.0)
    while second.advance(14.0):
        pass
    assert log.end is not None
    assert log.end.status == "ok"
    first.feed(ConnectionChanged(connected=True), 1.0 + CUT_OFF_S)
    while first.advance(1.0 + CUT_OFF_S):
        pass
    assert second.is_acked
    assert first.is_acked, "an END that is found is acked, whoever wrote it"
    assert first.naks == 0
    assert strikes(log.entries) == 0


def test_what_is_made_while_cut_off_is_bounded_by_the_context_of_each_slot() -> None:
    """An engine makes no more tokens of a request than its model's context holds, and no request is taken meanwhile:
    `slots` times `context_tokens_max` is the most that can wait."""
    harness = Harness(slots=2, ack_wait_s=ACK_WAIT_S)
    rids = ["a" * 26, "b" * 26]
    harness.offer(*[item(rid) for rid in rids])
    harness.do(ConnectionChanged(connected=False))
    assert harness.offer(item("c" * 26)) == [], "nothing is taken without a connection"
    for rid in rids:
        attempt = harness.core._attempts[f"public.{rid}"]
        for token in range(CAPABILITIES.context_tokens_max):
            harness.do(EngineOutput(attempt.key, attempt.run.number, [token], [Delta("x")]))
        assert attempt._draft.tokens.made == CAPABILITIES.context_tokens_max
        harness.core.handle(EngineOutput(attempt.key, attempt.run.number, [0], []), harness.now)
        with pytest.raises(AssertionError, match="the context bounds what waits"):
            attempt.check()
        attempt._draft.tokens.cut()


def test_a_worker_that_was_stopped_longer_than_ack_wait_publishes_only_what_the_fence_decides() -> None:
    harness = Harness(ack_wait_s=ACK_WAIT_S)
    harness.running()
    append = one(harness.output((1, "a")), Publish)
    harness.now += ACK_WAIT_S + 5
    actions = harness.do(Tick())
    assert all_of(actions, Publish) == [append], "under the old lease: the broker decides"
    assert all_of(actions, Nak) == []
    harness.refused(last_seq=15)
    actions = harness.ctl(15, lease("other", attempt=2))
    assert [type(action) for action in actions if not isinstance(action, SendPull)][-1] is Settled
    assert all_of([*actions, *harness.later(60)], Nak) == []


def test_a_stopped_worker_gives_nothing_back_by_a_hold_that_is_over() -> None:
    """What it was about to do when it was stopped: give back after a failure, lease again, hand off."""
    harness = Harness(ack_wait_s=ACK_WAIT_S)
    harness.running()
    harness.output((1, "a"))
    harness.now += ACK_WAIT_S + 5
    harness.refused(last_seq=15)
    actions = harness.ctl(15, lease("older", attempt=0))
    assert one(actions, Settled).outcome == "fenced", "a newer delivery would be needed for a lease"
    assert all_of(actions, Publish) + all_of(actions, Nak) == []

    harness = Harness(ack_wait_s=ACK_WAIT_S)
    harness.offer(item())
    harness.now += ACK_WAIT_S + 5
    actions = harness.refused(10077)
    assert one(actions, Settled).outcome == "no_room"
    assert all_of(actions, Nak) == []


def test_an_offer_that_is_stale_is_decided_by_its_lease() -> None:
    """It lay in the socket while the process stood still; somebody else has run the request since."""
    harness = Harness(ack_wait_s=ACK_WAIT_S)
    harness.now += 30
    assert one(harness.offer(item(attempt=1)), Publish).expect == 0
    harness.refused(last_seq=40)
    actions = harness.ctl(40, lease("other", attempt=2))
    assert one(actions, Settled).outcome == "fenced"
    assert all_of(actions, Nak) + all_of(actions, Ack) == []

    harness = Harness(ack_wait_s=ACK_WAIT_S)
    harness.offer(item(attempt=1))
    harness.refused(last_seq=40)
    assert one(harness.ctl(40, End(status="ok")), Ack), "an END settles it, whoever runs it"


def test_an_engine_that_was_stopped_with_its_worker_is_not_hung() -> None:
    harness = Harness(ack_wait_s=ACK_WAIT_S, step_s_max=10)
    harness.running()
    step_at = harness.now
    for _ in range(4):
        harness.do(EngineProgress(1, step_at))
        harness.later(0.5)
    harness.now += 60  # SIGSTOP, SIGCONT
    harness.do(EngineProgress(1, step_at))
    actions = harness.do(Tick())
    assert all_of(actions, EngineHung) == []
    for _ in range(18):
        harness.do(EngineProgress(1, step_at))
        assert all_of(harness.later(0.5), EngineHung) == []
    for _ in range(6):
        harness.do(EngineProgress(1, step_at))
        actions += harness.later(0.5)
    assert all_of(actions, EngineHung), "it has been looked at for ten seconds, and still does not step"
