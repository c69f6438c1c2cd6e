"""Consumers that are stuck or gone."""

from __future__ import annotations

from scheduler import events
from scheduler.watchdog import STUCK_S
from schemas.ids import ModelKey
from tests.unit.scheduler.world import LEASE, World, all_of, offered, one

M = ModelKey("m")


def look(world: World, seconds: float, undelivered: int | None = 3) -> list[events.Action]:
    """Time passes, and the consumer is asked every two seconds."""
    actions = []
    for _ in range(round(seconds / 2)):
        actions += world.send(events.ConsumerSeen("standard", M, undelivered)) + world.wait(2)
    return actions


def test_a_stuck_consumer_is_opened_anew_then_made_anew(world: World) -> None:
    assert not all_of(events.ConsumerStuck, look(world, STUCK_S))
    actions = look(world, 2)
    assert one(events.ConsumerStuck, actions) == events.ConsumerStuck("standard", M, "reopen", 1)
    assert one(events.StopFetching, actions).model == M
    assert {ensure.remake for ensure in all_of(events.EnsureConsumers, actions)} == {None}
    assert all_of(events.Fetch, world.send(events.ConsumersReady(M)))
    assert not all_of(events.ConsumerStuck, look(world, STUCK_S - 2))
    actions = look(world, 4)
    assert one(events.ConsumerStuck, actions) == events.ConsumerStuck("standard", M, "remake", 2)
    assert all_of(events.EnsureConsumers, actions)[0] == events.EnsureConsumers(M, "standard")


def test_a_delivery_clears_the_suspicion(world: World) -> None:
    look(world, STUCK_S)
    world.pull("w1", free=8)
    world.run(1)
    assert not all_of(events.ConsumerStuck, look(world, STUCK_S))


def test_without_credit_nothing_is_expected(world: World) -> None:
    for number in range(4):
        world.deliver(number)
    assert not all_of(events.ConsumerStuck, look(world, 3 * STUCK_S)), "the window is full"


def test_an_idle_consumer_is_not_stuck(world: World) -> None:
    assert not all_of(events.ConsumerStuck, look(world, 3 * STUCK_S, undelivered=0))


def test_only_a_connected_leader_suspects(world: World) -> None:
    world.send(events.LostLeadership())
    assert not all_of(events.StopFetching, look(world, 3 * STUCK_S))


def test_a_consumer_that_is_gone_is_made_at_once_but_not_over_and_over(world: World) -> None:
    for said in (events.ConsumerGone(M), events.ConsumerSeen("batch", M, None)):
        world.wait(2)
        actions = world.send(said)
        assert one(events.StopFetching, actions).model == M
        assert one(events.EnsureConsumers, actions) == events.EnsureConsumers(M)
        assert not world.send(events.ConsumerGone(M)), "it is being made"
        assert all_of(events.Fetch, world.send(events.ConsumersReady(M, 0.0)))
        actions = world.send(events.ConsumerGone(M))
        assert not all_of(events.EnsureConsumers, actions)
        assert one(events.EnsureConsumers, world.wait(1.1)).model == M
        world.send(events.ConsumersReady(M, 0.0))


def test_what_a_consumer_made_anew_delivers_is_no_first_delivery(world: World) -> None:
    """It counts from one, also for what runs."""
    world.pull("w1", free=4, running=[])
    world.run(1)
    world.wait(2)
    world.send(events.ConsumerGone(M))
    world.send(events.ConsumersReady(M, 0.0))
    world.pull("w1", free=3, running=[1], work_seq=1)
    assert not offered(world.deliver(1, age_s=2))
    offer = one(events.Offer, world.read(1, LEASE))
    assert (offer.worker, offer.work.items[0].ctl_seq, offer.work.items[0].attempt) == ("w1", 7, 1)
    world.answer(offer, "mine")
    assert world.core.held == 0
    assert offered(world.deliver(2)) == [("w1", [2])], "what came after it was made is new"


def test_a_consumer_that_is_older_than_the_message_counts_right(world: World) -> None:
    world.pull("w1", free=4)
    world.send(events.ConsumersReady(M, 60.0))
    assert offered(world.deliver(1, age_s=59))
    assert not offered(world.deliver(2, age_s=61))
    assert world.core.held == 2
