"""A traced attempt: what is known of it while it lasts, and the spans that tell of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from infra import trace_names as names
from infra.tracing import Kind, Span, SpanEvent, Value
from schemas import subjects
from schemas.dispatch import WorkItem
from schemas.log import Fold
from schemas.trace import TraceContext, parse_traceparent
from workers.engines.base import Capabilities
from workers.events import Settled
from workers.past import Life
from workers.trace_answers import (
    Told,
    answer_attributes,
    asked_attributes,
    asked_of,
    content_attributes,
)

EVENTS_MAX = 32
"""Of one attempt: a connection that comes and goes must not make a span grow."""

PROCESS = f"process {subjects.REQUESTS_NAME}"

_OUTCOMES = {"failed": "error", "handed_off": "handoff", "no_room": "refused", "gave_up": "left"}


@dataclass(frozen=True, slots=True)
class Who:
    """The worker that tells. `model` is the name of what it serves."""

    worker: str
    model: str
    capabilities: Capabilities


@dataclass(slots=True)
class Publishing:
    """A publish that was not answered yet."""

    op: int
    kind: str
    began_at: float


@dataclass(slots=True)
class Traced:
    """`context` is the attempt's span, `parent_id` the one that the request was published in. Times are the core's."""

    item: WorkItem
    context: TraceContext
    parent_id: str
    batch: TraceContext | None
    accepted_at: float
    publishing: Publishing | None = None
    lease_seq: int = 0
    started_at: float | None = None
    continued_from: int = 0
    earlier: list[Life] = field(default_factory=list)
    reported: dict[str, None] = field(default_factory=dict)
    """Attempts that this one has told of, by their `Lease.trace`."""
    first_leased_at: float | None = None
    first_token_at: float | None = None
    """Of the request, where an earlier attempt made it."""
    told: Told | None = None
    """The END that this attempt writes, then the one that is in the log."""
    has_ended: bool = False
    """Whether it wrote that END."""
    is_superseded: bool = False
    """Whether a later attempt has a lease, and tells of this one."""
    error: str = ""
    events: list[SpanEvent] = field(default_factory=list)
    answer: Fold = field(default_factory=Fold)

    @property
    def key(self) -> str:
        """As in the core's events."""
        return f"{self.item.tenant}.{self.item.rid}"

    @property
    def arrived_at(self) -> float:
        """When the request was stored."""
        return self.accepted_at - self.item.age_s

    def note(self, name: str, at: float, attributes: dict[str, Value] | None = None) -> None:
        """Something happened."""
        if len(self.events) < EVENTS_MAX:
            self.events.append(SpanEvent(name, at, attributes or {}))


def part(
    traced: Traced,
    name: str,
    span_id: str,
    start: float,
    end: float,
    kind: Kind = "internal",
    attributes: dict[str, Value] | None = None,
) -> Span:
    """A part of an attempt."""
    return Span(
        name=name,
        context=traced.context.at(span_id),
        parent_id=traced.context.span_id,
        start=start,
        end=end,
        kind=kind,
        attributes={names.REQUEST_ID: traced.item.rid, **(attributes or {})},
    )


def attempt(traced: Traced, settled: Settled, who: Who, now: float) -> Span:
    """An attempt that is over, told by its own worker."""
    item, told = traced.item, traced.told
    outcome, error = _OUTCOMES.get(settled.outcome, settled.outcome), traced.error
    if settled.outcome == "ended" and told is not None:
        outcome = "poison" if told.reason == "poison" else told.status
        error = error or (told.reason if outcome in ("error", "expired", "poison") else "")
    elif settled.outcome in ("fenced", "gave_up", "no_room"):
        error = settled.outcome
    attributes = _attributes(item, item.attempt, item.cause, who.worker, who)
    attributes |= {
        names.MESSAGING_BODY_BYTES: len(item.body),
        names.OUTCOME: outcome,
        names.TOKENS: made(traced, settled),
        names.OFFSET: traced.continued_from,
    }
    if traced.lease_seq:
        attributes[names.LEASE] = traced.lease_seq
    if told is not None and told.reason:
        attributes[names.REASON] = told.reason
    links, linked = _links_to(traced.earlier)
    if traced.batch is not None:
        links, linked = [traced.batch, *links], ["batch", *linked]
    if links:
        attributes[names.LINK] = linked
    return Span(
        name=PROCESS,
        context=traced.context,
        parent_id=traced.parent_id,
        start=traced.accepted_at,
        end=now,
        kind="consumer",
        attributes=attributes,
        events=traced.events,
        links=links,
        error=error,
    )


def fenced(traced: Traced, settled: Settled, span_id: str, now: float) -> Span:
    """What an attempt did whose own span is its successor's to tell: it found out late that it was given up."""
    attributes: dict[str, Value] = {names.OUTCOME: "fenced", names.TOKENS: made(traced, settled)}
    span = part(traced, "fenced", span_id, traced.accepted_at, now, attributes=attributes)
    return replace(span, events=traced.events, error="fenced")


def lost(life: Life, traced: Traced, who: Who) -> Span | None:
    """An attempt before `traced` whose own worker cannot tell any more; None: it was of another trace."""
    context, lease = parse_traceparent(life.lease.trace), life.lease
    if context is None or context.trace_id != traced.context.trace_id:
        return None
    attributes = _attributes(traced.item, lease.attempt, lease.cause, lease.worker, who)
    attributes |= {
        names.OUTCOME: "lost",
        names.REASON: life.lost_by,
        names.TOKENS: life.tokens,
        names.LEASE: life.seqs[-1],
        names.REPORTED_BY: who.worker,
    }
    links, linked = _links_to(traced.earlier[: traced.earlier.index(life)])
    if links:
        attributes[names.LINK] = linked
    return Span(
        name=PROCESS,
        context=context,
        parent_id=traced.parent_id,
        start=life.began_at,
        end=life.ended_at,
        kind="consumer",
        attributes=attributes,
        events=[SpanEvent("first token", life.first_token_at)] if life.first_token_at else [],
        links=links,
        error=life.lost_by,
    )


def answer(
    traced: Traced, settled: Settled, who: Who, span_id: str, now: float, *, with_content: bool
) -> Span:
    """The model's part, on the attempt that saw the request's END; with its usage only if it wrote that, so once."""
    item, told, started_at = traced.item, traced.told, traced.started_at
    assert started_at is not None, "it ran on the engine"
    asked = asked_of(item.body)
    attributes = asked_attributes(asked, item, who.capabilities, who.model)
    attributes[names.REQUEST_ID] = item.rid
    if told is not None and traced.has_ended:
        attributes |= answer_attributes(told)
    attributes |= _latencies(traced, settled, started_at, now)
    if with_content:
        attributes |= content_attributes(asked, traced.answer)
    return Span(
        name=f"{asked.operation} {attributes[names.GEN_AI_REQUEST_MODEL]}",
        context=traced.context.at(span_id),
        parent_id=traced.context.span_id,
        start=started_at,
        end=now if settled.last_token_at is None else settled.last_token_at,
        attributes=attributes,
        error=told.reason if told is not None and told.status in ("error", "expired") else "",
    )


def made(traced: Traced, settled: Settled) -> int:
    """Tokens of this attempt."""
    return max(0, settled.tokens - traced.continued_from)


def _latencies(traced: Traced, settled: Settled, started_at: float, now: float) -> dict[str, Value]:
    """Queue, first token and whole are the request's, whoever made them; the model's times are this attempt's."""
    first_at, last_at = settled.first_token_at, settled.last_token_at
    leased_at = traced.accepted_at if traced.first_leased_at is None else traced.first_leased_at
    found: dict[str, Value] = {
        names.GEN_AI_LATENCY_QUEUE: max(0.0, leased_at - traced.arrived_at),
        names.GEN_AI_LATENCY_E2E: now - traced.arrived_at,
    }
    spoke_at = first_at if traced.first_token_at is None else traced.first_token_at
    if spoke_at is not None:
        found[names.GEN_AI_LATENCY_FIRST_TOKEN] = spoke_at - traced.arrived_at
    if first_at is not None and last_at is not None:
        found[names.GEN_AI_LATENCY_PREFILL] = first_at - started_at
        found[names.GEN_AI_LATENCY_DECODE] = last_at - first_at
        found[names.GEN_AI_LATENCY_INFERENCE] = last_at - started_at
    return found


def _attributes(item: WorkItem, number: int, cause: str, worker: str, who: Who) -> dict[str, Value]:
    return {
        names.REQUEST_ID: item.rid,
        names.TENANT: item.tenant,
        names.CLASS: item.klass,
        names.MESSAGING_SYSTEM: names.NATS,
        names.MESSAGING_OPERATION: "process",
        names.MESSAGING_OPERATION_NAME: "process",
        names.MESSAGING_DESTINATION: subjects.REQUESTS_NAME,
        names.ATTEMPT: number,
        names.CAUSE: cause,
        names.WORKER: worker,
        names.ENGINE: who.capabilities.engine,
    }


def _links_to(earlier: list[Life]) -> tuple[list[TraceContext], list[str]]:
    """A link to the attempt before."""
    before = parse_traceparent(earlier[-1].lease.trace) if earlier else None
    return ([], []) if before is None else ([before], [f"attempt {earlier[-1].lease.attempt}"])
