"""Opens answers, and sees to what their end means for the request."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.responses import Response

from edge import ends, metrics
from edge.accounts import Account, refused
from edge.answers import Answer, AnswerLimits, Outcome, Submit, Ticket
from edge.audience import Audience
from edge.closer import Closer
from edge.dialects import dialect_of
from edge.errors import OPENAI_ERRORS, ErrorStyle, Problem
from edge.event_stream import EventStream
from edge.forecast.doorkeeper import Prospect
from edge.gate import Permit, Settled
from edge.manner import AS_EVER, Manner
from edge.position import Position
from edge.problem_response import ProblemResponse
from edge.reader import LogSources
from edge.readers import Leaving
from edge.tracing import CallTrace
from infra.bus import Bus
from infra.logs import get_logger
from infra.settings import Settings
from schemas.ids import RequestId, TenantKey
from schemas.output import End
from schemas.requests import RequestMeta, View

CLIENT_ID_CHARS_MAX = 128

_log = get_logger("edge")


def refuse(problem: Problem, rid: RequestId | None = None, errors: ErrorStyle = OPENAI_ERRORS) -> Response:
    """The answer to a request that is turned away, counted."""
    refused(problem, errors.status(problem))
    return ProblemResponse(problem, rid, errors)


class Desk:
    """Every answer of this edge is opened here. `closed`: no more of them."""

    def __init__(self, settings: Settings, bus: Bus, edge: str, sources: LogSources, closer: Closer) -> None:
        self.closed = False
        self._now = asyncio.get_running_loop().time
        self._sources = sources
        self._closer = closer
        self._settings = settings
        self._limits = AnswerLimits(
            head_wait_s=settings.head_wait_s,
            keep_alive_s=settings.keep_alive_s,
            slow_client_s=settings.result_ttl_s,
            client_buffer_bytes_max=int(settings.client_buffer_bytes_max),
        )
        self.audience = Audience(
            bus,
            edge,
            answers_max=settings.edge_answers_max,
            interval_s=settings.edge_interval_s,
            farewell_s=settings.idempotency_grace_s,
            cancel=lambda tenant, rid: closer.close_soon(tenant, rid, ends.CLIENT_GONE),
        )

    def refusal(self) -> Problem | None:
        """Why no answer can be opened now."""
        if self.closed:
            return Problem("draining", "this server is going away")
        if self.audience.full:
            return Problem("edge_full", "this server has too many answers open: try again")
        return None

    def open(
        self,
        tenant: TenantKey,
        rid: RequestId,
        view: View,
        *,
        meta: RequestMeta | None,
        grace_s: float | None,
        shared: bool = False,
        submit: Submit | None = None,
        account: str | None = None,
        trace_id: str = "",
        seen: Position | None = None,
        stream: bool | None = None,
        client_id: str = "",
        permit: Permit | None = None,
        prospect: Prospect | None = None,
        manner: Manner = AS_EVER,
        trace: CallTrace | None = None,
    ) -> Response:
        """The answer of one reader; it is served when it is called.

        `meta`: of the request's message; None once that has gone: then it has ended. `shared`: others may read it, too.
        `submit` is for a request that is new, and `account` the model it counts for; without it there is one already.
        `trace_id`: of a request that is traced.
        `seen`: see `EventStream`. `stream`: None for what the view says. `permit` and `prospect`: of a request that
        is new.
        """
        errors = dialect_of(view).errors
        permit = permit or Permit()
        refusal = self.refusal()
        if refusal is not None:
            permit.settle(Settled("refused"))
            return refuse(refusal, rid, errors)
        settings = self._settings
        told = meta or RequestMeta()
        ticket = Ticket(
            tenant=tenant,
            rid=rid,
            queue_timeout_s=told.queue_timeout_s or settings.queue_timeout_s,
            request_timeout_s=min(
                told.request_timeout_s or settings.request_timeout_s, settings.request_timeout_max_s
            ),
            attach=partial(self._attach, account, trace_id, grace_s, shared),
            share=self.audience.share,
            detach=partial(self._detach, view.model, client_id, permit),
            close=partial(self._close, tenant, rid),
            errors=errors,
            headers=permit.headers,
            prospect=prospect,
            shape=manner.shape,
            trace=trace,
        )
        if seen is not None:
            metrics.RESUMES.inc()
        shape = manner.shape(view, rid)
        if view.stream if stream is None else stream:
            at_once = manner.at_once
            return EventStream(ticket, submit, self._sources, shape, self._limits, seen, at_once=at_once)
        return manner.whole(ticket, submit, self._sources, shape, self._limits)

    def _attach(
        self, account: str | None, trace_id: str, grace_s: float | None, shared: bool, answer: Answer
    ) -> Account | None:
        self.audience.join(answer, grace_s, shared=shared)
        return None if account is None else Account(account, self._now(), trace_id)

    def _detach(
        self,
        model: str,
        client_id: str,
        permit: Permit,
        answer: Answer,
        why: Leaving,
        outcome: Outcome,
        problem: Problem | None,
    ) -> None:
        self.audience.leave(answer, why)
        settled, ticket = answer.settled, answer.ticket
        permit.settle(settled)
        if outcome == "left":
            metrics.DISCONNECTED_CLIENTS.inc()
        elif problem is not None and settled.how == "refused":
            metrics.REJECTS.labels(problem.reason).inc()
        fields: dict[str, str] = {
            "tenant": ticket.tenant,
            "rid": ticket.rid,
            "model": model,
            "outcome": outcome,
        }
        if ticket.trace is not None and ticket.trace.trace_id:
            ticket.trace.ended(outcome, problem)
        if problem is not None:
            # Not its message: an engine's may repeat the prompt.
            fields["reason"] = problem.reason
        if client_id:
            fields["client_request_id"] = client_id[:CLIENT_ID_CHARS_MAX]
        _log.info("request", **fields)

    def _close(self, tenant: TenantKey, rid: RequestId, end: End, expect: int | None) -> None:
        self._closer.close_soon(tenant, rid, end, expect=expect)
