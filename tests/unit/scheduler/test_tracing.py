"""What a scheduler tells: queue, hold and close in each request's trace, and a trace of its own for each batch."""

from __future__ import annotations

import time

from infra import trace_names as names
from infra.tracing import NoTracer, Tracer
from scheduler import events, quota_events
from scheduler.events import Action, Event
from scheduler.traced import EVENTS_MAX
from scheduler.tracing import KEPT_MAX, Spans
from schemas import subjects
from schemas.dispatch import Pull, Running, Work, WorkItem
from schemas.ids import ModelKey, WorkerId
from schemas.log import Entry
from schemas.output import End, Lease
from schemas.requests import RequestMeta
from schemas.subjects import RequestSubject
from schemas.trace import TraceContext, parse_traceparent, queued_context, traceparent
from tests.unit.infra.spans import Kept
from tests.unit.scheduler.world import TENANT, World, ack_of, all_of, card, one, rid

GIVEN = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
EDGES = RequestMeta(traceparent=GIVEN)
PROCESS = f"process {subjects.REQUESTS_NAME}"
PUBLISH = f"publish {subjects.REQUESTS_NAME}"


class Traced(World):
    """One core that leads, and what is told of it."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        super().__init__()
        self.told = Kept()
        self.spans = Spans(tracer or self.told, "s1", self.core.is_dead)
        self.lead("m")

    def send(self, event: Event) -> list[Action]:
        actions = super().send(event)
        if hasattr(self, "spans"):
            self.spans.saw(event, actions, self.now)
            self.spans.check()
        return actions


def root(number: int) -> TraceContext:
    return queued_context(TENANT, rid(number), "", ratio=1)


def test_a_request_is_queued_held_and_taken_in_the_trace_it_came_with() -> None:
    world = Traced()
    world.deliver(1, age_s=3.0, meta=EDGES)
    world.now += 2
    offer = one(events.Offer, world.pull())
    world.now += 0.01
    world.answer(offer, "accepted")
    context = parse_traceparent(GIVEN)
    assert context is not None
    queue, hold = world.told.one("queue"), world.told.one("hold")
    assert (queue.end - queue.start, hold.start, hold.end) == (3.0, queue.end, world.now)
    for span in (queue, hold):
        assert (span.context.trace_id, span.parent_id) == (context.trace_id, context.span_id)
        assert span.attributes[names.DELIVERY] == 1
    assert hold.attributes[names.OUTCOME] == "accepted"
    assert hold.attributes[names.WORKER] == "w1"
    assert [event.name for event in hold.events] == ["offered"]
    assert not world.told.all(PUBLISH), "the edge tells that"


def test_a_direct_publishers_request_has_a_root() -> None:
    world = Traced()
    world.deliver(1, age_s=3.0)
    published = world.told.one(PUBLISH)
    assert (published.context, published.parent_id) == (root(1), "")
    assert published.start == published.end == world.now - 3.0
    assert world.told.one("queue").parent_id == root(1).span_id


def test_a_root_is_told_by_whoever_does_not_know_that_it_was() -> None:
    world = Traced()
    world.deliver(1, attempt=2)
    assert world.told.one(PUBLISH).context == root(1)
    assert not world.told.all("queue"), "nobody knows since when"


def test_a_batch_has_a_trace_of_its_own_that_links_to_its_members() -> None:
    world = Traced()
    world.deliver(1, meta=EDGES)
    world.deliver(2)
    world.deliver(3, meta=RequestMeta(traceparent=GIVEN[:-2] + "00"))
    offer = one(events.Offer, world.pull())
    trace = parse_traceparent(world.spans.trace_of(offer))
    world.now += 0.01
    world.answer(offer, "accepted")
    batch = world.told.one("batch")
    assert (batch.context, batch.parent_id, batch.kind) == (trace, "", "producer")
    assert list(batch.links) == [parse_traceparent(GIVEN), root(2)]
    assert batch.attributes[names.MESSAGING_BATCH_COUNT] == 3
    assert batch.attributes[names.REQUEST_IDS] == [rid(1), rid(2)]
    assert not world.spans.trace_of(offer), "it is over"


def test_refusals_and_time_outs_are_events_of_the_hold() -> None:
    world = Traced()
    world.pull("w1", free=1)
    offer = one(events.Offer, world.deliver(1))
    world.answer(offer, "full")
    offer = one(events.Offer, world.pull("w2"))
    world.wait(0.3)
    world.answer(one(events.Offer, world.pull("w3")), "accepted")
    hold = world.told.one("hold")
    assert [event.name for event in hold.events] == [
        "offered",
        "refused",
        "offered",
        "not answered",
        "offered",
    ]
    assert [batch.error for batch in world.told.all("batch")] == ["", "timed out", ""]
    assert hold.events[1].attributes == {names.WORKER: "w1", names.REASON: "full"}


def test_what_is_given_back_was_queued_from_then_on() -> None:
    world = Traced()
    world.deliver(1)
    world.send(events.LostLeadership())
    given_back_at = world.now
    assert world.told.one("hold").attributes[names.OUTCOME] == "given back"
    world.now += 1
    world.send(events.BecameLeader(2, []))
    world.deliver(1, attempt=2)
    queue = world.told.all("queue")[1]
    assert (queue.start, queue.end) == (given_back_at, world.now)
    assert len(world.told.all(PUBLISH)) == 1


def test_closing_is_told_with_its_reason() -> None:
    world = Traced()
    world.deliver(1, meta=RequestMeta(queue_timeout_s=5.0))
    world.wait(5.1)
    world.send(events.EndWritten(TENANT, rid(1)))
    close = world.told.one("close")
    assert (close.attributes[names.OUTCOME], close.error) == ("expired", "queue_timeout")
    assert world.told.one("hold").attributes[names.OUTCOME] == "settled"


def test_a_cancel_is_told_of_what_runs_too() -> None:
    world = Traced()
    world.pull()
    world.run(1)
    world.send(events.CancelWished(TENANT, rid(1), "enough", ""))
    world.send(events.EndWritten(TENANT, rid(1)))
    close = world.told.one("close")
    assert (close.attributes[names.OUTCOME], close.error) == ("cancelled", "")
    assert close.parent_id == root(1).span_id


def test_a_refusal_by_a_quota_is_told_of_what_was_never_delivered() -> None:
    world = Traced()
    queued = quota_events.Queued(TENANT, rid(1), 1, False)
    end = End(status="error", reason="quota_exceeded")
    event = quota_events.OverFound("tenant", TENANT, [queued])
    world.spans.saw(event, [quota_events.RefuseQueued(TENANT, rid(1), 1, end)], world.now)
    world.spans.saw(events.EndWritten(TENANT, rid(1)), [], world.now)
    assert world.told.one(PUBLISH).context == root(1)
    assert world.told.one("close").error == "quota_exceeded"


def test_a_dead_worker_is_told_in_the_trace_of_each_request_that_it_ran() -> None:
    world = Traced()
    ack = subjects.js_ack("REQUESTS", "standard-m") + "1.7.7.1700000000000000000.0"
    subject = RequestSubject("standard", ModelKey("m"), TENANT, rid(7))
    world.pull()
    delivered = events.Delivered("standard", ModelKey("m"), subject, ack, 7, 1, 0.0, RequestMeta(), b"{}")
    world.answer(one(events.Offer, world.send(delivered)), "accepted")
    running = [Running(rid(7), ack, TENANT)]
    world.send(events.PullReceived(Pull("w1", card(), 8, 3, 1, 0, running)))
    world.now += 5
    actions = world.wait(5)
    assert all_of(events.WorkerGone, actions)
    gone = world.told.one("worker gone")
    assert (gone.parent_id, gone.attributes[names.WORKER]) == (root(7).span_id, "w1")


def test_what_is_not_sampled_costs_nothing_more() -> None:
    for tracer, given, is_told in (
        (Kept(0.0), "", False),
        (Kept(0.0), GIVEN, True),
        (Kept(1.0), GIVEN[:-2] + "00", False),
        (NoTracer(), GIVEN, False),
    ):
        world = Traced(tracer)
        world.pull()
        offer = one(events.Offer, world.deliver(1, meta=RequestMeta(traceparent=given)))
        assert bool(world.spans.trace_of(offer)) is is_told
        assert bool(isinstance(tracer, Kept) and tracer.spans) is is_told


def test_what_is_remembered_is_bounded() -> None:
    spans = Spans(Kept(), "s1", lambda _worker, _now: False)
    for number in range(KEPT_MAX + 10):
        subject = RequestSubject("standard", ModelKey("m"), TENANT, rid(number))
        spans.saw(
            events.Delivered(
                "standard", ModelKey("m"), subject, ack_of(number), number, 1, 0.0, RequestMeta(), b"{}"
            ),
            [],
            1.0,
        )
        spans.check()
    tracer = Kept()
    spans = Spans(tracer, "s1", lambda _worker, _now: False)
    subject = RequestSubject("standard", ModelKey("m"), TENANT, rid(1))
    spans.saw(
        events.Delivered("standard", ModelKey("m"), subject, ack_of(1), 1, 1, 0.0, RequestMeta(), b"{}"),
        [],
        1.0,
    )
    for _ in range(EVENTS_MAX + 10):
        spans.saw(events.CancelHinted(TENANT, rid(1)), [], 1.0)
    spans.saw(events.Tick(), [events.Ack(ack_of(1))], 2.0)
    assert len(tracer.one("hold").events) == EVENTS_MAX


ATTEMPT = TraceContext(root(1).trace_id, "c" * 16, True)


def lease(trace: TraceContext = ATTEMPT) -> Lease:
    return Lease("n", "w1", 1, "first", engine="simulator", trace=traceparent(trace))


def back_from_a_worker(*, dead: bool, record: Lease) -> Traced:
    """A world that holds request 1 again, after worker w1 took it, died or not, and another one has no room."""
    world = Traced()
    world.pull(free=1)
    world.answer(one(events.Offer, world.deliver(1, meta=RequestMeta(request_timeout_s=60.0))), "accepted")
    if dead:
        world.now += 5
        assert all_of(events.WorkerGone, world.wait(5))
    world.deliver(1, attempt=2, age_s=12.0, meta=RequestMeta(request_timeout_s=60.0))
    world.send(events.CtlRead(TENANT, rid(1), Entry(9, record)))
    return world


def test_an_attempt_that_no_later_one_can_tell_of_is_told_when_its_request_is_closed() -> None:
    world = back_from_a_worker(dead=True, record=lease())
    back_at = world.now
    assert all_of(events.Close, world.wait(60))
    assert not world.told.all(PROCESS), "END may lose against a lease"
    world.send(events.EndWritten(TENANT, rid(1)))
    span = world.told.one(PROCESS)
    assert (span.context, span.parent_id) == (ATTEMPT, root(1).span_id)
    assert (span.start, span.end, span.error) == (1603.0, back_at, "worker_dead")
    told = {name: span.attributes[name] for name in (names.OUTCOME, names.WORKER, names.REPORTED_BY)}
    assert told == {names.OUTCOME: "lost", names.WORKER: "w1", names.REPORTED_BY: "s1"}


def test_a_cancel_tells_of_it_too() -> None:
    world = back_from_a_worker(dead=True, record=lease())
    world.send(events.CancelWished(TENANT, rid(1), "enough", ""))
    world.send(events.EndWritten(TENANT, rid(1)))
    assert world.told.one(PROCESS).context == ATTEMPT


def test_who_can_tell_of_an_attempt_is_left_to_do_so() -> None:
    """Its worker lives, its END did not get into the log, or it was of another trace."""
    for dead, answer, record in (
        (False, events.EndWritten(TENANT, rid(1)), lease()),
        (True, events.CallFailed(TENANT, rid(1)), lease()),
        (True, events.EndWritten(TENANT, rid(1)), lease(root(2))),
    ):
        world = back_from_a_worker(dead=dead, record=record)
        world.send(events.CancelWished(TENANT, rid(1), "enough", ""))
        world.send(answer)
        assert not world.told.all(PROCESS)


def test_the_death_of_a_worker_with_many_requests_does_not_hold_the_scheduler_up() -> None:
    """What it ran is offered to others only after this; each request was looked for among all."""
    tracer = Kept()
    spans = Spans(tracer, "s1", lambda _worker, _now: False)
    acks = [
        subjects.js_ack("REQUESTS", "standard-m") + f"1.{n}.{n}.1700000000000000000.0"
        for n in range(1, KEPT_MAX + 1)
    ]
    for n, ack in enumerate(acks, 1):
        subject = RequestSubject("standard", ModelKey("m"), TENANT, rid(n))
        delivered = events.Delivered("standard", ModelKey("m"), subject, ack, n, 1, 0.0, RequestMeta(), b"{}")
        spans.saw(delivered, [], 1.0)
        held = WorkItem(rid(n), TENANT, ack, 1, 0, "first", 0.0, RequestMeta(), b"{}")
        spans.saw(events.Tick(), [events.Offer(WorkerId("w1"), Work(n, [held]))], 1.0)
        spans.saw(events.Answered(WorkerId("w1"), n, ["accepted"]), [], 1.0)
    lost: list[Action] = [events.WorkerGone(WorkerId("w1"), "silent", KEPT_MAX)]
    lost += [events.Nak(ack, 0.0) for ack in acks]
    begun = time.process_time()
    spans.saw(events.Tick(), lost, 2.0)
    assert time.process_time() - begun < 0.2
    assert len(tracer.all("worker gone")) == KEPT_MAX
