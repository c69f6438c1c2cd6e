"""What the leader tells of a model's demand: who waits, and how many were taken."""

from __future__ import annotations

from scheduler import events
from schemas.dispatch import ModelState
from schemas.ids import ModelKey
from schemas.requests import CLASSES
from tests.unit.scheduler.world import World, all_of, one

M = ModelKey("m")


def told(world: World) -> ModelState:
    """The model in the next heartbeat."""
    return all_of(events.Announce, world.wait(0.6))[-1].leader.models[0]


def test_what_is_held_and_what_the_broker_has_left_both_wait(world: World) -> None:
    world.pull("w1", free=0)
    for number in range(3):
        world.deliver(number)
    world.deliver(3, klass="batch")
    world.send(events.ConsumerSeen("standard", M, 20))
    assert told(world).waiting == {"standard": 23, "batch": 1}
    world.deliver(4)
    world.deliver(5, attempt=2)
    assert told(world).waiting == {"standard": 24, "batch": 1}, "what comes again was not at the broker"


def test_an_idle_model_says_nothing(world: World) -> None:
    world.pull("w1", free=4)
    state = told(world)
    assert (state.waiting, state.taken, state.waiting_age_s) == ({}, {}, 0.0)


def test_taken_is_what_a_worker_accepted(world: World) -> None:
    world.pull("w1", free=4)
    world.run(1)
    world.answer(one(events.Offer, world.deliver(2, klass="interactive")), "accepted")
    world.answer(one(events.Offer, world.deliver(3)), "done")
    world.answer(one(events.Offer, world.deliver(4)), "full")
    state = told(world)
    assert state.taken == {"interactive": 1, "standard": 1}
    assert state.waiting == {"standard": 1}


def test_a_new_leader_counts_from_nothing(world: World) -> None:
    world.pull("w1", free=4)
    world.run(1)
    world.send(events.ConsumerSeen("standard", M, 9))
    world.send(events.LostLeadership())
    world.wait(1)
    announced = one(events.Announce, world.send(events.BecameLeader(2, []))).leader.models[0]
    assert (announced.taken, announced.waiting) == ({}, {})


def test_only_consumers_that_may_have_something_are_looked_at_every_second(world: World) -> None:
    world.pull("w1", free=0)
    world.wait(3)
    for number in range(4):
        world.deliver(number)
    looks: dict[str, int] = dict.fromkeys(CLASSES, 0)
    for _ in range(60):
        world.wait(0.1)
        for klass, model in world.core.to_look_at(world.now):
            assert model == M
            looks[klass] += 1
            world.send(events.ConsumerSeen(klass, M, 7 if klass == "standard" else 0))
    assert looks == {"interactive": 3, "standard": 6, "batch": 3}, "the others have credit open"


def test_only_a_connected_leader_looks(world: World) -> None:
    world.wait(3)
    assert len(world.core.to_look_at(world.now)) == len(CLASSES)
    assert not world.core.to_look_at(world.now + 0.5)
    world.send(events.LostLeadership())
    assert not world.core.to_look_at(world.now + 5)


def test_how_old_the_count_is_only_matters_where_something_is_left(world: World) -> None:
    world.pull("w1", free=0)
    for number in range(4):
        world.deliver(number)
    world.send(events.ConsumerSeen("standard", M, 7))
    world.wait(0.7)
    assert 0.7 <= told(world).waiting_age_s <= 1.4
