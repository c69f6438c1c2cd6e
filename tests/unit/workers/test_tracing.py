"""What a worker tells of its attempts: a tree per request, a dead one's attempt, usage once, nothing that was said."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from infra import clock
from infra import trace_names as names
from infra.tracing import NoTracer, Tracer
from schemas.dispatch import Work, WorkItem
from schemas.log import Entry
from schemas.output import Delta, End, Failed, Handoff, Lease, Tok
from schemas.trace import TraceContext, parse_traceparent, queued_context, traceparent
from tests.unit.infra.spans import Kept
from tests.unit.workers.world import CAPABILITIES, KEY, RID, TENANT, Harness, item, lease, record
from workers.engines.base import EngineFailed
from workers.events import Action, CancelHinted, Event, Offered
from workers.tracing import PROCESS, Spans, Who

BATCH = TraceContext("b" * 32, "c" * 16, is_sampled=True)
REQUEST = queued_context(TENANT, RID, "", ratio=1)


class Traced(Harness):
    """One core, and what is told of it."""

    def __init__(self, tracer: Tracer | None = None, *, with_content: bool = False, **limits: Any) -> None:
        super().__init__(**limits)
        self.told = Kept()
        who = Who("w1", "m", CAPABILITIES)
        self.spans = Spans(tracer or self.told, who, with_content=with_content)

    def do(self, event: Event) -> list[Action]:
        actions = super().do(event)
        if self.spans.watched:
            self.spans.saw(event, actions, self.now)
        return actions

    def offer(self, *items: WorkItem, seq: int = 1) -> list[Action]:
        work = Work(seq, list(items), traceparent(BATCH))
        return self.do(Offered(work, "reply", self.spans.expect(work, self.now)))

    def read_log(self, *entries: tuple[Entry, float]) -> list[Action]:
        """The log as it was read, each record with the time at which it was stored."""
        ahead_s = time.time() - clock.now()
        assert self.read is not None
        self.spans.read(self.read.key, [entry for entry, _ in entries], [at + ahead_s for _, at in entries])
        return self.log(*[entry for entry, _ in entries])

    @property
    def own(self) -> Lease:
        """The lease that was published last."""
        assert self.publish is not None
        own = record(self.publish)
        assert isinstance(own, Lease)
        return own


def test_a_whole_attempt_is_a_tree_under_the_request() -> None:
    world = Traced()
    world.offer(
        item(age_s=2.0, body=b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}')
    )
    own = world.own
    world.now += 1
    world.stored(10)
    world.now += 1
    world.output((1, "a"))
    world.stored(11)
    world.now += 3
    world.finish((2, "b"))
    world.now += 0.5
    world.stored(12)

    attempt = world.told.one(PROCESS)
    assert attempt.context == parse_traceparent(own.trace)
    assert (attempt.context.trace_id, attempt.parent_id) == (REQUEST.trace_id, REQUEST.span_id)
    assert (attempt.kind, attempt.start, attempt.end, attempt.error) == ("consumer", 100.0, 105.5, "")
    assert list(attempt.links) == [BATCH]
    assert attempt.attributes[names.OUTCOME] == "ok"
    assert attempt.attributes[names.TOKENS] == 2
    assert [event.name for event in attempt.events] == ["first token"]
    parts = {
        span.name: (span.start, span.end)
        for span in world.told.spans
        if span.parent_id == attempt.context.span_id
    }
    assert parts == {
        "lease": (100.0, 101.0),
        "prefill": (100.0, 102.0),
        "decode": (102.0, 105.0),
        "END": (105.0, 105.5),
        "ack": (105.5, 105.5),
        "chat m": (100.0, 105.0),
    }
    assert not world.spans.watched


def test_usage_and_latencies_are_the_models_part() -> None:
    world = Traced()
    world.offer(item(age_s=2.0, body=b'{"model": "x", "prompt": "hi", "max_tokens": 8, "stop": "."}'))
    world.stored(10)
    world.now += 1
    world.output((1, "a"))
    world.stored(11)
    world.now += 3
    world.finish((2, "b"))
    world.stored(12)
    told = world.told.one("text_completion x").attributes
    assert told == {
        names.REQUEST_ID: RID,
        names.GEN_AI_OPERATION: "text_completion",
        names.GEN_AI_PROVIDER: "simulator",
        names.GEN_AI_REQUEST_MODEL: "x",
        names.GEN_AI_RESPONSE_MODEL: "m",
        names.GEN_AI_RESPONSE_ID: RID,
        names.GEN_AI_REQUEST_MAX_TOKENS: 8,
        names.GEN_AI_REQUEST_STOPS: ["."],
        names.GEN_AI_RESPONSE_FINISH: ["stop"],
        names.GEN_AI_USAGE_INPUT: 1,
        names.GEN_AI_USAGE_OUTPUT: 2,
        names.GEN_AI_LATENCY_QUEUE: 2.0,
        names.GEN_AI_LATENCY_FIRST_TOKEN: 3.0,
        names.GEN_AI_LATENCY_PREFILL: 1.0,
        names.GEN_AI_LATENCY_DECODE: 3.0,
        names.GEN_AI_LATENCY_INFERENCE: 4.0,
        names.GEN_AI_LATENCY_E2E: 6.0,
    }
    others = [span for span in world.told.spans if span.name != "text_completion x"]
    assert not [span for span in others if names.GEN_AI_USAGE_OUTPUT in span.attributes]


def dead_lease(trace: str, cause: str = "first", attempt: int = 1) -> Lease:
    return lease("w2.1", attempt, cause=cause, trace=trace)


def second_attempt(world: Traced, *before: tuple[Entry, float]) -> None:
    """An attempt whose lease is stored at 20 and whose log has been read."""
    world.offer(item(attempt=2, ctl_seq=10, cause="worker_dead"))
    own = world.own
    world.stored(20)
    world.read_log(*before, (Entry(20, own), 100.0))


def test_the_attempt_of_a_killed_worker_is_told_by_the_next_one() -> None:
    world = Traced()
    dead = REQUEST.at("d" * 16)
    second_attempt(
        world,
        (Entry(10, dead_lease(traceparent(dead))), 90.0),
        (Entry(11, Tok(10, 0, [5, 6], [Delta("ab")])), 91.0),
        (Entry(12, Tok(10, 2, [7], [Delta("c")])), 92.0),
    )
    told = world.told.one(PROCESS)
    assert (told.context, told.parent_id) == (dead, REQUEST.span_id)
    assert abs(told.start - 90.0) < 0.01
    assert abs(told.end - 92.0) < 0.01
    assert told.error == "worker_dead"
    assert told.attributes[names.WORKER] == "w2"
    assert told.attributes[names.REPORTED_BY] == "w1"
    assert told.attributes[names.OUTCOME] == "lost"
    assert told.attributes[names.TOKENS] == 3

    world.finish()
    world.stored(21)
    own = world.told.all(PROCESS)[1]
    assert list(own.links) == [BATCH, dead]
    assert own.attributes[names.LINK] == ["batch", "attempt 1"]
    assert (own.attributes[names.TOKENS], own.attributes[names.OFFSET]) == (0, 3)
    assert [event.name for event in own.events] == ["continued"]


def test_what_gave_itself_back_has_told_of_itself() -> None:
    for record_of in (Failed("w2.1", "boom"), Handoff("w2.1", 0)):
        world = Traced()
        dead = traceparent(REQUEST.at("d" * 16))
        second_attempt(world, (Entry(10, dead_lease(dead)), 90.0), (Entry(11, record_of), 91.0))
        assert not world.told.all(PROCESS)


def test_a_row_of_deaths_is_told_even_if_one_of_them_died_before_it_read() -> None:
    world = Traced()
    first, second = REQUEST.at("d" * 16), REQUEST.at("e" * 16)
    second_attempt(
        world,
        (Entry(8, dead_lease(traceparent(first))), 80.0),
        (Entry(10, dead_lease(traceparent(second), "worker_dead", 2)), 90.0),
    )
    told = world.told.all(PROCESS)
    assert [span.context for span in told] == [first, second]
    assert [list(span.links) for span in told] == [[], [first]]


def test_who_made_tokens_had_read_the_log_and_told_of_those_before() -> None:
    world = Traced()
    first, second = REQUEST.at("d" * 16), REQUEST.at("e" * 16)
    second_attempt(
        world,
        (Entry(8, dead_lease(traceparent(first))), 80.0),
        (Entry(10, dead_lease(traceparent(second), "worker_dead", 2)), 90.0),
        (Entry(11, Tok(10, 0, [5], [Delta("a")])), 91.0),
    )
    assert [span.context for span in world.told.all(PROCESS)] == [second]


def test_who_was_given_up_leaves_its_span_to_its_successor() -> None:
    world = Traced()
    world.running(10)
    world.output((1, "a"))
    world.refused(last_seq=12)
    world.ctl(12, dead_lease(traceparent(REQUEST.at("d" * 16)), "redelivered", 2))
    assert not world.told.all(PROCESS)
    assert world.told.one("fenced").error == "fenced"
    assert not world.spans.watched


def test_who_was_given_up_for_one_that_is_not_traced_tells_of_itself() -> None:
    world = Traced()
    world.running(10)
    world.output((1, "a"))
    world.refused(last_seq=12)
    world.ctl(12, dead_lease("", "redelivered", 2))
    assert world.told.one(PROCESS).error == "fenced"


def test_usage_is_told_though_the_answer_to_its_end_was_lost() -> None:
    world = Traced()
    world.running(10)
    world.output((1, "a"))
    world.stored(11)
    world.finish((2, "b"))
    assert world.publish is not None
    end = record(world.publish)
    assert isinstance(end, End)
    world.refused(last_seq=12)
    world.ctl(12, end)
    assert world.told.one("text_completion m").attributes[names.GEN_AI_USAGE_OUTPUT] == 2
    assert world.told.one("END")


def test_a_cancelled_request_has_no_usage_here() -> None:
    world = Traced()
    world.running(10)
    world.output((1, "a"))
    world.stored(11)
    world.do(CancelHinted(KEY))
    world.ctl(12, End(status="cancelled", reason="cancelled"))
    attempt = world.told.one(PROCESS)
    assert (attempt.attributes[names.OUTCOME], attempt.error) == ("cancelled", "")
    assert [event.name for event in attempt.events] == ["cancel seen", "END found", "first token"]
    assert names.GEN_AI_USAGE_OUTPUT not in world.told.one("text_completion m").attributes


def test_of_an_engines_error_only_its_class_is_told() -> None:
    for error, told in (
        ("ValueError: the prompt was 'secret'", "ValueError"),
        ("secret things", "engine_error"),
    ):
        world = Traced()
        world.running(10)
        assert world.request is not None
        world.do(EngineFailed(KEY, world.request.run, error))
        world.stored(11)
        attempt = world.told.one(PROCESS)
        assert (attempt.attributes[names.OUTCOME], attempt.error) == ("error", told)
        assert "secret" not in repr(world.told.spans)
        assert world.told.one("nak")


def test_what_was_said_is_told_only_if_that_is_wanted() -> None:
    for with_content in (False, True):
        world = Traced(with_content=with_content)
        world.offer(item(body=b'{"prompt": "secret question"}'))
        world.stored(10)
        world.output((1, "hidden "))
        world.stored(11)
        world.finish((2, "answer"))
        world.stored(12)
        attributes = world.told.one("text_completion m").attributes
        if with_content:
            assert attributes[names.GEN_AI_INPUT] == '"secret question"'
            assert attributes[names.GEN_AI_OUTPUT] == '[{"role":"assistant","content":"hidden answer"}]'
        else:
            assert "secret" not in repr(world.told.spans)
            assert "hidden" not in repr(world.told.spans)


def test_what_is_not_sampled_is_not_watched() -> None:
    not_sampled = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
    sampled = not_sampled[:-2] + "01"
    for tracer, given, is_watched in (
        (Kept(0.0), "", False),
        (Kept(0.0), sampled, True),
        (Kept(1.0), not_sampled, False),
        (NoTracer(), sampled, False),
    ):
        world = Traced(tracer)
        world.offer(item(meta={"traceparent": given}))
        assert bool(world.spans.watched) is is_watched
        assert bool(world.own.trace) is is_watched


def test_an_offer_that_is_not_taken_leaves_nothing_behind() -> None:
    world = Traced(slots=1)
    world.offer(item("b" * 26), item("c" * 26))
    assert list(world.spans.watched) == [f"{TENANT}.{'b' * 26}"]


def test_an_offer_of_what_runs_here_is_an_event_of_its_attempt() -> None:
    world = Traced()
    world.running(10)
    world.offer(item(attempt=2, cause="redelivered"), seq=2)
    assert [event.name for event in world.spans.watched[KEY].events] == ["delivered again"]


def test_events_of_a_span_are_bounded() -> None:
    world = Traced()
    world.running(10)
    for _ in range(100):
        world.do(CancelHinted(KEY))
        world.ctl(10, replace_trace(world.own))
    assert len(world.spans.watched[KEY].events) == 32


def replace_trace(own: Lease) -> Lease:
    return Lease(nonce=own.nonce, worker="w1", attempt=1, cause="first", trace=own.trace)


def test_what_a_client_names_is_told_in_bounds() -> None:
    for body in ({"prompt": "a", "stop": ["b" * 10] * 50_000}, {"prompt": "a", "model": "m" * 500_000}):
        world = Traced()
        world.offer(item(body=msgspec.json.encode(body)))
        world.stored(10)
        world.finish((1, "a"))
        world.stored(11)
        assert len(repr(world.told.spans)) < 20_000, "thousands of them wait where a collector is away"
