"""What edges count together: never above the bound, nothing lost for long, and few calls for many who enter."""

from __future__ import annotations

import pytest

from edge.counts import events
from edge.counts.core import IDLE_MAX, REFRESH_S, Counts
from tests.unit.edge.counts_world import BEAT_S, KEY, SILENT_S, WAIT_S, Edge, World


def fill(world: World, edge: Edge, tries: int) -> int:
    """How many of `tries` who come at once are let in."""
    tickets = [edge.enter() for _ in range(tries)]
    world.run(WAIT_S)
    return sum(edge.said[ticket] == "admitted" for ticket in tickets)


@pytest.mark.parametrize("seed", range(150))
def test_never_above_the_bound_and_no_capacity_is_lost(seed: int) -> None:
    world = World(seed, bound=7, loss=0.02 if seed % 3 else 0.2)
    for _ in range(3):
        world.edge()
    random = world.random
    for _ in range(400):
        edge = random.choice(world.edges)
        what = random.random()
        if what < 0.55:
            edge.enter()
        elif what < 0.95 and edge.inside:
            edge.leave()
        elif what > 0.99:
            world.kill(edge)
            world.edge()
        world.run(random.choice((0.0, 0.001, 0.01, 0.3)))
    world.loss = 0.0
    world.run(WAIT_S + 0.1)
    assert not world.asked, "everybody has an answer"
    for edge in world.edges:
        while edge.inside:
            edge.leave()
    world.run(SILENT_S + BEAT_S)
    assert fill(world, world.edges[0], 20) == 7


def test_edges_that_race_let_in_exactly_as_many_as_may_be() -> None:
    world = World(1, bound=10)
    edges = [world.edge() for _ in range(4)]
    tickets = [(edge, edge.enter()) for _ in range(25) for edge in edges]
    world.run(0.2)
    assert sum(edge.said[ticket] == "admitted" for edge, ticket in tickets) == 10
    assert sum(edge.said[ticket] == "full" for edge, ticket in tickets) == 90


def test_all_who_wait_at_one_edge_share_one_write() -> None:
    world = World(1, bound=1000)
    edge = world.edge()
    first = edge.enter()
    for _ in range(99):
        edge.enter()
    world.run(0.1)
    assert edge.said[first] == "admitted"
    assert len(edge.said) == 100
    assert world.bucket.writes == 1, "they came while the value was read"
    for _ in range(100):
        edge.leave()
    world.run(0.1)
    assert world.bucket.writes <= 3
    assert world.bucket.value == b"{}"


def test_a_place_that_was_freed_elsewhere_is_there_at_once() -> None:
    world = World(1, bound=1)
    one, other = world.edge(), world.edge()
    assert fill(world, one, 1) == 1
    assert fill(world, other, 1) == 0
    one.leave()
    world.run(0.02)
    ticket = other.enter()
    world.run(0.02)
    assert other.said[ticket] == "admitted"


def test_a_dead_edge_counts_no_more_when_it_was_silent_for_long_enough() -> None:
    world = World(1, bound=5)
    dead, living = world.edge(), world.edge()
    assert fill(world, dead, 5) == 5
    world.run(SILENT_S)
    world.kill(dead)
    assert fill(world, living, 5) == 0
    world.run(SILENT_S - WAIT_S + BEAT_S)
    assert fill(world, living, 5) == 5


def test_a_living_edge_counts_however_long_it_holds() -> None:
    world = World(1, bound=5)
    holder, other = world.edge(), world.edge()
    assert fill(world, holder, 5) == 5
    for _ in range(10):
        world.run(REFRESH_S / 3)
        assert fill(world, other, 1) == 0
    assert world.bucket.writes >= 3, "the bucket forgets what nobody tells"


def test_nothing_is_known_of_others_while_an_edge_does_not_hear_itself() -> None:
    core = Counts("a", 0.0, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=10)
    core.handle(events.Connected(True), 0.0)
    core.handle(events.Heard("b"), 1.0)
    core.handle(events.Heard("a"), 1.0)
    core.handle(events.Tick(), 100.0)
    assert core.is_alive("b")
    assert core.is_alive("never heard, and perhaps only not yet") is True
    core.handle(events.Heard("a"), 1.0 + SILENT_S)
    assert not core.is_alive("b")


def test_a_broker_that_is_away_is_waited_for_so_long_and_no_longer() -> None:
    core = Counts("a", 0.0, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=2)
    for ticket in range(2):
        assert core.handle(events.Enter(ticket, KEY, 5), 0.0) == []
    assert core.handle(events.Enter(2, KEY, 5), 0.0) == [events.GiveUp(2)]
    assert core.next_deadline() == WAIT_S
    assert core.handle(events.Tick(), WAIT_S) == [events.GiveUp(0), events.GiveUp(1)]
    core.check()


def test_what_was_counted_is_told_to_a_broker_that_comes_back_without_it() -> None:
    core = Counts("a", 0.0, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=10)
    core.handle(events.Connected(True), 0.0)
    assert core.handle(events.Enter(0, KEY, 5), 0.0) == [events.Read(KEY)]
    assert core.handle(events.WasRead(KEY, None, 0), 0.0) == [events.Write(KEY, b'{"a":1}', 0)]
    assert core.handle(events.Written(KEY, 9), 0.0) == [events.Admit(0)]
    core.handle(events.Connected(False), 1.0)
    assert core.handle(events.Connected(True), 2.0) == [events.Read(KEY)]
    assert core.handle(events.WasRead(KEY, None, 0), 2.0) == [events.Write(KEY, b'{"a":1}', 0)]


def test_what_cannot_be_read_is_written_anew() -> None:
    core = Counts("a", 0.0, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=10)
    core.handle(events.Connected(True), 0.0)
    core.handle(events.Enter(0, KEY, 1), 0.0)
    actions = core.handle(events.WasRead(KEY, b'{"b": -3, "c": "x"}', 4), 0.0)
    assert actions == [events.Write(KEY, b'{"a":1}', 4)]


def test_keys_that_nobody_uses_are_forgotten() -> None:
    core = Counts("a", 0.0, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=10)
    core.handle(events.Connected(True), 0.0)
    for ticket in range(IDLE_MAX + 50):
        key = f"k{ticket}"
        core.handle(events.Enter(ticket, key, 0), 0.0)
        assert core.handle(events.WasRead(key, None, 0), 0.0) == [events.Refuse(ticket)]
    core.check()
    core.handle(events.Connected(False), 0.0)
    for ticket in range(IDLE_MAX + 50, IDLE_MAX + 250):
        core.handle(events.Enter(ticket, f"k{ticket}", 1), float(ticket))
        core.check()
    core.handle(events.Tick(), 1e6)
    core.check()
    assert len(core._counters) <= IDLE_MAX


def test_a_write_that_may_still_arrive_is_overtaken_by_another_one() -> None:
    core = Counts("a", 0.0, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=10)
    core.handle(events.Connected(True), 0.0)
    core.handle(events.Enter(0, KEY, 5), 0.0)
    core.handle(events.WasRead(KEY, None, 0), 0.0)
    core.handle(events.Withdraw(0), 0.5)
    core.handle(events.Failed(KEY), 1.0)
    assert core.handle(events.Tick(), 2.0) == [events.Read(KEY)]
    assert core.handle(events.WasRead(KEY, None, 0), 2.0) == [events.Write(KEY, b"{}", 0)]
    core.handle(events.Written(KEY, None), 2.0)
    assert core.handle(events.WasRead(KEY, b'{"a":1}', 1), 2.0) == [events.Write(KEY, b"{}", 1)]
    core.check()
