"""The spans of an edge: a call from its first byte to its last, the way of its request into the queue, and the way of
the output out.

They are made when the call is over, out of a few times that were taken on the way: none per token. A call that is not
sampled has an object that does nothing; an edge that traces nothing has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from edge.admission import Admitted, Arrival
from edge.errors import Problem
from edge.lookup import Found
from edge.problem_response import ProblemResponse
from infra import clock
from infra import trace_names as names
from infra.tracing import Kind, NoTracer, Span, SpanEvent, Tracer, Value, new_span_id
from schemas import subjects
from schemas.ids import RequestId, TenantKey
from schemas.requests import MSG_ID, TRACEPARENT
from schemas.trace import TraceContext, context_of, parse_traceparent, queued_context, traceparent

SERVER_ERROR = 500

_OUTCOMES = {
    "cancelled": "cancelled",
    "queue_timeout": "expired",
    "request_timeout": "expired",
    "poison": "poison",
}


class Tracing:
    """Begins the traces of the edge `name`."""

    def __init__(self, tracer: Tracer, name: str) -> None:
        self.is_on = not isinstance(tracer, NoTracer)
        self._tracer = tracer
        self._edge = name

    def call(
        self, method: str, route: str, headers: Mapping[str, str], server: tuple[str, int] | None
    ) -> CallTrace | None:
        """Of an HTTP call that publishes a request or reads one. None: this edge traces nothing."""
        if not self.is_on:
            return None
        attributes: dict[str, Value] = {
            names.HTTP_METHOD: method,
            names.HTTP_ROUTE: route,
            # The template: what stands in its places names somebody's request.
            names.URL_PATH: route,
            names.URL_SCHEME: "http",
            names.EDGE: self._edge,
        }
        if server is not None:
            attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = server
        given = headers.get(TRACEPARENT)
        context = None if given is None else parse_traceparent(given)
        return CallTrace(self._tracer, f"{method} {route}", "server", attributes, context)

    def line(self, url: str) -> CallTrace | None:
        """Of one line of a batch, asked for without HTTP."""
        if not self.is_on:
            return None
        return CallTrace(self._tracer, f"batch line {url}", "internal", {names.EDGE: self._edge}, None)


class CallTrace:
    """One call, told of as it goes on; `answered` sends its spans. `given`: the context that the client sent.

    Which trace it belongs to is known when its request is: `named` or `reads`.
    """

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        kind: Kind,
        attributes: dict[str, Value],
        given: TraceContext | None,
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._kind: Kind = kind
        self._attributes = attributes
        self._given = given
        self._context: TraceContext | None = None
        self.trace_id = ""
        """Empty: the call is not traced."""
        self._rid = ""
        self._start = clock.now()
        self._events: list[SpanEvent] = []
        self._links: list[TraceContext] = []
        self._publishing_at: float | None = None
        self._published_at: float | None = None
        self._publish_id = ""
        self._message: dict[str, Value] = {}
        self._problem: Problem | None = None
        self._outcome = ""
        if given is not None:
            self._belongs(given)

    def named(self, tenant: TenantKey, rid: RequestId) -> None:
        """The request has a name; it may still get another one, before it is published."""
        if rid == self._rid:
            return
        if self._given is None:
            self._belongs(context_of(tenant, rid, "", ratio=self._tracer.ratio))
        self._about(tenant, rid)

    def reads(self, tenant: TenantKey, rid: RequestId, found: Found) -> None:
        """The call is for a request that is there already."""
        request = queued_context(tenant, rid, found.traceparent, ratio=self._tracer.ratio)
        if self._given is None and self._published_at is None:
            self._belongs(request)
        # Of one that has gone and says nothing, nobody knows who was its root.
        if request.span_id and (found.traceparent or found.queued):
            self._links.append(request)
        self._about(tenant, rid)

    def header(self) -> str:
        """The `traceparent` for the request's message; empty: it needs none, or it is the client's own."""
        if self._context is None:
            return ""
        self._publish_id = new_span_id()
        return traceparent(self._context.at(self._publish_id))

    def mark(self, name: str) -> None:
        """Something happened now; a few times in a call."""
        if self.trace_id:
            self._events.append(SpanEvent(name, clock.now()))

    def admitted(self, admitted: Admitted) -> None:
        """Every limit has said yes."""
        if self.trace_id:
            self._attributes[names.GEN_AI_REQUEST_MODEL] = admitted.card.name
            self._attributes[names.GEN_AI_REQUEST_MAX_TOKENS] = admitted.meta.max_tokens
            self._attributes[names.GEN_AI_REQUEST_STREAM] = admitted.meta.stream
            self.mark("admitted")

    def publishing(self, arrival: Arrival, admitted: Admitted) -> None:
        """Its message is sent for the first time."""
        if self.trace_id:
            self._publishing_at = clock.now()
            self._message = {
                **self._of_request(),
                names.MESSAGING_SYSTEM: names.NATS,
                names.MESSAGING_OPERATION: "send",
                names.MESSAGING_OPERATION_NAME: "publish",
                names.MESSAGING_TEMPLATE: subjects.REQUEST_TEMPLATE,
                names.MESSAGING_MESSAGE_ID: admitted.headers[MSG_ID],
                names.MESSAGING_BODY_BYTES: len(arrival.raw),
            }

    def published(self, arrival: Arrival, said: Problem | Found | None) -> None:
        """The broker has answered, or will not."""
        if self._publishing_at is None:
            return
        now = clock.now()
        self._emit_publish(now, said.reason if isinstance(said, Problem) else "")
        if not isinstance(said, Problem):
            self._published_at = now
        if isinstance(said, Found):
            self.reads(arrival.tenant, arrival.rid, said)

    def ended(self, outcome: str, problem: Problem | None) -> None:
        """The answer is over: `outcome` is that of `Answer`."""
        if not self.trace_id:
            return
        self._problem = problem
        reason = "" if problem is None else problem.reason
        self._outcome = {"answered": "ok", "left": "left"}.get(outcome) or _OUTCOMES.get(reason, "error")
        self.mark("client left" if outcome == "left" else "last byte")

    def answered(self, response: Response) -> None:
        """The call is over."""
        self._over(response.status_code, response.problem if isinstance(response, ProblemResponse) else None)

    def _over(self, status: int, problem: Problem | None) -> None:
        """`status` 0: it was answered with nothing."""
        if self._context is None:
            return
        end = clock.now()
        if self._publishing_at is not None:
            # Whoever asked left before the broker had answered.
            self._emit_publish(end, "left")
        problem = problem or self._problem
        attributes = self._attributes
        if status:
            attributes[names.HTTP_STATUS] = status
        if problem is not None:
            attributes[names.ERROR_TYPE] = problem.reason
        # A client's mistake is none of the server's.
        is_error = problem is not None and problem.row.status >= SERVER_ERROR
        error = problem.reason if problem is not None and is_error else ""
        outcome = self._outcome or ("refused" if problem is not None else "ok")
        own_events, events = self._events, []
        if self._published_at is not None:
            own_events = [event for event in self._events if event.at < self._published_at]
            events = self._events[len(own_events) :]
            self._emit_deliver(end, events, outcome, problem, error)
        attributes[names.OUTCOME] = outcome
        if self._links:
            attributes[names.LINK] = ["request"] * len(self._links)
        self._tracer.emit(
            Span(
                name=self._name,
                context=self._context,
                parent_id="" if self._given is None else self._given.span_id,
                start=self._start,
                end=end,
                kind=self._kind,
                attributes=attributes,
                events=own_events,
                links=self._links,
                error=error,
            )
        )

    def _emit_publish(self, end: float, reason: str) -> None:
        assert self._context is not None
        assert self._publishing_at is not None
        error = {names.ERROR_TYPE: reason} if reason else {}
        self._tracer.emit(
            Span(
                name=f"publish {subjects.REQUESTS_NAME}",
                context=self._context.at(self._publish_id),
                parent_id=self._context.span_id,
                start=self._publishing_at,
                end=end,
                kind="producer",
                attributes={**self._message, **error},
                error=reason,
            )
        )
        self._publishing_at = None

    def _emit_deliver(
        self, end: float, events: list[SpanEvent], outcome: str, problem: Problem | None, error: str
    ) -> None:
        assert self._context is not None
        assert self._published_at is not None
        attributes = {**self._of_request(), names.OUTCOME: outcome}
        if problem is not None:
            attributes[names.ERROR_TYPE] = problem.reason
        self._tracer.emit(
            Span(
                name="deliver",
                context=self._context.at(new_span_id()),
                parent_id=self._context.span_id,
                start=self._published_at,
                end=end,
                attributes=attributes,
                events=events,
                error=error,
            )
        )

    def _belongs(self, trace: TraceContext) -> None:
        self._context = trace.at(new_span_id()) if trace.is_sampled else None
        self.trace_id = trace.trace_id if trace.is_sampled else ""

    def _about(self, tenant: TenantKey, rid: RequestId) -> None:
        self._rid = rid
        if self.trace_id:
            self._attributes[names.REQUEST_ID] = rid
            self._attributes[names.TENANT] = tenant

    def _of_request(self) -> dict[str, Value]:
        return {key: self._attributes[key] for key in (names.REQUEST_ID, names.TENANT)}
