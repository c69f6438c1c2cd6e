"""Offers, pulls, signs of progress and drain: what concerns the worker as a whole."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from schemas.dispatch import Running
from schemas.output import End
from tests.unit.workers.world import CAPABILITIES, KEY, RID, USAGE, Harness, all_of, item, one
from workers.core import ENDED_MAX, ENDED_S
from workers.engines.base import EngineFinished
from workers.events import (
    Ack,
    CancelHinted,
    ConnectionChanged,
    Drain,
    EngineHung,
    EngineProgress,
    Event,
    HandOff,
    LeaderSeen,
    Progress,
    Reply,
    SendPull,
    StartEngine,
    StopEngine,
    Tick,
)


def _rid(i: int) -> str:
    return f"r{i:025d}"


def test_one_answer_per_item_in_order() -> None:
    harness = Harness(slots=2)
    harness.offer(item(_rid(0)))
    actions = harness.offer(item(_rid(1)), item(_rid(0), attempt=2), item(_rid(2)), seq=2)
    reply = one(actions, Reply)
    assert (reply.to, reply.answers) == ("reply", ["accepted", "mine", "full"])


def test_requests_of_two_tenants_may_share_a_rid() -> None:
    harness = Harness()
    assert one(harness.offer(item(), item(tenant="other")), Reply).answers == ["accepted", "accepted"]


def test_done_answers_a_request_that_just_ended_and_acks_its_newer_delivery() -> None:
    harness = Harness()
    harness.running()
    harness.finish((1, "a"))
    harness.stored(11)
    actions = harness.offer(item(attempt=2), seq=2)
    assert one(actions, Reply).answers == ["done"]
    assert one(actions, Ack).ack == f"ack.{RID}.2"


def test_what_ended_is_remembered_for_a_while_and_not_without_bound() -> None:
    harness = Harness()
    for i in range(ENDED_MAX + 1):
        harness.offer(item(_rid(i)))
        harness.stored(10)
        harness.finish((1, "a"))
        harness.stored(11)
    assert one(harness.offer(item(_rid(0)), item(_rid(1))), Reply).answers == ["accepted", "done"]
    harness.now += ENDED_S
    assert one(harness.offer(item(_rid(2))), Reply).answers == ["accepted"]


def test_an_offer_that_is_handled_without_a_connection_is_not_taken() -> None:
    harness = Harness()
    harness.do(ConnectionChanged(connected=False))
    assert harness.offer(item()) == []


def test_a_slot_is_free_once_the_engine_is_done_with_it() -> None:
    harness = Harness(slots=1)
    harness.running()
    assert one(harness.offer(item(_rid(1))), Reply).answers == ["full"]
    harness.finish((1, "a"))
    assert one(harness.offer(item(_rid(1))), Reply).answers == ["accepted"], "END is still on its way"


def test_requests_that_only_wait_for_their_end_are_bounded_too() -> None:
    harness = Harness(slots=2)
    for i in range(4):
        assert one(harness.offer(item(_rid(i))), Reply).answers == ["accepted"]
        harness.finish((1, "a"))
    assert one(harness.offer(item(_rid(9))), Reply).answers == ["full"]
    assert one(harness.later(0.5), SendPull).pull.free == 0


def test_every_change_of_free_slots_is_told_once_per_moment() -> None:
    harness = Harness(slots=4)
    assert one(harness.do(Tick()), SendPull).pull.free == 4
    pull = one(harness.offer(item(_rid(1)), item(_rid(2)), seq=7), SendPull).pull
    assert (pull.free, pull.slots, pull.work_seq, pull.running) == (2, 4, 7, None)
    requests = [
        action.request for action in all_of(harness.offer(item(_rid(3)), item(_rid(4)), seq=8), StartEngine)
    ]
    for request in requests:
        finished = EngineFinished(request.key, request.run, ["stop"], USAGE)
        assert all_of(harness.do(finished), SendPull) == []
    assert harness.core.next_deadline() == harness.now
    assert one(harness.do(Tick()), SendPull).pull.free == 2
    assert all_of(harness.do(Tick()), SendPull) == []


def test_the_heartbeat_lists_what_runs() -> None:
    harness = Harness(pull_interval_s=0.5)
    harness.do(Tick())
    harness.running()
    harness.do(EngineProgress(17, harness.now))
    pulls = [action.pull for action in all_of(harness.later(1.01), SendPull)]
    full = [pull for pull in pulls if pull.running is not None]
    assert len(full) == 2
    assert full[0].running == [Running(RID, f"ack.{RID}.1", started=False)]
    assert full[0].steps == 17
    assert full[0].worker == "w1"


def test_a_new_leader_and_a_reconnect_get_a_full_pull_at_once() -> None:
    harness = Harness()
    harness.do(Tick())
    harness.running()
    harness.do(Tick())
    assert one(harness.do(LeaderSeen(3)), SendPull).pull.running == [
        Running(RID, f"ack.{RID}.1", started=False)
    ]
    assert all_of(harness.do(LeaderSeen(3)), SendPull) == []
    harness.do(ConnectionChanged(connected=False))
    assert all_of(harness.later(2), SendPull) == []
    assert one(harness.do(ConnectionChanged(connected=True)), SendPull).pull.running is not None


def test_signs_of_progress_come_every_third_of_ack_wait() -> None:
    harness = Harness(ack_wait_s=12)
    harness.running()
    assert all_of(harness.later(3.9), Progress) == []
    assert one(harness.later(0.2), Progress).ack == f"ack.{RID}.1"
    assert one(harness.later(4.0), Progress)


def test_a_slow_engine_keeps_its_work() -> None:
    harness = Harness(ack_wait_s=12, step_s_max=10)
    harness.running()
    for _ in range(20):
        harness.do(EngineProgress(1, harness.now))
        actions = harness.later(9.5)
        assert all_of(actions, Progress)
        assert not all_of(actions, EngineHung)


def test_a_hung_engine_loses_its_work_by_ending_the_process() -> None:
    harness = Harness(ack_wait_s=12, step_s_max=10)
    harness.running()
    harness.do(EngineProgress(1, harness.now))
    assert not all_of(harness.later(9.4), EngineHung)
    assert all_of(harness.later(1.2), EngineHung)


def test_an_engine_that_compiles_says_how_long_its_steps_may_take() -> None:
    """A first step of 16 s, at a `step_s_max` of 10 s for engines that say nothing."""
    slow = replace(CAPABILITIES, step_s_max=20.0)
    harness = Harness(capabilities=slow, ack_wait_s=12, step_s_max=10)
    harness.running()
    actions = []
    for _ in range(32):
        harness.do(EngineProgress(0, 0.0))
        actions += harness.later(0.5)
    assert len(all_of(actions, Progress)) >= 3, "the delivery stays its own"
    assert not all_of(actions, EngineHung)
    for _ in range(10):
        harness.do(EngineProgress(0, 0.0))
        actions += harness.later(0.5)
    assert all_of(actions, EngineHung)[0].step_s_max == 20.0


def test_a_hand_off_tells_at_once_that_nothing_more_is_taken() -> None:
    harness = Harness()
    harness.running()
    actions = harness.do(HandOff())
    pull = one(actions, SendPull).pull
    assert (pull.leaving, pull.free) == (True, 0)
    assert one(harness.offer(item(_rid(1))), Reply).answers == ["draining"]
    assert one(actions, StopEngine)


def test_an_engine_that_owes_nothing_does_not_hang() -> None:
    harness = Harness(ack_wait_s=12, step_s_max=10, append_timeout_s=100)
    assert not all_of(harness.later(30), EngineHung), "idle"
    harness.running()
    assert not all_of(harness.later(9.4), EngineHung), "it has its time from when the request came"
    harness.finish((1, "a"))
    assert not all_of(harness.later(30), EngineHung), "the rest is the broker's"


def test_a_request_that_no_longer_needs_the_engine_shows_progress_whatever_the_engine_does() -> None:
    harness = Harness(ack_wait_s=12, step_s_max=10, append_timeout_s=100)
    harness.running()
    harness.finish((1, "a"))
    assert len(all_of(harness.later(40), Progress)) >= 9


def test_no_sign_without_a_connection_and_one_at_once_after_it() -> None:
    harness = Harness(ack_wait_s=12)
    harness.running()
    harness.do(ConnectionChanged(connected=False))
    assert all_of(harness.later(5), Progress) == []
    assert one(harness.do(ConnectionChanged(connected=True)), Progress)


def test_mine_swaps_the_delivery_for_acks_and_signs() -> None:
    harness = Harness(ack_wait_s=12)
    harness.running()
    harness.later(3)
    assert one(harness.offer(item(attempt=2), seq=2), Reply).answers == ["mine"]
    assert all_of(harness.later(3.9), Progress) == []
    assert one(harness.later(0.2), Progress).ack == f"ack.{RID}.2"
    # A broker killed and started again may count deliveries from one: the last offer is the newest delivery.
    harness.offer(item(attempt=1, ack="ack.again"), seq=3)
    harness.finish((1, "a"))
    assert one(harness.stored(11), Ack).ack == "ack.again"


def test_drain_takes_nothing_and_finishes_what_runs() -> None:
    harness = Harness()
    harness.running()
    pull = one(harness.do(Drain()), SendPull).pull
    assert (pull.leaving, pull.free) == (True, 0)
    assert one(harness.offer(item(_rid(1)), item(attempt=2)), Reply).answers == ["draining", "mine"]
    assert not harness.core.drained
    harness.finish((1, "a"))
    assert not harness.core.drained
    harness.stored(11)
    assert harness.core.drained


def test_events_of_unknown_requests_are_ignored() -> None:
    harness = Harness()
    assert harness.do(CancelHinted(KEY)) == []


def test_events_of_a_stopped_run_are_ignored() -> None:
    harness = Harness()
    harness.running()
    harness.do(CancelHinted(KEY))
    assert one(harness.ctl(11, End(status="cancelled")), StopEngine)
    old = harness.request
    harness.offer(item(_rid(3)))
    harness.request = old
    assert harness.output((1, "a")) == []


def test_the_number_of_timers_does_not_grow() -> None:
    harness = Harness()
    harness.running()
    for i in range(2000):
        harness.now += 0.02
        harness.output((i, "a"))
        harness.stored(11 + i)
        while (at := harness.core.next_deadline()) is not None and at <= harness.now:
            harness.do(Tick())
    assert len(harness.core._timers) < 20


def test_the_heartbeat_tells_which_attempts_have_made_a_token() -> None:
    harness = Harness()
    harness.do(Tick())
    harness.running()
    harness.output((1, "a"))
    running = one(harness.do(LeaderSeen(3)), SendPull).pull.running
    assert running is not None
    assert running[0].started


@pytest.mark.parametrize("event", [Drain(), LeaderSeen(term=7)], ids=["drain", "leader"])
def test_a_pull_that_cannot_be_sent_waits_for_a_connection_without_spinning(event: Event) -> None:
    harness = Harness()
    harness.do(ConnectionChanged(connected=False))
    assert not all_of(harness.do(event), SendPull)
    deadline = harness.core.next_deadline()
    assert deadline is None or deadline > harness.now
    assert one(harness.do(ConnectionChanged(connected=True)), SendPull)


def test_a_drain_is_told_with_the_first_pull_after_a_reconnect() -> None:
    harness = Harness()
    harness.do(ConnectionChanged(connected=False))
    harness.do(Drain())
    assert one(harness.do(ConnectionChanged(connected=True)), SendPull).pull.leaving
