"""From a delivery to a worker: order, groups, batches, credit, answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler import events
from schemas.dispatch import Answer
from schemas.output import End
from schemas.requests import RequestMeta
from tests.unit.scheduler.world import LIMITS, TENANT, World, ack_of, all_of, offered, one, rid


def test_an_idle_system_offers_a_delivery_at_once(world: World) -> None:
    world.pull("w1")
    offer = one(events.Offer, world.deliver(1, age_s=0.5, meta=RequestMeta(max_tokens=9), body=b"body"))
    item = offer.work.items[0]
    assert (offer.worker, offer.work.seq) == ("w1", 1)
    assert (item.rid, item.tenant, item.ack, item.body) == (rid(1), "public", ack_of(1), b"body")
    assert (item.attempt, item.ctl_seq, item.cause, item.age_s, item.meta.max_tokens) == (
        1,
        0,
        "first",
        0.5,
        9,
    )


def test_a_pull_gets_what_waits_in_batches_of_one_bucket(world: World) -> None:
    for number, max_tokens in enumerate([100, 128, 1000, 0, 65]):
        assert not offered(world.deliver(number, meta=RequestMeta(max_tokens=max_tokens)))
    assert offered(world.pull("w1", free=8)) == [("w1", [0, 1, 4]), ("w1", [2]), ("w1", [3])]


@pytest.mark.parametrize(
    ("ages", "order"),
    [
        ({"batch": 0, "standard": 0, "interactive": 0}, ["interactive", "standard", "batch"]),
        ({"batch": 61, "standard": 0, "interactive": 0}, ["interactive", "batch", "standard"]),
        ({"batch": 71, "standard": 0, "interactive": 0}, ["batch", "interactive", "standard"]),
        ({"batch": 0, "standard": 11, "interactive": 0}, ["standard", "interactive", "batch"]),
    ],
)
def test_classes_have_a_head_start_and_age(ages: dict[str, float], order: list[str]) -> None:
    world = World(replace(LIMITS, batch_size_max=1))
    world.lead("m")
    numbers = {klass: number for number, klass in enumerate(ages)}
    for klass, age_s in ages.items():
        world.deliver(numbers[klass], klass=klass, age_s=age_s)  # type: ignore[arg-type]
    found = [batch[0] for _, batch in offered(world.pull("w1"))]
    assert found == [numbers[klass] for klass in order]


def test_batches_are_bounded_in_count_and_bytes(world: World) -> None:
    for number in range(10):
        world.deliver(number)
    for number in range(10, 13):
        world.deliver(number, body=b"x" * 900, meta=RequestMeta(max_tokens=1))
    sizes = [len(batch) for _, batch in offered(world.pull("w1", free=32, slots=32))]
    assert sizes == [8, 2, 2, 1]


def test_never_more_than_the_credit_is_offered(world: World) -> None:
    world.pull("w1", free=2)
    assert [offered(world.deliver(number)) for number in range(3)] == [[("w1", [0])], [("w1", [1])], []]
    # This pull was sent before the worker saw either message; the next after the first of them.
    assert offered(world.pull("w1", free=2, work_seq=0)) == []
    assert offered(world.pull("w1", free=2, work_seq=1)) == [("w1", [2])]


def test_the_least_loaded_worker_comes_first(world: World) -> None:
    world.pull("w1", free=2)
    world.pull("w2", free=4)
    found = [offered(world.deliver(number))[0][0] for number in range(5)]
    assert found == ["w2", "w2", "w1", "w2", "w1"]


def test_a_batch_window_waits_until_full_or_old() -> None:
    world = World(replace(LIMITS, batch_window_s=0.02, batch_size_max=3))
    world.lead("m")
    world.pull("w1", free=8)
    assert not offered(world.deliver(1))
    world.wait(0.015)
    assert not offered(world.deliver(2))
    assert offered(world.wait(0.005)) == [("w1", [1, 2])]
    world.deliver(3)
    world.deliver(4)
    assert offered(world.deliver(5)) == [("w1", [3, 4, 5])], "a full group goes at once"


def test_an_accepted_request_is_held_no_more(world: World) -> None:
    world.pull("w1")
    world.answer(one(events.Offer, world.deliver(1)), "accepted")
    assert world.core.held == 0
    assert not all_of(events.Progress, world.wait(30))


@pytest.mark.parametrize("answer", ["mine", "done"])
def test_mine_and_done_leave_the_rest_to_the_worker(world: World, answer: Answer) -> None:
    world.pull("w1")
    actions = world.answer(one(events.Offer, world.deliver(1)), answer)
    assert world.core.held == 0
    assert not all_of(events.Ack, actions)


@pytest.mark.parametrize("answer", ["full", "draining"])
def test_a_refused_request_waits_for_a_pull_that_knows_of_it(world: World, answer: Answer) -> None:
    world.pull("w1", free=4)
    offer = one(events.Offer, world.deliver(1))
    assert not offered(world.answer(offer, answer))
    assert not offered(world.deliver(2)), "the worker's credit is gone"
    assert not offered(world.pull("w1", free=4, work_seq=0)), "sent before it saw the offer"
    assert offered(world.pull("w1", free=4, work_seq=1)) == [("w1", [1, 2])]


def test_a_refused_request_goes_to_another_worker_at_once(world: World) -> None:
    world.pull("w1", free=4)
    world.pull("w2", free=2)
    offer = one(events.Offer, world.deliver(1))
    assert offer.worker == "w1"
    assert offered(world.answer(offer, "full")) == [("w2", [1])]


def test_each_item_of_a_batch_has_its_own_answer(world: World) -> None:
    for number in range(3):
        world.deliver(number)
    offer = one(events.Offer, world.pull("w1", free=4))
    world.answer(offer, "accepted", "full", "done")
    assert world.core.held == 1
    assert offered(world.pull("w1", free=4, work_seq=1)) == [("w1", [1])]


def test_a_silent_worker_is_passed_over_for_a_second(world: World) -> None:
    world.pull("w1", free=4)
    offer = one(events.Offer, world.deliver(1))
    actions = world.wait(0.2)
    assert one(events.ForgetOffer, actions) == events.ForgetOffer(offer.worker, offer.work.seq)
    assert not offered(actions)
    assert not offered(world.pull("w1", free=4))
    assert offered(world.deliver(2)) == [("w1", [2])], "only that request is kept from it"
    assert offered(world.pull("w2", free=1)) == [("w2", [1])]


def test_a_passed_over_worker_gets_the_request_when_there_is_no_other(world: World) -> None:
    world.pull("w1", free=4)
    world.deliver(1)
    world.wait(0.9)
    world.pull("w1", free=4)
    assert offered(world.wait(0.4)) == [("w1", [1])]


def test_no_responders_sends_the_request_elsewhere_at_once(world: World) -> None:
    world.pull("w1", free=4)
    world.pull("w2", free=2)
    offer = one(events.Offer, world.deliver(1))
    assert offered(world.send(events.OfferFailed(offer.worker, offer.work.seq))) == [("w2", [1])]


def test_an_answer_after_the_time_out_does_nothing(world: World) -> None:
    world.pull("w1", free=4)
    offer = one(events.Offer, world.deliver(1))
    world.wait(0.3)
    assert not world.answer(offer, "accepted")
    assert world.core.held == 1


def test_an_answer_that_does_not_fit_its_batch_counts_as_none(world: World) -> None:
    world.pull("w1", free=4)
    offer = one(events.Offer, world.deliver(1))
    world.answer(offer, "accepted", "accepted")
    assert world.core.held == 1


def test_a_leaving_worker_gets_nothing(world: World) -> None:
    world.pull("w1", free=4)
    world.pull("w1", free=4, leaving=True)
    assert not offered(world.deliver(1))


def test_models_do_not_share_workers(world: World) -> None:
    world.pull("w1", free=4, model="other")
    assert not offered(world.deliver(1))
    assert offered(world.pull("w2", free=1)) == [("w2", [1])]


@pytest.mark.parametrize(
    "pull",
    [{"worker": "no.key"}, {"model": "*"}, {"free": -1}, {"free": 9, "slots": 8}, {"work_seq": -1}],
)
def test_a_pull_that_makes_no_sense_is_ignored(world: World, pull: dict[str, object]) -> None:
    world.deliver(1)
    assert not offered(world.pull(**pull))  # type: ignore[arg-type]


def test_work_counts_on_from_what_the_worker_has_seen(world: World) -> None:
    world.pull("w1", free=4, work_seq=41)
    assert one(events.Offer, world.deliver(1)).work.seq == 42


def test_a_request_with_an_end_seen_while_offered_is_settled(world: World) -> None:
    world.deliver(1)
    world.send(events.CancelHinted(TENANT, rid(1)))
    world.pull("w1")
    actions = world.read(1, End(status="cancelled"))
    assert one(events.Ack, actions).ack == ack_of(1)
    assert world.core.held == 0
