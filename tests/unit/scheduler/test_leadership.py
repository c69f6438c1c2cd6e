"""Leading, standing by, fetching, announcing."""

from __future__ import annotations

from dataclasses import replace

from scheduler import events
from scheduler.models import recall, remembered
from schemas.ids import ModelKey
from tests.unit.scheduler.world import LIMITS, TENANT, World, ack_of, all_of, card, offered, one, rid

M = ModelKey("m")


def fetched(actions: list[events.Action]) -> dict[str, int]:
    """Messages asked for by class."""
    found: dict[str, int] = {}
    for fetch in all_of(events.Fetch, actions):
        found[fetch.klass] = found.get(fetch.klass, 0) + fetch.batch
    return found


def test_a_leader_fetches_a_small_lead_while_there_is_no_worker() -> None:
    world = World()
    actions = world.lead("m")
    assert one(events.EnsureConsumers, actions).model == M
    assert fetched(actions) == {"interactive": 4, "standard": 4, "batch": 4}


def test_free_slots_widen_the_window(world: World) -> None:
    assert fetched(world.pull("w1", free=16, slots=16)) == dict.fromkeys(
        ("interactive", "standard", "batch"), 16
    )
    assert not fetched(world.pull("w1", free=16, slots=16))


def test_one_class_may_use_all_slots_without_a_new_fetch(world: World) -> None:
    world.pull("w1", free=16, slots=16)
    for number in range(16):
        assert offered(world.deliver(number, klass="batch"))


def test_what_waits_is_taken_off_and_each_class_keeps_its_lead(world: World) -> None:
    for number in range(4):
        assert not fetched(world.deliver(number))
    actions = world.wait(3.1)
    assert fetched(actions) == {"interactive": 4, "batch": 4}, (
        "4 standard ones wait; the other leads are renewed"
    )


def test_an_ended_fetch_is_renewed_at_once(world: World) -> None:
    world.wait(2)
    assert fetched(world.send(events.FetchEnded("batch", M, 4))) == {"batch": 4}
    assert not fetched(world.send(events.FetchEnded("batch", ModelKey("nobody"), 4)))


def test_a_lost_fetch_is_written_off(world: World) -> None:
    assert not fetched(world.wait(2.9))
    assert fetched(world.wait(0.2)) == {"interactive": 4, "standard": 4, "batch": 4}


def test_a_window_full_of_bytes_fetches_nothing() -> None:
    world = World(replace(LIMITS, window_bytes_max=1800))
    world.lead("m")
    world.deliver(1, body=b"x" * 1000)
    assert fetched(world.send(events.FetchEnded("standard", M, 3))) == {"standard": 1}, "fewer large ones"
    world.deliver(2, klass="batch", body=b"x" * 800)
    actions = [
        action
        for klass in ("interactive", "standard", "batch")
        for action in world.send(events.FetchEnded(klass, M, 4))
    ]
    assert not fetched(actions)


def test_consumers_are_asked_for_until_they_are_there() -> None:
    world = World()
    world.lead()
    assert one(events.EnsureConsumers, world.pull("w1")).model == M
    assert not fetched(world.wait(0.9))
    assert len(all_of(events.EnsureConsumers, world.wait(1.0))) == 1
    assert fetched(world.send(events.ConsumersReady(M)))
    assert not all_of(events.EnsureConsumers, world.wait(3))


def test_a_reconnect_starts_with_the_consumers(world: World) -> None:
    world.send(events.ConnectionChanged(False))
    assert not fetched(world.wait(5))
    actions = world.send(events.ConnectionChanged(True))
    assert all_of(events.EnsureConsumers, actions)
    assert fetched(world.send(events.ConsumersReady(M))) == {"interactive": 4, "standard": 4, "batch": 4}


def test_a_standby_does_nothing_but_learn() -> None:
    world = World()
    world.send(events.ConnectionChanged(True))
    assert not world.pull("w1", free=8)
    assert not world.wait(1)
    world.pull("w1", free=8)
    world.send(events.BecameLeader(5, []))
    world.send(events.ConsumersReady(M))
    assert offered(world.deliver(1)) == [("w1", [1])]


def test_lost_leadership_gives_back_what_waits(world: World) -> None:
    world.deliver(1)
    world.deliver(2, attempt=2)
    actions = world.send(events.LostLeadership())
    assert all_of(events.Nak, actions) == [events.Nak(ack_of(1), 0.0), events.Nak(ack_of(2, 2), 0.0)]
    assert world.core.held == 0
    assert not fetched(world.wait(5))
    assert one(events.Nak, world.deliver(3)).ack == ack_of(3), "an open fetch still brought it"


def test_lost_leadership_finishes_what_is_under_way(world: World) -> None:
    world.pull("w1", free=2)
    taken, refused = (one(events.Offer, world.deliver(number)) for number in (1, 2))
    world.deliver(3, age_s=500)
    assert not all_of(events.Nak, world.send(events.LostLeadership()))
    assert not world.answer(taken, "accepted")
    assert one(events.Nak, world.answer(refused, "full")).ack == ack_of(2)
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(3)))).ack == ack_of(3)
    assert world.core.held == 0


def test_lost_leadership_without_a_connection_drops(world: World) -> None:
    world.deliver(1)
    world.send(events.ConnectionChanged(False))
    assert not all_of(events.Nak, world.send(events.LostLeadership()))
    assert world.core.held == 0


def test_the_leader_speaks_every_half_second_and_on_change(world: World) -> None:
    world.send(events.QueueDepth(7))
    assert 3 <= len(all_of(events.Announce, world.wait(2))) <= 4
    announced = one(events.Announce, world.pull("w1", free=5)).leader
    assert (announced.scheduler, announced.term, announced.queue_depth) == ("s1", 1, 7)
    state = announced.models[0]
    assert (state.card, state.workers, state.slots, state.free, state.idle) == (card(), 1, 8, 5, 0)
    assert not all_of(events.Announce, world.pull("w1", free=4))
    leaving = one(events.Announce, world.pull("w1", free=4, leaving=True)).leader.models[0]
    assert (leaving.workers, leaving.slots, leaving.free) == (0, 0, 0)
    assert len(one(events.Announce, world.pull("w2", model="other")).leader.models) == 2


def test_a_model_is_announced_for_a_minute_and_forgotten_after_an_hour(world: World) -> None:
    world.pull("w1")
    announced = all_of(events.Announce, world.wait(59))[-1].leader
    assert announced.models[0].workers == 0
    assert 58 < announced.models[0].seen_age_s < 59.1
    actions = world.wait(2)
    assert all_of(events.Announce, actions)[-1].leader.models == []
    assert fetched(world.wait(5)), "requests that wait must still be found to expire"
    for _ in range(6):
        actions = world.wait(600)
    assert one(events.StopFetching, actions).model == M
    assert not fetched(world.wait(5))


def test_a_model_is_remembered_at_first_sight_and_now_and_then(world: World) -> None:
    assert one(events.RememberModel, world.pull("w1")).card == card()
    world.wait(19)
    assert not all_of(events.RememberModel, world.pull("w1"))
    world.wait(2)
    assert all_of(events.RememberModel, world.pull("w1"))


def test_what_is_remembered_is_recalled_with_its_age() -> None:
    assert recall(remembered(card(), 100.0), 130.0) == events.KnownModel(card(), 30.0)


def test_the_leader_tells_how_many_workers_run_nothing(world: World) -> None:
    world.pull("w1", free=8)
    world.pull("w2", free=3)
    state = all_of(events.Announce, world.wait(0.6))[-1].leader.models[0]
    assert (state.workers, state.idle) == (2, 1)
