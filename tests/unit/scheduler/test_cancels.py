"""Cancels, in every state a request can be in here, and many at once."""

from __future__ import annotations

from scheduler import cancels, events
from schemas.output import End
from schemas.requests import RequestMeta
from tests.unit.scheduler.world import LEASE, TENANT, World, ack_of, all_of, offered, one, rid


def wish(world: World, number: int, reply_to: str = "inbox") -> list[events.Action]:
    return world.send(events.CancelWished(TENANT, rid(number), "not needed", reply_to))


def test_a_wish_for_what_nobody_here_knows_asks_the_streams(world: World) -> None:
    cancel = one(events.Cancel, wish(world, 1))
    assert (cancel.rid, cancel.is_known, cancel.reply_to) == (rid(1), False, "inbox")
    assert (cancel.end.status, cancel.end.reason, cancel.end.message) == (
        "cancelled",
        "cancelled",
        "not needed",
    )


def test_a_wish_for_what_waits_here_takes_it_away_at_once(world: World) -> None:
    world.deliver(1, meta=RequestMeta(fingerprint="f"))
    cancel = one(events.Cancel, wish(world, 1))
    assert (cancel.is_known, cancel.end.fingerprint) == (True, "f")
    assert not offered(world.pull("w1"))
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(1)))).ack == ack_of(1)


def test_a_wish_that_fails_gives_the_request_back(world: World) -> None:
    world.deliver(1)
    wish(world, 1)
    assert one(events.Nak, world.send(events.CallFailed(TENANT, rid(1)))).ack == ack_of(1)


def test_a_wish_while_the_log_is_read(world: World) -> None:
    world.pull("w1")
    world.deliver(1, attempt=2)
    wish(world, 1)
    assert not offered(world.read(1, LEASE))
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(1)))).ack == ack_of(1, 2)


def test_a_wish_for_what_is_offered_and_refused(world: World) -> None:
    world.pull("w1", free=1)
    offer = one(events.Offer, world.deliver(1))
    assert one(events.Cancel, wish(world, 1)).is_known
    world.pull("w2", free=4)
    actions = world.answer(offer, "full")
    assert not offered(actions), "first its log is read"
    assert one(events.ReadCtl, actions).rid == rid(1)
    assert one(events.Ack, world.read(1, End(status="cancelled"))).ack == ack_of(1)


def test_a_wish_for_what_is_offered_and_taken_is_settled_by_whoever_is_first(world: World) -> None:
    world.pull("w1")
    offer = one(events.Offer, world.deliver(1))
    wish(world, 1)
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(1)))).ack == ack_of(1)
    assert not world.answer(offer, "accepted")
    assert world.core.held == 0


def test_a_wish_for_what_runs_is_known(world: World) -> None:
    world.pull("w1")
    world.run(1)
    assert one(events.Cancel, wish(world, 1)).is_known


def test_only_the_leader_grants_wishes(world: World) -> None:
    world.send(events.LostLeadership())
    assert not wish(world, 1)


def test_a_cancelled_request_that_is_delivered_before_its_deletion_is_no_first_delivery(world: World) -> None:
    world.pull("w1")
    world.send(events.CancelHinted(TENANT, rid(1)))
    actions = world.deliver(1)
    assert not offered(actions)
    assert one(events.ReadCtl, actions).rid == rid(1)
    assert one(events.Ack, world.read(1, End(status="cancelled"))).ack == ack_of(1)
    world.send(events.CancelOver(TENANT, rid(1)))
    assert offered(world.deliver(2))


def test_a_cancelled_request_that_its_deletion_overtakes_is_no_first_delivery(world: World) -> None:
    world.pull("w1")
    world.send(events.CancelHinted(TENANT, rid(1)))
    world.send(events.CancelOver(TENANT, rid(1)))
    assert one(events.ReadCtl, world.deliver(1)).rid == rid(1)
    assert one(events.Ack, world.read(1, End(status="cancelled"))).ack == ack_of(1)
    world.send(events.CancelHinted(TENANT, rid(2)))
    world.send(events.CancelOver(TENANT, rid(2)))
    world.wait(cancels.OVERTAKEN_S + 0.1)
    assert offered(world.deliver(2)), "it was not deleted, and is new after all"


def test_a_thousand_cancels_at_once_are_done_one_after_the_other(world: World) -> None:
    world.pull("w1", free=8)
    started = [
        action.rid
        for number in range(1000)
        for action in all_of(events.DeleteQueued, world.send(events.CancelHinted(TENANT, rid(number))))
    ]
    assert len(started) == cancels.UNDER_WAY_MAX
    assert not offered(world.deliver(999)), "also the last one in the line is not run"
    assert one(events.Ack, world.read(999, End(status="cancelled")))
    for request in started:
        started += [one.rid for one in all_of(events.DeleteQueued, world.send(_over(request)))]
    assert started == [rid(number) for number in range(1000)]


def _over(request: str) -> events.CancelOver:
    return events.CancelOver(TENANT, rid(int(request.removeprefix("request"))))
