"""What is remembered of traced requests while a scheduler has to do with them, and what is told of an attempt whose
worker is gone. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from infra import trace_names as names
from infra.tracing import Span, SpanEvent, Value
from scheduler.holding import Name
from schemas import subjects
from schemas.output import End, Lease
from schemas.trace import TraceContext, parse_traceparent

EVENTS_MAX = 64
"""Of one hold: a request that nobody takes is offered again and again."""


@dataclass(slots=True)
class Hold:
    """A traced delivery that is held here; `context` is the one that the request was published in. It does not keep the
    request: one that the core has let go may stay here for a while. `taken_at`: when its last attempt began, if it was
    seen; `lease`: of that attempt, if it was read."""

    name: Name
    context: TraceContext
    ack: str
    since: float
    stream_seq: int
    attributes: dict[str, Value]
    taken_at: float | None = None
    lease: Lease | None = None
    cause: str = ""
    events: list[SpanEvent] = field(default_factory=list)

    def note(self, what: str, at: float, **attributes: Value) -> None:
        """Something happened."""
        if len(self.events) < EVENTS_MAX:
            self.events.append(
                SpanEvent(what, at, {f"penstock.{key}": attributes[key] for key in attributes})
            )


@dataclass(frozen=True, slots=True)
class Ran:
    """A request that a worker took, at `since`."""

    context: TraceContext
    stream_seq: int
    since: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are offered together."""

    context: TraceContext
    members: list[tuple[Name, TraceContext | None]]
    """All requests of it; those that are traced with the context they were published in."""
    since: float
    attributes: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Closing:
    """An END on its way. `lost`: what is to be told once it is written."""

    context: TraceContext
    end: End
    since: float
    lost: Span | None = None


def lost(hold: Hold, scheduler: str) -> Span | None:
    """The attempt before, told by a scheduler that closes its request: no later attempt will read the log. Its times
    are those that are known here: it was taken then, and came back then. None: it was of another trace."""
    lease = hold.lease
    context = None if lease is None else parse_traceparent(lease.trace)
    if lease is None or context is None or context.trace_id != hold.context.trace_id:
        return None
    return Span(
        name=f"process {subjects.REQUESTS_NAME}",
        context=context,
        parent_id=hold.context.span_id,
        start=hold.since if hold.taken_at is None else hold.taken_at,
        end=hold.since,
        kind="consumer",
        attributes={
            names.REQUEST_ID: hold.name[1],
            names.TENANT: hold.name[0],
            names.CLASS: hold.attributes[names.CLASS],
            names.MESSAGING_SYSTEM: names.NATS,
            names.MESSAGING_OPERATION: "process",
            names.MESSAGING_OPERATION_NAME: "process",
            names.MESSAGING_DESTINATION: subjects.REQUESTS_NAME,
            names.ATTEMPT: lease.attempt,
            names.CAUSE: lease.cause,
            names.WORKER: lease.worker,
            names.ENGINE: lease.engine,
            names.OUTCOME: "lost",
            names.REASON: "worker_dead",
            names.REPORTED_BY: scheduler,
        },
        error="worker_dead",
    )
