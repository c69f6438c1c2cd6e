"""Requests that nobody reads any more: who decides, when, and what is never held against anybody."""

from __future__ import annotations

from scheduler import events, readers
from scheduler.readers import Readers
from schemas.dispatch import EdgeBeat, Pull, Reader, Running
from schemas.requests import RequestMeta
from tests.unit.scheduler.world import TENANT, World, ack_of, all_of, card, offered, one, rid

Readings = dict[int, float | None]
Beats = dict[str, Readings]


def live(
    world: World, seconds: float, beats: Beats, running: list[int], grace_s: float | None = 30
) -> set[int]:
    """Time passes with everybody speaking: returns the requests that were cancelled."""
    cancelled: list[events.Cancel] = []
    for step in range(round(seconds * 2)):
        actions = world.pull("w1", free=8 - len(running), running=running, grace_s=grace_s)
        if step % 2 == 0:
            for edge, read in beats.items():
                actions += world.beat(edge, read)
        actions += world.wait(0.5)
        cancelled += all_of(events.Cancel, actions)
        for cancel in all_of(events.Cancel, actions):
            world.send(events.EndWritten(cancel.tenant, cancel.rid))
            world.send(events.CancelOver(cancel.tenant, cancel.rid))
    return {int(cancel.rid.removeprefix("request")) for cancel in cancelled}


def test_a_running_request_is_cancelled_a_grace_after_its_reader_left(world: World) -> None:
    assert not live(world, 10, {"e1": {1: 30}}, [1])
    assert not live(world, 29, {"e1": {}}, [1])
    assert live(world, 2, {"e1": {}}, [1]) == {1}


def test_the_end_of_an_abandoned_request_says_why(world: World) -> None:
    live(world, 6, {"e1": {1: 1}}, [1])
    world.beat("e1", {})
    actions = [action for _ in range(4) for action in world.pull(running=[1], grace_s=1) + world.wait(0.5)]
    cancel = one(events.Cancel, actions)
    assert (cancel.end.status, cancel.end.reason, cancel.is_known) == ("cancelled", "cancelled", True)
    assert cancel.end.message == "nobody reads it any more"


def test_the_last_reader_decides(world: World) -> None:
    live(world, 6, {"e1": {1: 2, 2: 2}, "e2": {1: 20, 2: None}}, [1, 2])
    assert not live(world, 5, {"e1": {}, "e2": {1: 20, 2: None}}, [1, 2]), "others still read"
    assert not live(world, 19, {"e1": {}, "e2": {}}, [1, 2])
    assert live(world, 60, {"e1": {}, "e2": {}}, [1, 2]) == {1}, "the last reader of 2 let it run to its end"


def test_the_policy_of_a_second_reader_wins_also_when_it_is_shorter(world: World) -> None:
    live(world, 6, {"e1": {1: None}}, [1])
    live(world, 2, {"e1": {1: None}, "e2": {1: 0}}, [1])
    live(world, 2, {"e1": {}, "e2": {1: 0}}, [1])
    assert live(world, 2, {"e1": {}, "e2": {}}, [1]) == {1}


def test_of_two_readers_at_one_edge_the_patient_one_counts(world: World) -> None:
    both = EdgeBeat("e1", [Reader(TENANT, rid(1), 20), Reader(TENANT, rid(1), 0)])
    live(world, 6, {}, [])
    world.pull(running=[1], grace_s=0)
    world.send(events.EdgeHeard(both))
    assert not live(world, 19, {"e1": {}}, [1])
    assert live(world, 2, {"e1": {}}, [1]) == {1}


def test_readers_of_a_killed_edge_left_when_it_was_last_heard(world: World) -> None:
    live(world, 6, {"e1": {1: 8}, "e2": {}}, [1])
    assert not live(world, 6.5, {"e2": {}}, [1]), "it may only be slow: 5 s until it is dead, 8 s of grace"
    assert live(world, 1.5, {"e2": {}}, [1]) == {1}


def test_a_reader_without_grace_at_a_killed_edge(world: World) -> None:
    live(world, 6, {"e1": {1: 0}}, [1])
    assert not live(world, 3.5, {}, [1])
    assert live(world, 2, {}, [1]) == {1}


def test_a_dead_edge_does_not_undo_a_later_leaving(world: World) -> None:
    live(world, 6, {"e1": {1: None}, "e2": {1: 4}}, [1])
    assert not live(world, 3, {"e2": {1: 4}}, [1]), "e1 was killed"
    assert not live(world, 3.5, {"e2": {}}, [1]), "e2's reader left last, 4 s of grace"
    assert live(world, 2, {"e2": {}}, [1]) == {1}


def test_who_reads_on_at_another_edge_in_time_keeps_it_running(world: World) -> None:
    live(world, 6, {"e1": {1: 10}, "e2": {}}, [1])
    assert not live(world, 8, {"e2": {}}, [1])
    world.send(events.EdgeHeard(EdgeBeat("e2", [Reader(TENANT, rid(1), 10)], full=False)))
    assert not live(world, 30, {"e2": {1: 10}}, [1])
    assert not live(world, 9, {"e2": {}}, [1])
    assert live(world, 2, {"e2": {}}, [1]) == {1}


def test_a_beat_that_is_not_full_takes_nobody_away(world: World) -> None:
    live(world, 6, {"e1": {1: 0, 2: 0}}, [1, 2])
    world.beat("e1", {3: 0}, full=False)
    assert not live(world, 2, {}, [1, 2])


def test_what_runs_detached_is_never_cancelled(world: World) -> None:
    live(world, 6, {"e1": {1: None}}, [1], grace_s=None)
    assert not live(world, 120, {"e1": {}}, [1], grace_s=None)


def test_what_nobody_ever_read_has_its_own_grace_from_first_sight(world: World) -> None:
    assert not live(world, 12, {"e1": {}}, [1], grace_s=8)
    assert live(world, 3, {"e1": {}}, [1], grace_s=8) == {1}


def test_a_finished_request_is_not_cancelled(world: World) -> None:
    """Its reader leaves, too: nobody lists it as running after that."""
    live(world, 6, {"e1": {1: 0}}, [1])
    world.pull(running=[])
    assert not live(world, 10, {"e1": {}}, [])


def test_a_new_leader_that_listened_knows_who_left(world: World) -> None:
    world.send(events.LostLeadership())
    assert not live(world, 10, {"e1": {1: 10}}, [1])
    assert not live(world, 12, {"e1": {}}, [1]), "a standby ends nothing"
    world.send(events.BecameLeader(2, []))
    assert live(world, 1, {"e1": {}}, [1]) == {1}


def test_a_new_leader_that_knows_nothing_waits_for_the_edges() -> None:
    world = World()
    world.send(events.ConnectionChanged(True))
    world.send(events.BecameLeader(1, []))
    assert not live(world, 4, {}, [1, 2], grace_s=0)
    assert live(world, 4, {"e1": {2: 0}}, [1, 2], grace_s=0) == {1}, "2 is read, 1 is not"


def test_after_a_pause_of_its_own_the_leader_listens_first(world: World) -> None:
    live(world, 6, {"e1": {1: 10}}, [1])
    live(world, 2, {"e1": {}}, [1])
    world.now += 60
    assert not live(world, 4.5, {"e2": {}}, [1]), "somebody may have come back meanwhile"
    assert not live(world, 10, {"e2": {1: 10}}, [1])


def test_an_edge_that_died_during_a_pause_of_ours_died_at_its_end(world: World) -> None:
    live(world, 6, {"e1": {1: 10}}, [1])
    world.now += 60
    assert not live(world, 9.5, {}, [1]), "nobody knows since when nobody reads it"
    assert live(world, 2, {}, [1]) == {1}


def test_after_a_reconnect_the_leader_listens_first(world: World) -> None:
    live(world, 6, {"e1": {1: 0}}, [1])
    world.send(events.ConnectionChanged(False))
    world.wait(20)
    world.send(events.ConnectionChanged(True))
    assert not live(world, 4, {}, [1])
    assert not live(world, 10, {"e1": {1: 0}}, [1])


def test_a_held_request_that_nobody_reads_is_settled(world: World) -> None:
    live(world, 6, {"e1": {}}, [])
    world.deliver(1, meta=RequestMeta(grace_s=2, fingerprint="f"))
    live(world, 2, {"e1": {1: 2}}, [], grace_s=None)
    world.pull("w1", free=0)
    world.beat("e1", {})
    cancel = one(events.Cancel, world.wait(3))
    assert cancel.end.fingerprint == "f"
    assert not offered(world.pull("w1", free=8)), "while its END is written nobody gets it"
    assert one(events.Ack, world.send(events.EndWritten(TENANT, rid(1)))).ack == ack_of(1)
    assert world.core.held == 0


def test_an_end_that_could_not_be_written_is_tried_again(world: World) -> None:
    live(world, 6, {"e1": {1: 0}}, [1])
    tries = []
    for _ in range(50):
        world.pull("w1", running=[1], grace_s=0)
        world.beat("e1", {})
        tries += all_of(events.Cancel, world.wait(0.5))
        if tries:
            world.send(events.CallFailed(TENANT, rid(1)))
            world.send(events.CancelOver(TENANT, rid(1)))
    assert 2 <= len(tries) <= 3


def test_a_worker_cannot_name_what_is_no_request(world: World) -> None:
    nonsense = [Running("*", "ack", "a.b", 0.0)]
    for _ in range(30):
        pull = Pull("w1", card(), slots=8, free=7, work_seq=0, steps=0, running=nonsense)
        assert not all_of(events.Cancel, world.send(events.PullReceived(pull)) + world.wait(0.5))


def test_more_edges_than_can_be_listened_to_make_nobody_unread() -> None:
    books = Readers(silent_s=5)
    books.watch_from(0)
    for number in range(readers.EDGES_MAX):
        books.heard(EdgeBeat(f"e{number}", []), 10)
    name = (TENANT, rid(1))
    books.seen(name, 0, 10)
    books.heard(EdgeBeat("one-more", [Reader(TENANT, rid(1), 0)]), 14)
    books.seen(name, 0, 16)
    books.sweep(14)
    assert books.abandoned(18.9) == []
    assert books.abandoned(19) == [name], "until that edge has been silent for long enough"
    books.sweep(20)
    books.heard(EdgeBeat("one-more", [Reader(TENANT, rid(1), 0)]), 20)
    assert books.abandoned(40) == [], "the silent ones made room"
    books.check()


def test_who_left_is_forgotten_in_time() -> None:
    books = Readers(silent_s=5)
    books.watch_from(0)
    for number in range(100):
        books.heard(EdgeBeat("e1", [Reader(TENANT, rid(number), None)]), number)
    books.heard(EdgeBeat("e1", []), 100)
    books.sweep(100)
    assert len(books._left) == 100
    books.heard(EdgeBeat("e1", []), 2000)
    books.sweep(2000)
    assert not books._left
