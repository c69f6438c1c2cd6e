"""OUTPUT fills up: what is new waits, what has been begun goes on, and ENDs that find no room do not pile up calls."""

from __future__ import annotations

import pytest

from scheduler import events
from schemas.ids import ModelKey
from schemas.output import Handoff
from schemas.requests import CLASSES, RequestMeta
from schemas.streams import OUTPUT_HOLD_AT
from tests.unit.scheduler.world import LEASE, TENANT, World, ack_of, all_of, offered, one, rid


def fill(world: World, share: float) -> list[events.Action]:
    return world.send(events.OutputUsed(share))


def test_the_leader_announces_how_full_output_is(world: World) -> None:
    fill(world, 0.81234)
    assert all_of(events.Announce, world.wait(1))[-1].leader.output_used == 0.8123


def test_new_requests_wait_until_there_is_room(world: World) -> None:
    world.pull("w1")
    fill(world, OUTPUT_HOLD_AT)
    assert not offered(world.deliver(1))
    assert not offered(world.wait(1))
    assert offered(fill(world, OUTPUT_HOLD_AT - 0.01)) == [("w1", [1])]


@pytest.mark.parametrize("record", [LEASE, Handoff("n", 3)])
def test_what_has_been_begun_goes_on(world: World, record: Handoff) -> None:
    world.pull("w1")
    fill(world, 0.99)
    world.deliver(1)
    world.deliver(2, attempt=2)
    assert offered(world.read(2, record)) == [("w1", [2])]


def test_what_is_held_up_still_expires(world: World) -> None:
    world.pull("w1")
    fill(world, 0.99)
    world.deliver(1, meta=RequestMeta(queue_timeout_s=1))
    assert one(events.Close, world.wait(1.1)).end.reason == "queue_timeout"


def test_what_is_held_up_takes_turns_in_the_window(world: World) -> None:
    """Else it would keep out what comes back with a lease."""
    fill(world, 0.99)
    for number in range(4):
        world.deliver(number)
    assert not all_of(events.Nak, world.wait(1.9))
    actions = world.wait(0.2)
    assert [nak.ack for nak in all_of(events.Nak, actions)] == [ack_of(number) for number in range(4)]
    for klass in CLASSES:
        actions += world.send(events.FetchEnded(klass, ModelKey("m"), 4))
    assert {fetch.klass for fetch in all_of(events.Fetch, actions)} == set(CLASSES)


def test_an_end_without_room_is_tried_less_and_less_often(world: World) -> None:
    delays = []
    for attempt in range(1, 9):
        world.deliver(1, age_s=500, attempt=attempt)
        if attempt > 1:
            world.read(1, None)
        delays.append(one(events.Nak, world.send(events.CloseRefused(TENANT, rid(1)))).delay_s)
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_full_output_is_told_once_and_once_when_it_is_over(world: World) -> None:
    told = []
    for number in range(5):
        world.deliver(number, age_s=500)
        told += all_of(events.OutputFull, world.send(events.CloseRefused(TENANT, rid(number))))
    world.deliver(1, age_s=500)
    for _ in range(2):
        told += all_of(events.OutputFull, world.send(events.EndWritten(TENANT, rid(1))))
    assert told == [events.OutputFull(True, 1), events.OutputFull(False, 5)]
