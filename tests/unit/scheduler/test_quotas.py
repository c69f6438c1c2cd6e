"""Bounds for those who publish without an edge: who is looked at, when, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler import events
from scheduler.quota_events import (
    CountQueue,
    FindOver,
    OverFound,
    QueueCounted,
    Queued,
    QuotaCallFailed,
    RefusalOver,
    RefuseQueued,
)
from scheduler.quotas import LOOK_EVERY_S, PATIENCE_S
from tests.unit.scheduler.world import LIMITS, TENANT, World, all_of, one, rid


@pytest.fixture
def world() -> World:
    made = World(replace(LIMITS, tenant_queue_max=5, model_queue_max=8))
    made.lead("m")
    return made


def depth(world: World, requests: int) -> list[events.Action]:
    return world.send(events.QueueDepth(requests))


def queued(number: int, *, admitted: bool = False) -> Queued:
    return Queued(TENANT, rid(number), 100 + number, admitted, "print")


def test_nothing_is_looked_at_without_a_bound() -> None:
    world = World()
    world.lead("m")
    assert not all_of(CountQueue, depth(world, 1_000_000))


def test_a_queue_within_the_smallest_bound_is_not_looked_at(world: World) -> None:
    assert not all_of(CountQueue, depth(world, 5))
    assert all_of(CountQueue, depth(world, 6)) == [CountQueue()]


def test_a_standby_does_not_look(world: World) -> None:
    world.send(events.LostLeadership())
    assert not all_of(CountQueue, depth(world, 100))


def test_one_look_at_a_time_and_not_more_often_than_once_a_second(world: World) -> None:
    depth(world, 6)
    assert not all_of(CountQueue, depth(world, 6)), "the first is under way"
    world.send(QueueCounted({"a": 5, "b": 1}, {"m": 6}))
    world.wait(LOOK_EVERY_S - 0.1)
    assert not all_of(CountQueue, depth(world, 6))
    world.wait(0.2)
    assert all_of(CountQueue, depth(world, 6))


def test_a_look_that_takes_long_is_followed_by_a_longer_pause(world: World) -> None:
    depth(world, 6)
    world.wait(1)
    world.send(QuotaCallFailed())
    world.wait(19)
    assert not all_of(CountQueue, depth(world, 6))
    world.wait(2)
    assert all_of(CountQueue, depth(world, 6))


def test_a_look_without_an_answer_is_begun_anew(world: World) -> None:
    depth(world, 6)
    world.wait(PATIENCE_S + 1)
    assert all_of(CountQueue, depth(world, 6))


def test_whoever_is_over_a_bound_is_looked_at_the_most_crowded_first(world: World) -> None:
    depth(world, 30)
    actions = world.send(QueueCounted({"a": 6, "b": 5, "c": 15}, {"m": 26, "n": 4}))
    assert [(find.kind, find.key, find.queue_max) for find in all_of(FindOver, actions)] == [
        ("model", "m", 8),
        ("tenant", "c", 5),
        ("tenant", "a", 5),
    ]


def test_what_an_edge_admitted_is_never_refused(world: World) -> None:
    depth(world, 8)
    world.send(QueueCounted({TENANT: 8}, {"m": 8}))
    actions = world.send(OverFound("tenant", TENANT, [queued(1, admitted=True), queued(2)]))
    refuse = one(RefuseQueued, actions)
    assert (refuse.rid, refuse.stream_seq) == (rid(2), 102)
    assert (refuse.end.status, refuse.end.reason) == ("error", "quota_exceeded")
    assert refuse.end.fingerprint == "print"
    assert "tenant_queue_max" in refuse.end.message
    assert "5 requests" in refuse.end.message


def test_the_next_look_follows_at_once_where_somebody_was_refused(world: World) -> None:
    depth(world, 12)
    world.send(QueueCounted({"a": 4}, {"m": 12}))
    actions = world.send(OverFound("model", "m", [queued(1), queued(2)]))
    assert "the model `m`" in all_of(RefuseQueued, actions)[0].end.message
    world.send(RefusalOver(False))
    assert not all_of(CountQueue, depth(world, 12))
    world.send(RefusalOver(True))
    assert all_of(CountQueue, depth(world, 12))


def test_what_is_held_and_refused_is_settled(world: World) -> None:
    world.deliver(1)
    depth(world, 8)
    world.send(QueueCounted({TENANT: 8}, {}))
    world.send(OverFound("tenant", TENANT, [queued(1)]))
    assert all_of(events.Ack, world.send(events.EndWritten(TENANT, rid(1))))


def test_nobody_is_refused_by_a_scheduler_that_leads_no_more(world: World) -> None:
    depth(world, 8)
    world.send(QueueCounted({TENANT: 8}, {}))
    world.send(events.LostLeadership())
    assert not all_of(RefuseQueued, world.send(OverFound("tenant", TENANT, [queued(1)])))
