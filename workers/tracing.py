"""The spans of a worker: what an attempt did, told when it is over, from what its core was told and asked for.

It stands beside the shell and changes nothing. An attempt that is not traced costs a comparison when it comes; while
none is traced, an event costs one; a token of a traced one costs no more than a look at its event. An attempt whose
worker was killed is told of by the next one, from the log, under the span id that its lease left there.
"""

from __future__ import annotations

import re
import time

from infra import clock
from infra import trace_names as names
from infra.tracing import Kind, NoTracer, Tracer, Value, new_span_id
from schemas.dispatch import Work
from schemas.log import Entry
from schemas.output import CtlRecord, End, Lease, Tail, Tok, decode_ctl, decode_tok
from schemas.trace import parse_traceparent, queued_context, traceparent
from workers import traced as spans
from workers.engines.base import EngineFailed, EngineOutput
from workers.events import (
    Ack,
    Action,
    CancelHinted,
    CtlRead,
    Event,
    LetterLost,
    LogRead,
    Nak,
    Offered,
    Publish,
    Refused,
    Reply,
    Settled,
    StartEngine,
    Stored,
)
from workers.past import lives, untold
from workers.trace_answers import Told, told_of
from workers.traced import PROCESS, Publishing, Traced, Who

__all__ = ["PROCESS", "Spans", "Who"]

_STORES = {"lease": "lease", "end": "END", "failed": "failed", "handoff": "handoff", "dead": "dead letter"}
"""The spans of publishes, by their kind. An append has none: nothing is told per token."""

_ERROR_CLASS = re.compile(r"[A-Za-z_][\w.]{0,99}")


class Spans:
    """Watches one worker's core. `with_content`: prompts and answers are told."""

    def __init__(self, tracer: Tracer, who: Who, *, with_content: bool) -> None:
        self.watched: dict[str, Traced] = {}
        """The traced attempts, by key; the core bounds them. While there is none, `saw` need not be called."""
        self._tracer = tracer
        self._is_on = not isinstance(tracer, NoTracer)
        self._who = who
        self._with_content = with_content

    def expect(self, work: Work, now: float) -> dict[str, str]:
        """A batch is about to be offered: where the attempts at its traced requests would stand, by key."""
        found: dict[str, str] = {}
        if not self._is_on:
            return found
        ratio = self._tracer.ratio
        batch = parse_traceparent(work.trace) if work.trace else None
        for item in work.items:
            if not ratio and not item.meta.traceparent:
                continue
            published = queued_context(item.tenant, item.rid, item.meta.traceparent, ratio=ratio)
            if not published.is_sampled:
                continue
            new = Traced(item, published.at(new_span_id()), published.span_id, batch, now)
            found[new.key] = traceparent(self.watched.setdefault(new.key, new).context)
        return found

    def saw(self, event: Event, actions: list[Action], now: float) -> None:
        """What the core was told, and what it asked for."""
        match event:
            case EngineOutput() if not self._with_content:
                return
            case Offered():
                self._offered(event, actions, now)
            case Stored() | Refused() | CtlRead() | CancelHinted() | EngineFailed() | LogRead():
                traced = self.watched.get(event.key)
                if traced is not None:
                    self._heard(traced, event, now)
            case _:
                pass
        before: Action | None = None
        for action in actions:
            self._asked_for(action, before, now)
            before = action

    def read(self, key: str, entries: list[Entry], times: list[float]) -> None:
        """The log of a traced request was read up to the attempt's own lease; `times` are those of the records, in Unix
        seconds."""
        traced = self.watched.get(key)
        if traced is None:
            return
        ahead_s = time.time() - clock.now()
        log = [(entry, at - ahead_s) for entry, at in zip(entries, times, strict=True)]
        own, found = traceparent(traced.context), lives(log)
        traced.first_leased_at = next((at for (_, record), at in log if isinstance(record, Lease)), None)
        traced.first_token_at = next((at for (_, record), at in log if isinstance(record, Tok)), None)
        traced.earlier = [life for life in found if life.lease.trace != own]
        for life in untold(traced.earlier):
            span = None if life.lease.trace in traced.reported else spans.lost(life, traced, self._who)
            if span is not None:
                traced.reported[life.lease.trace] = None
                self._tracer.emit(span)

    # What the core was told.

    def _offered(self, event: Offered, actions: list[Action], now: float) -> None:
        reply = actions[0] if actions else None
        answers = reply.answers if isinstance(reply, Reply) else ["full"] * len(event.work.items)
        for item, answer in zip(event.work.items, answers, strict=True):
            traced = self.watched.get(f"{item.tenant}.{item.rid}")
            if traced is None:
                continue
            if answer == "mine" and traced.item is not item:
                traced.item = item
                traced.note("delivered again", now, {names.DELIVERY: item.attempt, names.CAUSE: item.cause})
            elif answer != "accepted" and traced.item is item:
                del self.watched[traced.key]

    def _heard(self, traced: Traced, event: Event, now: float) -> None:
        match event:
            case Stored():
                self._stored(traced, event.op, event.seq, now)
            case Refused() if traced.publishing is not None and traced.publishing.op == event.op:
                traced.note("refused", now, {names.REASON: str(event.err_code)})
            case CtlRead():
                self._ctl_read(traced, event, now)
            case CancelHinted():
                traced.note("cancel seen", now)
            case EngineFailed():
                # Its class alone: what an engine says may repeat the prompt.
                error_class = event.error.partition(":")[0]
                traced.error = error_class if _ERROR_CLASS.fullmatch(error_class) else event.reason
                traced.note("failed", now, {names.ERROR_TYPE: traced.error})
            case LogRead() if self._with_content:
                for _, record in event.entries:
                    _add(traced, record)
            case _:
                pass

    def _stored(self, traced: Traced, op: int, seq: int, now: float) -> None:
        publishing = traced.publishing
        if publishing is None or publishing.op != op:
            return
        traced.publishing = None
        attributes: dict[str, Value] = {}
        if publishing.kind == "lease":
            traced.lease_seq = attributes[names.LEASE] = seq
        elif publishing.kind == "end":
            traced.has_ended = True
        self._part(traced, _STORES[publishing.kind], publishing.began_at, now, "producer", attributes)

    def _ctl_read(self, traced: Traced, event: CtlRead, now: float) -> None:
        """An answer that got lost is found in the log, and so is what others wrote."""
        record, publishing, told = event.record, traced.publishing, traced.told
        is_own = publishing is not None and (
            (isinstance(record, Lease) and record.trace == traceparent(traced.context))
            or (
                isinstance(record, End)
                and told is not None
                and bool(record.nonce)
                and told.nonce == record.nonce
            )
        )
        if publishing is not None and is_own:
            self._stored(traced, publishing.op, event.seq, now)
        elif isinstance(record, End):
            traced.told = Told(record.status, reason=record.reason)
            traced.note("END found", now, {names.OUTCOME: record.status})
        elif isinstance(record, Lease) and record.trace != traceparent(traced.context):
            traced.is_superseded = bool(traced.lease_seq and record.trace)
            traced.note("fence lost", now, {names.WORKER: record.worker, names.LEASE: event.seq})

    # What it asked for.

    def _asked_for(self, action: Action, before: Action | None, now: float) -> None:
        match action:
            case Publish() if (traced := self.watched.get(action.key)) is not None:
                self._publishes(traced, action, now)
            case StartEngine() if (traced := self.watched.get(action.request.key)) is not None:
                prefix = action.request.prefix
                # A run that a newer lease made begin anew is the same attempt: its first tokens may be those before.
                if traced.started_at is None:
                    traced.started_at = now
                traced.continued_from = 0 if prefix is None else len(prefix.ids)
                if prefix is not None:
                    traced.note("continued", now, {names.OFFSET: traced.continued_from})
            case LetterLost() if (traced := self.watched.get(action.key)) is not None:
                traced.note("dead letter lost", now)
            case Settled() if (traced := self.watched.pop(action.key, None)) is not None:
                self._settled(traced, action, before, now)
            case _:
                pass

    def _publishes(self, traced: Traced, publish: Publish, now: float) -> None:
        if publish.kind == "append":
            if self._with_content:
                _add(traced, decode_tok(publish.body))
            return
        if traced.publishing is None or traced.publishing.op != publish.op:
            traced.publishing = Publishing(publish.op, publish.kind, now)
        if publish.kind == "end":
            traced.told = told_of(publish.body)
            if self._with_content:
                _add(traced, decode_ctl(publish.body))

    # What is told.

    def _settled(self, traced: Traced, settled: Settled, before: Action | None, now: float) -> None:
        first_at, last_at = settled.first_token_at, settled.last_token_at
        if traced.started_at is not None:
            self._part(traced, "prefill", traced.started_at, now if first_at is None else first_at)
        if first_at is not None and last_at is not None:
            traced.note("first token", first_at)
            tokens: dict[str, Value] = {names.TOKENS: spans.made(traced, settled)}
            self._part(traced, "decode", first_at, last_at, attributes=tokens)
        if isinstance(before, Ack | Nak):
            # A delivery is settled right before its request is, and nobody waits for the broker to say so.
            verb = type(before).__name__.lower()
            named: dict[str, Value] = {
                names.MESSAGING_OPERATION: "settle",
                names.MESSAGING_OPERATION_NAME: verb,
            }
            self._part(traced, verb, now, now, "client", named)
        if settled.outcome == "ended" and traced.started_at is not None:
            self._tracer.emit(
                spans.answer(traced, settled, self._who, new_span_id(), now, with_content=self._with_content)
            )
        if traced.is_superseded and settled.outcome == "fenced":
            self._tracer.emit(spans.fenced(traced, settled, new_span_id(), now))
        else:
            self._tracer.emit(spans.attempt(traced, settled, self._who, now))

    def _part(
        self,
        traced: Traced,
        name: str,
        start: float,
        end: float,
        kind: Kind = "internal",
        attributes: dict[str, Value] | None = None,
    ) -> None:
        self._tracer.emit(spans.part(traced, name, new_span_id(), start, end, kind, attributes))


def _add(traced: Traced, record: CtlRecord | Tok) -> None:
    """Of the same tokens twice, the first ones count: a fold goes by offsets."""
    tokens = record.tail if isinstance(record, End) else record
    if isinstance(tokens, Tok | Tail):
        traced.answer.add(tokens.off, tokens.ids, tokens.deltas, tokens.of)
