"""The spans of a scheduler: how long a request was queued and held, what it was offered with, how it was closed.

It stands beside the shell and changes nothing. What is told comes from what the core was told and asked for; a request
that is not traced costs a comparison when it is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from infra import trace_names as names
from infra.tracing import Kind, NoTracer, Span, SpanEvent, Tracer, Value, new_span_id, new_trace_id
from scheduler import events, quota_events
from scheduler.backlog import bucket_of
from scheduler.events import Action, Event
from scheduler.holding import Name
from scheduler.traced import Batch, Closing, Hold, Ran, lost
from schemas import subjects
from schemas.ids import WorkerId
from schemas.output import End, Lease
from schemas.requests import InvalidMeta
from schemas.trace import TraceContext, queued_context, root_span_id, traceparent

KEPT_MAX = 4096
"""Requests of which it is remembered where they stand in their traces: those held, those that workers took, those given
back to the queue, those being closed. Beyond it the oldest are forgotten, and less is told of them."""

_TOLD = (events.Offer, events.ForgetOffer, events.Close, events.Cancel, events.Ack, events.Nak)

K = TypeVar("K")
V = TypeVar("V")


class _Gone(NamedTuple):
    """A worker that is taken for dead, and what is remembered to have been taken by any, by its sequence in the queue:
    it may have run hundreds."""

    worker: WorkerId
    ran: dict[int, Name]


class Spans:
    """Watches one scheduler's core. `is_dead`: whether a worker is not there any more."""

    def __init__(self, tracer: Tracer, scheduler: str, is_dead: Callable[[WorkerId, float], bool]) -> None:
        self._is_dead = is_dead
        self._tracer = tracer
        self._is_on = not isinstance(tracer, NoTracer)
        self._scheduler = scheduler
        self._holds: dict[Name, Hold] = {}
        self._by_ack: dict[str, Hold] = {}
        self._ran: dict[Name, Ran] = {}
        self._returned: dict[Name, float] = {}
        self._batches: dict[tuple[WorkerId, int], Batch] = {}
        self._closing: dict[Name, Closing] = {}

    def saw(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """What the core was told, and what it asked for."""
        if not self._is_on:
            return
        match event:
            case events.Delivered():
                self._delivered(event, now)
            case quota_events.OverFound():
                self._found_over(event, actions, now)
            case _ if self._holds or self._ran or self._closing or self._batches:
                self._heard(event, now)
            case _:
                return
        if not (self._holds or self._ran or self._closing or self._batches):
            return
        gone: _Gone | None = None
        for action in actions:
            if isinstance(action, events.WorkerGone):
                gone = _Gone(action.worker, {ran.stream_seq: name for name, ran in self._ran.items()})
            elif isinstance(action, _TOLD):
                self._asked_for(action, gone, now)

    def trace_of(self, offer: events.Offer) -> str:
        """The traceparent of a batch that is offered; empty: it is not traced."""
        batch = self._batches.get((offer.worker, offer.work.seq))
        return "" if batch is None else traceparent(batch.context)

    def check(self) -> None:
        """Asserts the bounds."""
        for kept in (self._holds, self._by_ack, self._ran, self._returned, self._closing):
            assert len(kept) <= KEPT_MAX
        assert len(self._by_ack) == len(self._holds)

    # What the core was told.

    def _delivered(self, event: events.Delivered, now: float) -> None:
        if event.subject is None:
            return
        given = "" if isinstance(event.meta, InvalidMeta) else event.meta.traceparent
        context = self._context(event.subject.tenant, event.subject.rid, given)
        if context is None:
            return
        name = (event.subject.tenant, event.subject.rid)
        old = self._holds.get(name)
        if old is not None and old.stream_seq != event.stream_seq:
            return  # Queued twice: this one is given back.
        ran = self._ran.pop(name, None)
        returned_at = self._returned.pop(name, None)
        if old is not None:
            del self._by_ack[old.ack]
            old.ack = event.ack
            self._by_ack[old.ack] = old
            old.note("delivered again", now, delivery=event.attempt)
            return
        attributes = _of_delivery(event)
        queued_at = now - event.age_s if event.attempt == 1 else returned_at
        if event.attempt == 1 or not (ran or returned_at):
            # Whoever was handed it before may have died of it. Said twice, it is still the same span.
            self._root(name, context, now - event.age_s)
        if queued_at is not None:
            self._part(name, context, "queue", queued_at, now, attributes=attributes)
        hold = Hold(
            name, context, event.ack, now, event.stream_seq, attributes, None if ran is None else ran.since
        )
        forgotten = _keep(self._holds, name, hold)
        if forgotten is not None:
            del self._by_ack[forgotten.ack]
        self._by_ack[event.ack] = hold

    def _heard(self, event: Event, now: float) -> None:
        match event:
            case events.Answered(worker, seq, answers):
                self._answered(worker, seq, answers, now)
            case events.OfferFailed(worker, seq):
                self._offer_failed(worker, seq, "no answer", now)
            case events.CtlRead(tenant, rid, entry):
                hold = self._holds.get((tenant, rid))
                if hold is not None:
                    record = None if entry is None else entry.record
                    hold.lease = record if isinstance(record, Lease) else None
                    hold.note("log read", now)
            case events.HistoryRead(tenant, rid):
                hold = self._holds.get((tenant, rid))
                if hold is not None:
                    hold.note("log read", now)
            case events.CancelHinted(tenant, rid):
                hold = self._holds.get((tenant, rid))
                if hold is not None:
                    hold.note("cancel seen", now)
            case events.EndWritten(tenant, rid):
                self._closed((tenant, rid), "", now)
            case events.CloseRefused(tenant, rid):
                self._closed((tenant, rid), "output_full", now)
            case events.CallFailed(tenant, rid):
                self._closed((tenant, rid), "no answer", now)
            case _:
                pass

    def _answered(self, worker: WorkerId, seq: int, answers: Sequence[str], now: float) -> None:
        batch = self._batches.get((worker, seq))
        if batch is None:
            return
        if len(answers) != len(batch.members):
            self._offer_failed(worker, seq, "a wrong answer", now)
            return
        self._tell_batch(self._batches.pop((worker, seq)), "", now)
        for (name, _), answer in zip(batch.members, answers, strict=True):
            hold = self._holds.get(name)
            if hold is None:
                continue
            if answer in ("full", "draining"):
                hold.note("refused", now, worker=worker, reason=answer)
                continue
            if answer != "done":
                _keep(self._ran, name, Ran(hold.context, hold.stream_seq, now))
            self._let_go(hold, answer, now, {names.WORKER: worker, names.CAUSE: hold.cause})

    def _offer_failed(self, worker: WorkerId, seq: int, why: str, now: float) -> None:
        batch = self._batches.pop((worker, seq), None)
        if batch is None:
            return
        self._tell_batch(batch, why, now)
        for name, _ in batch.members:
            hold = self._holds.get(name)
            if hold is not None:
                hold.note("not answered", now, worker=worker, reason=why)

    def _found_over(self, event: quota_events.OverFound, actions: Sequence[Action], now: float) -> None:
        """What is refused was never delivered: nothing is known of it but what was found."""
        given = {(one.tenant, one.rid): one.traceparent for one in event.requests}
        for action in actions:
            if isinstance(action, quota_events.RefuseQueued):
                name = (action.tenant, action.rid)
                context = self._context(*name, given.get(name, ""))
                if context is not None:
                    self._root(name, context, now)
                    _keep(self._closing, name, Closing(context, action.end, now))

    # What it asked for.

    def _asked_for(self, action: Action, gone: _Gone | None, now: float) -> None:
        match action:
            case events.Offer():
                self._offers(action, now)
            case events.ForgetOffer(worker, seq):
                self._offer_failed(worker, seq, "timed out", now)
            case events.Close(tenant, rid, end) | events.Cancel(tenant, rid, end):
                self._closes((tenant, rid), end, now)
            case events.Ack(ack) if ack in self._by_ack:
                self._let_go(self._by_ack[ack], "settled", now)
            case events.Nak(ack, delay_s) if ack in self._by_ack:
                hold = self._by_ack[ack]
                _keep(self._returned, hold.name, now)
                self._let_go(hold, "given back", now, {"penstock.delay_s": delay_s})
            case events.Nak(ack) if gone is not None:
                self._tell_gone(ack, gone, now)
            case _:
                pass

    def _offers(self, offer: events.Offer, now: float) -> None:
        members: list[tuple[Name, TraceContext | None]] = []
        for item in offer.work.items:
            hold = self._by_ack.get(item.ack)
            members.append(((item.tenant, item.rid), None if hold is None else hold.context))  # type: ignore[arg-type]
            if hold is not None:
                hold.cause = item.cause
                hold.note("offered", now, worker=offer.worker)
        traced = [name[1] for name, context in members if context is not None]
        if not traced:
            return
        attributes: dict[str, Value] = {
            names.MESSAGING_SYSTEM: names.NATS,
            names.MESSAGING_OPERATION: "send",
            names.MESSAGING_OPERATION_NAME: "offer",
            names.MESSAGING_BATCH_COUNT: len(members),
            names.REQUEST_IDS: traced,
            names.LINK: ["request"] * len(traced),
            names.WORKER: offer.worker,
            names.BATCH_SEQ: offer.work.seq,
            names.BATCH_TOKENS: bucket_of(offer.work.items[0].meta.max_tokens),
        }
        context = TraceContext(new_trace_id(), new_span_id(), is_sampled=True)
        self._batches[offer.worker, offer.work.seq] = Batch(context, members, now, attributes)

    def _closes(self, name: Name, end: End, now: float) -> None:
        hold, ran = self._holds.get(name), self._ran.get(name)
        known = hold or ran
        if known is not None:
            lease = None if hold is None else hold.lease
            has_died = lease is not None and self._is_dead(WorkerId(lease.worker), now)
            told = lost(hold, self._scheduler) if hold is not None and has_died else None
            _keep(self._closing, name, Closing(known.context, end, now, told))

    # What is told.

    def _let_go(
        self, hold: Hold, outcome: str, now: float, attributes: dict[str, Value] | None = None
    ) -> None:
        del self._holds[hold.name]
        del self._by_ack[hold.ack]
        more = hold.attributes | {names.OUTCOME: outcome} | (attributes or {})
        self._part(hold.name, hold.context, "hold", hold.since, now, attributes=more, noted=hold.events)

    def _closed(self, name: Name, error: str, now: float) -> None:
        closing = self._closing.pop(name, None)
        if closing is None:
            return
        end = closing.end
        attributes: dict[str, Value] = {names.OUTCOME: end.status, names.REASON: end.reason}
        if closing.lost is not None and not error:
            self._tracer.emit(closing.lost)
        error = error or ("" if end.status == "cancelled" else end.reason)
        self._part(name, closing.context, "close", closing.since, now, "client", attributes, error=error)

    def _tell_batch(self, batch: Batch, error: str, now: float) -> None:
        self._tracer.emit(
            Span(
                name="batch",
                context=batch.context,
                parent_id="",
                start=batch.since,
                end=now,
                kind="producer",
                attributes=batch.attributes,
                links=[context for _, context in batch.members if context is not None],
                error=error,
            )
        )

    def _tell_gone(self, ack: str, gone: _Gone, now: float) -> None:
        """A worker is taken for dead: told in the trace of each request that it ran."""
        delivery = subjects.parse_ack(ack)
        name = None if delivery is None else gone.ran.get(delivery.stream_seq)
        if name is not None:
            _keep(self._returned, name, now)
            worker: dict[str, Value] = {names.WORKER: gone.worker}
            self._part(name, self._ran[name].context, "worker gone", now, now, attributes=worker)

    def _root(self, name: Name, context: TraceContext, stored_at: float) -> None:
        """What the publisher did, if it does not trace: all that is known of it is when the broker stored it."""
        if context.span_id != root_span_id(*name):
            return
        self._tracer.emit(
            Span(
                name=f"publish {subjects.REQUESTS_NAME}",
                context=context,
                parent_id="",
                start=stored_at,
                end=stored_at,
                kind="producer",
                attributes={
                    names.REQUEST_ID: name[1],
                    names.TENANT: name[0],
                    names.MESSAGING_SYSTEM: names.NATS,
                    names.MESSAGING_OPERATION: "send",
                    names.MESSAGING_OPERATION_NAME: "publish",
                    names.MESSAGING_DESTINATION: subjects.REQUESTS_NAME,
                    names.REPORTED_BY: self._scheduler,
                },
            )
        )

    def _part(
        self,
        name: Name,
        context: TraceContext,
        what: str,
        start: float,
        end: float,
        kind: Kind = "internal",
        attributes: dict[str, Value] | None = None,
        *,
        noted: Sequence[SpanEvent] = (),
        error: str = "",
    ) -> None:
        self._tracer.emit(
            Span(
                name=what,
                context=context.at(new_span_id()),
                parent_id=context.span_id,
                start=start,
                end=end,
                kind=kind,
                attributes={names.REQUEST_ID: name[1], names.TENANT: name[0], **(attributes or {})},
                events=noted,
                error=error,
            )
        )

    def _context(self, tenant: str, rid: str, given: str) -> TraceContext | None:
        """Where a request was published, if it is traced."""
        ratio = self._tracer.ratio
        if not ratio and not given:
            return None
        context = queued_context(tenant, rid, given, ratio=ratio)
        return context if context.is_sampled else None


def _of_delivery(event: events.Delivered) -> dict[str, Value]:
    return {
        names.DELIVERY: event.attempt,
        names.CLASS: event.klass,
        names.MODEL: event.model,
        names.MESSAGING_SYSTEM: names.NATS,
        names.MESSAGING_GROUP: f"{event.klass}-{event.model}",
    }


def _keep(kept: dict[K, V], key: K, value: V) -> V | None:
    """Adds to what is remembered. Returns what is forgotten for it."""
    kept.pop(key, None)
    kept[key] = value
    return kept.pop(next(iter(kept))) if len(kept) > KEPT_MAX else None
