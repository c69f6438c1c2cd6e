"""Workers that die, are suspected, restart or go away."""

from __future__ import annotations

from dataclasses import replace

from scheduler import events
from schemas.dispatch import Pull, Running
from schemas.ids import WorkerId
from tests.unit.scheduler.world import LEASE, LIMITS, TENANT, World, ack_of, all_of, card, offered, one, rid


def naks(actions: list[events.Action]) -> list[str]:
    return sorted(action.ack for action in all_of(events.Nak, actions))


def test_a_silent_worker_is_probed_then_dead(world: World) -> None:
    world.pull("w1", running=[1, 2])
    assert not all_of(events.Probe, world.wait(0.7))
    actions = world.wait(1.2)
    assert 4 <= len(all_of(events.Probe, actions)) <= 6, "every 200 ms"
    actions = world.wait(1.3)
    assert naks(actions) == [ack_of(1), ack_of(2)]
    assert one(events.WorkerGone, actions) == events.WorkerGone(WorkerId("w1"), "silent", 2)
    assert not offered(world.deliver(3))


def test_no_responders_twice_is_dead_at_once(world: World) -> None:
    world.pull("w1", running=[1])
    world.pull("w2")
    world.wait(0.7)
    world.pull("w2")
    assert one(events.Probe, world.wait(0.15)).worker == "w1"
    assert not naks(world.send(events.ProbeAnswered(WorkerId("w1"), False)))
    assert one(events.Probe, world.wait(0.25)).worker == "w1"
    actions = world.send(events.ProbeAnswered(WorkerId("w1"), False))
    assert naks(actions) == [ack_of(1)]
    assert one(events.Announce, actions).leader.models[0].workers == 1
    world.send(events.ProbeAnswered(WorkerId("w1"), False))


def test_any_sign_of_life_clears_a_suspicion(world: World) -> None:
    world.pull("w1", running=[1])
    world.wait(1)
    world.send(events.ProbeAnswered(WorkerId("w1"), False))
    world.pull("w1")
    world.wait(1)
    assert not naks(world.send(events.ProbeAnswered(WorkerId("w1"), False)))
    world.send(events.ProbeAnswered(WorkerId("w1"), True))
    assert not naks(world.send(events.ProbeAnswered(WorkerId("w1"), False)))


def test_a_reconnect_makes_evidence_start_anew(world: World) -> None:
    world.pull("w1", running=[1])
    world.wait(1)
    world.send(events.ProbeAnswered(WorkerId("w1"), False))
    world.send(events.ConnectionChanged(False))
    world.send(events.ConnectionChanged(True))
    assert not all_of(events.Probe, world.wait(1.9))
    assert not naks(world.send(events.ProbeAnswered(WorkerId("w1"), False)))
    assert all_of(events.Probe, world.wait(0.3))
    assert naks(world.wait(1)) == [ack_of(1)], "silent for 3 s since the reconnect"


def test_after_a_pause_of_its_own_the_core_waits_for_pulls(world: World) -> None:
    world.pull("w1", running=[1])
    world.now += 60
    assert not naks(world.wait(1.9))
    world.pull("w1")
    assert not naks(world.wait(2.9))


def test_what_was_offered_to_the_dead_goes_elsewhere() -> None:
    world = World(replace(LIMITS, offer_timeout_s=1))
    world.lead("m")
    world.pull("w1", free=4)
    world.wait(2.8)
    world.pull("w2", free=1, running=[])
    offer = one(events.Offer, world.deliver(1))
    assert offer.worker == "w1"
    actions = world.wait(0.4)
    assert one(events.WorkerGone, actions).worker == "w1"
    assert one(events.ForgetOffer, actions) == events.ForgetOffer(offer.worker, offer.work.seq)
    assert offered(actions) == [("w2", [1])]


def test_accepted_requests_are_given_back_too(world: World) -> None:
    world.pull("w1")
    world.run(1)
    assert naks(world.wait(3.1)) == [ack_of(1)]


def test_a_full_pull_clears_what_has_finished(world: World) -> None:
    world.pull("w1", free=8)
    world.run(1)
    world.run(2)
    world.pull("w1", free=7, work_seq=1, running=[])
    assert naks(world.wait(3.1)) == [ack_of(2)], "1 has finished, 2 was accepted after that pull"


def test_a_full_pull_brings_the_acks_the_worker_holds(world: World) -> None:
    world.pull("w1", free=8)
    world.run(1)
    world.pull("w1", free=7, work_seq=1, running=[1])
    full = Pull("w1", card(), slots=8, free=7, work_seq=1, steps=0, running=[Running(rid(1), "newer")])
    world.send(events.PullReceived(full))
    assert naks(world.wait(3.1)) == ["newer"]


def test_a_restarted_worker_runs_nothing_of_before(world: World) -> None:
    world.pull("w1", steps=100, running=[1])
    actions = world.pull("w1", steps=3, running=[])
    assert naks(actions) == [ack_of(1)]
    assert offered(world.deliver(2)) == [("w1", [2])]


def test_a_leaving_worker_that_goes_gives_back_the_rest(world: World) -> None:
    world.pull("w1", running=[1, 2])
    world.pull("w1", running=[2], leaving=True)
    world.wait(0.8)
    world.send(events.ProbeAnswered(WorkerId("w1"), False))
    assert naks(world.send(events.ProbeAnswered(WorkerId("w1"), False))) == [ack_of(2)]


def test_a_standby_forgets_the_dead_without_a_word(world: World) -> None:
    world.pull("w1", running=[1])
    world.send(events.LostLeadership())
    actions = world.wait(5)
    assert not naks(actions)
    assert not all_of(events.Probe, actions)
    assert not all_of(events.WorkerGone, actions)
    announced = one(events.Announce, world.send(events.BecameLeader(2, []))).leader
    assert announced.models[0].workers == 0


def test_what_a_worker_runs_is_bounded(world: World) -> None:
    for number in range(60):
        world.pull("w1", free=8, work_seq=number)
        world.run(number)
    assert len(naks(world.wait(4))) == 32


def test_two_tenants_with_one_rid_do_not_meet(world: World) -> None:
    theirs = Running(rid(1), "theirs", "somebody_else")
    world.send(
        events.PullReceived(Pull("w1", card(), slots=8, free=0, work_seq=0, steps=0, running=[theirs]))
    )
    world.pull("w2", free=1)
    world.deliver(1, attempt=2)
    offer = one(events.Offer, world.read(1, LEASE))
    assert offer.worker == "w2", "w1 runs a request of another tenant"
    assert world.send(events.CancelHinted(TENANT, rid(2))) == [events.DeleteQueued(TENANT, rid(2))]
    world.answer(offer, "accepted")
    assert naks(world.wait(3.1)) == [ack_of(1, 2), "theirs"]
