"""Redeliveries, time-outs, cancels, and what else becomes of a held request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler import events
from schemas.ids import WorkerId
from schemas.output import Cause, CtlRecord, End, Failed, Handoff, Lease
from schemas.requests import InvalidMeta, RequestMeta
from tests.unit.scheduler.world import LEASE, LIMITS, TENANT, World, ack_of, all_of, offered, one, rid


def test_a_redelivery_reads_the_log_first(world: World) -> None:
    world.pull("w1")
    actions = world.deliver(1, attempt=2)
    assert one(events.ReadCtl, actions) == events.ReadCtl(TENANT, rid(1))
    assert not offered(actions)
    assert one(events.ReadHistory, world.read(1, Failed("n", "boom"), seq=99)).rid == rid(1)
    world.pull("w1", free=8)
    item = one(events.Offer, world.tell(1, LEASE, Failed("n", "boom"))).work.items[0]
    assert (item.attempt, item.ctl_seq, item.cause, item.ack) == (2, 99, "engine_error", ack_of(1, 2))


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (Failed("n", "boom"), "engine_error"),
        (Handoff("n", 3), "handoff"),
        (LEASE, "redelivered"),
        (Lease(nonce="n", worker="nobody", attempt=1, cause="first"), "worker_dead"),
        (None, "redelivered"),
    ],
)
def test_the_cause_of_a_repeat(world: World, record: CtlRecord | None, cause: Cause) -> None:
    world.pull("w1", free=8)
    world.deliver(1, attempt=2)
    actions = world.read(1, record)
    if isinstance(record, Failed):
        actions = world.tell(1, record)
    item = one(events.Offer, actions).work.items[0]
    assert item.cause == cause
    assert item.ctl_seq == (0 if record is None else 7)


def test_what_came_back_sooner_than_its_worker_was_found_dead_counts_against_it(world: World) -> None:
    """Else a request that kills each worker, every time in step with its redelivery, would never collect a strike."""
    world.pull("w1", free=0, running=[1])
    world.deliver(1, attempt=2)
    offer = one(events.Offer, world.read(1, LEASE))
    assert (offer.worker, offer.work.items[0].cause) == ("w1", "redelivered")
    assert not offered(world.send(events.OfferFailed(WorkerId("w1"), offer.work.seq)))
    gone = world.wait(4)
    assert one(events.WorkerGone, gone).worker == "w1"
    assert not all_of(events.Nak, gone), "the delivery at hand is newer: another one would only come between"
    assert one(events.Offer, world.pull("w2", free=1)).work.items[0].cause == "worker_dead"


def test_a_dead_workers_request_that_runs_elsewhere_is_not_sent_again(world: World) -> None:
    world.pull("w1", running=[1, 2])
    world.wait(2)
    world.pull("w2", running=[1])
    assert [nak.ack for nak in all_of(events.Nak, world.wait(1.5))] == [ack_of(2)]


def test_who_has_just_come_calls_nobody_dead() -> None:
    world = World()
    world.send(events.ConnectionChanged(True))
    world.send(events.BecameLeader(1, []))
    world.pull("w1")
    world.deliver(1, attempt=2)
    gone = Lease(nonce="n", worker="nobody", attempt=1, cause="first")
    assert one(events.Offer, world.read(1, gone)).work.items[0].cause == "redelivered"


def test_what_is_older_than_the_connection_is_no_first_delivery(world: World) -> None:
    world.pull("w1", running=[1])
    world.send(events.ConnectionChanged(False))
    world.wait(1)
    world.send(events.ConnectionChanged(True))
    assert offered(world.deliver(2)) == [("w1", [2])]
    assert not offered(world.deliver(1, age_s=5)), "its broker may have forgotten that it delivered it before"
    item = one(events.Offer, world.read(1, LEASE, seq=9)).work.items[0]
    assert (item.attempt, item.cause, item.ctl_seq) == (1, "redelivered", 9)


def test_an_end_in_the_log_settles_a_redelivery(world: World) -> None:
    world.pull("w1")
    world.deliver(1, attempt=2)
    actions = world.read(1, End(status="ok"))
    assert one(events.Ack, actions).ack == ack_of(1, 2)
    assert not offered(actions)
    assert world.core.held == 0


def test_a_redelivery_goes_first_to_the_worker_that_runs_it(world: World) -> None:
    world.pull("w1", free=0, running=[1])
    world.pull("w2", free=8)
    world.deliver(1, attempt=2)
    offer = one(events.Offer, world.read(1, LEASE))
    assert offer.worker == "w1", "without a free slot: it has one for this request"
    world.answer(offer, "mine")
    assert world.core.held == 0


def test_what_the_runner_refuses_goes_elsewhere(world: World) -> None:
    world.pull("w1", free=4, running=[1])
    world.pull("w2", free=1)
    world.deliver(1, attempt=2)
    offer = one(events.Offer, world.read(1, LEASE))
    assert offered(world.answer(offer, "full")) == [("w2", [1])]


@pytest.mark.parametrize("record", [Handoff("n", 3), Failed("n", "boom")])
def test_what_its_worker_gave_up_is_not_pressed_on_it(world: World, record: CtlRecord) -> None:
    world.pull("w1", free=0, running=[1])
    world.pull("w2", free=1, slots=1)
    world.deliver(1, attempt=2)
    assert offered(world.read(1, record) + world.tell(1, record)) == [("w2", [1])]


def test_a_call_without_answer_gives_the_request_back(world: World) -> None:
    world.deliver(1, attempt=2)
    actions = world.send(events.CallFailed(TENANT, rid(1)))
    assert one(events.Nak, actions) == events.Nak(ack_of(1, 2), 1.0)
    assert world.core.held == 0


def test_a_header_that_makes_no_sense_ends_the_request(world: World) -> None:
    world.pull("w1")
    actions = world.deliver(1, meta=InvalidMeta("nonsense"))
    end = one(events.Close, actions).end
    assert (end.status, end.reason, end.message) == ("error", "bad_request", "nonsense")
    assert not offered(actions)
    assert not all_of(events.Ack, actions), "first the END, then the ack"
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(1)))).ack == ack_of(1)


def test_a_body_too_large_for_a_worker_ends_the_request(world: World) -> None:
    assert one(events.Close, world.deliver(1, body=b"x" * 1001)).end.reason == "too_large"


def test_what_names_no_request_is_dropped(world: World) -> None:
    assert one(events.Ack, world.deliver(1, named=False)).ack == ack_of(1)
    assert world.core.held == 0


@pytest.mark.parametrize(
    ("meta", "age_s", "after_s"),
    [(RequestMeta(), 0, 120), (RequestMeta(), 100, 20), (RequestMeta(queue_timeout_s=5), 1, 4)],
)
def test_a_request_nobody_takes_expires(
    world: World, meta: RequestMeta, age_s: float, after_s: float
) -> None:
    world.deliver(1, meta=meta, age_s=age_s)
    assert not all_of(events.Close, world.wait(after_s - 0.01))
    end = one(events.Close, world.wait(0.02)).end
    assert (end.status, end.reason) == ("expired", "queue_timeout")
    assert not offered(world.pull("w1")), "while its END is written nobody gets it"
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(1)))).ack == ack_of(1)
    assert world.core.held == 0


def test_what_is_too_old_when_it_comes_is_not_offered(world: World) -> None:
    world.pull("w1")
    actions = world.deliver(1, age_s=121)
    assert one(events.Close, actions).end.reason == "queue_timeout"
    assert not offered(actions)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_request_whose_whole_time_passed_in_the_queue_is_closed_and_never_run(
    world: World, attempt: int
) -> None:
    world.pull("w1", free=8)
    actions = world.deliver(
        1, age_s=60, attempt=attempt, meta=RequestMeta(queue_timeout_s=1000, request_timeout_s=50)
    )
    if attempt > 1:
        actions = world.read(1, LEASE)
    assert one(events.Close, actions).end.reason == "request_timeout"
    assert not offered(actions + world.pull("w1", free=8))


def test_a_request_that_was_taken_once_has_its_whole_time(world: World) -> None:
    world.deliver(1, attempt=2, age_s=200, meta=RequestMeta(fingerprint="f"))
    assert not all_of(events.Close, world.read(1, LEASE))
    assert not all_of(events.Close, world.wait(99.9))
    end = one(events.Close, world.wait(0.2)).end
    assert (end.status, end.reason, end.fingerprint) == ("expired", "request_timeout", "f")


def test_an_offered_request_expires_only_once_it_is_back(world: World) -> None:
    world.pull("w1")
    offer = one(events.Offer, world.deliver(1, age_s=119.9))
    assert not all_of(events.Close, world.wait(0.15))
    assert one(events.Close, world.answer(offer, "full")).end.reason == "queue_timeout"


def test_a_close_without_answer_is_left_to_the_next_delivery(world: World) -> None:
    world.deliver(1, age_s=121)
    assert one(events.Nak, world.send(events.CallFailed(TENANT, rid(1)))).delay_s == 1.0


def test_many_deliveries_are_no_attempts(world: World) -> None:
    """Deliveries are given back for reasons of ours: a full window, a change of leaders. Only leases count."""
    world.pull("w1")
    assert not all_of(events.Close, world.deliver(1, attempt=1000))


def test_an_expiry_closes_only_the_log_that_was_read(world: World) -> None:
    world.deliver(1)
    close = one(events.Close, world.wait(130))
    assert close.expect == 0
    assert (close.end.status, close.end.reason) == ("expired", "queue_timeout")
    # Somebody leased it meanwhile: it is given back, and its next delivery finds who runs it.
    assert one(events.Nak, world.send(events.CallFailed(close.tenant, close.rid))).ack == ack_of(1)


def test_a_held_request_is_kept_and_let_go_without_a_connection(world: World) -> None:
    world.deliver(1)
    assert not all_of(events.Progress, world.wait(3.9))
    assert [action.ack for action in all_of(events.Progress, world.wait(8.2))] == [ack_of(1)] * 3
    world.send(events.ConnectionChanged(False))
    world.wait(5)
    assert world.core.held == 1
    actions = world.wait(2)
    assert world.core.held == 0
    assert not all_of(events.Nak, actions), "somebody else may hold it by now"


def test_after_a_pause_nothing_stale_is_offered(world: World) -> None:
    world.deliver(1)
    world.now += 6.1
    assert not offered(world.pull("w1"))
    assert world.core.held == 0


def test_a_reconnect_in_time_keeps_what_is_held(world: World) -> None:
    world.deliver(1)
    world.send(events.ConnectionChanged(False))
    world.wait(5)
    assert one(events.Progress, world.send(events.ConnectionChanged(True))).ack == ack_of(1)
    assert world.core.held == 1


def test_a_delivery_of_what_waits_here_replaces_it(world: World) -> None:
    world.deliver(1)
    assert all_of(events.ReadCtl, world.deliver(1, attempt=2))
    world.read(1, None)
    assert one(events.Offer, world.pull("w1")).work.items[0].ack == ack_of(1, 2)


def test_a_delivery_of_what_is_offered_only_changes_its_ack(world: World) -> None:
    world.pull("w1")
    offer = one(events.Offer, world.deliver(1))
    assert not offered(world.deliver(1, attempt=2))
    assert not offered(world.answer(offer, "full"))
    assert one(events.Offer, world.pull("w1", work_seq=1)).work.items[0].ack == ack_of(1, 2)


def test_the_same_request_queued_twice_is_run_once_at_a_time(world: World) -> None:
    world.deliver(1)
    again = world.deliver(1, klass="batch", stream_seq=77)
    assert one(events.Nak, again).delay_s == LIMITS.ack_wait_s
    assert world.core.held == 1


def test_a_cancelled_request_that_waits_is_settled(world: World) -> None:
    world.deliver(1)
    assert one(events.ReadCtl, world.send(events.CancelHinted(TENANT, rid(1)))).rid == rid(1)
    assert one(events.Ack, world.read(1, End(status="cancelled"))).ack == ack_of(1)


def test_a_wrong_hint_costs_a_read(world: World) -> None:
    world.deliver(1)
    world.send(events.CancelHinted(TENANT, rid(1)))
    assert not offered(world.pull("w1"))
    item = one(events.Offer, world.read(1, None)).work.items[0]
    assert (item.cause, item.ctl_seq) == ("first", 0)


def test_a_second_hint_reads_again(world: World) -> None:
    world.pull("w1")
    world.deliver(1, attempt=2)
    assert all_of(events.ReadCtl, world.send(events.CancelHinted(TENANT, rid(1))))
    assert not offered(world.read(1, LEASE)), "the first read may have been too early"
    assert all_of(events.Ack, world.read(1, End(status="cancelled")))


def test_a_cancelled_request_that_is_offered_is_left_to_the_worker(world: World) -> None:
    world.pull("w1")
    world.deliver(1)
    assert not world.send(events.CancelHinted(TENANT, rid(1)))


def test_a_cancelled_request_that_nobody_holds_is_deleted(world: World) -> None:
    assert world.send(events.CancelHinted(TENANT, rid(1))) == [events.DeleteQueued(TENANT, rid(1))]
    world.pull("w1", running=[2])
    assert not world.send(events.CancelHinted(TENANT, rid(2)))
    world.send(events.LostLeadership())
    assert not world.send(events.CancelHinted(TENANT, rid(1)))


def test_what_does_not_fit_into_the_window_is_given_back() -> None:
    world = World(replace(LIMITS, window_bytes_max=1500))
    world.lead("m")
    world.deliver(1, body=b"x" * 1000)
    assert one(events.Nak, world.deliver(2, body=b"x" * 600)) == events.Nak(ack_of(2), 1.0)
    assert not all_of(events.Nak, world.deliver(3, body=b"x" * 400))
