"""The life of one request on this worker, from the accepted offer to the settled delivery.

```
           lease stored           the log fits
leasing ────────────────▶ reading ────────────▶ running ────────▶ finishing ────────▶ settled
   ▲ └─ a first lease: nothing to read ───────────▲ │   END, failed or handoff
   └──────── fenced, but ours is the newer delivery ┘   is being stored
```

At most one publish is in flight. What the engine makes meanwhile waits in `Tokens`, and `_advance` decides what is
stored next. How the attempt will end is noted once, in `_closing`: the ctl record that is stored last. A publish that
is refused with 10071 is parked while the last ctl record is read, and that record alone decides what follows.
"""

from __future__ import annotations

from math import inf
from typing import Literal

from schemas.dispatch import WorkItem
from schemas.log import Entry, Fold, fold
from schemas.output import Cause, CtlRecord, End, Failed, Handoff, Lease, Timings, Tok, encode
from workers import records
from workers.engines.base import EngineFailed, EngineFinished, EngineOutput, EngineRequest, Prefix
from workers.events import (
    Ack,
    Action,
    AttemptEvent,
    CancelHinted,
    CtlRead,
    LogRead,
    Nak,
    Outcome,
    Progress,
    ReadFailed,
    Refused,
    Settled,
    StartEngine,
    StopEngine,
    Stored,
)
from workers.holding import Holding
from workers.limits import Worker
from workers.outbox import Outbox
from workers.tokens import Tokens

FAILED_NAK_S = 0.2
"""A request whose engine raised comes back this late: the engine gets a moment to recover, a client hardly waits."""

State = Literal["leasing", "reading", "running", "finishing", "settled"]


class Attempt:
    """One request. The core feeds it events, and a `tick` when `due` is reached."""

    def __init__(self, item: WorkItem, worker: Worker, now: float) -> None:
        limits = worker.limits
        self.item = item
        self.key = f"{item.tenant}.{item.rid}"
        self.state: State = "leasing"
        self.occupies = False
        """Whether it takes one of the slots."""
        self._worker = worker
        self._outbox = Outbox(item, worker, self.key)
        self._holding = Holding(limits.ack_wait_s, now)
        self._tokens = Tokens(Fold())
        self._closing: End | Failed | Handoff | None = None
        self._nonce = ""
        self._lease_seq = 0
        self._run = 0
        self._run_at = self._accepted_at = now
        self._first_token_at: float | None = None
        self._append_at = now if item.meta.stream else now + limits.append_interval_s
        self._flush_at = inf
        timeout_s = min(item.meta.request_timeout_s or limits.request_timeout_s, limits.request_timeout_max_s)
        self._deadline = now + timeout_s - item.age_s
        # Past its deadline only END is left to store. If that takes longer than a redelivery, others will do it.
        self._give_up_at = max(self._deadline, now) + limits.ack_wait_s

    @property
    def due(self) -> float:
        """When `tick` wants to be called."""
        return min(
            self._outbox.retry_at, self._holding.sign_at, self._flush_at, self._deadline, self._give_up_at
        )

    @property
    def on_engine_since(self) -> float | None:
        """Since when the engine owes this request tokens; None: it does not."""
        return self._run_at if self._run else None

    def accept(self, now: float) -> list[Action]:
        """Begins. The lease leaves before the engine starts; a request that is over already gets its END at once."""
        item = self.item
        verdict = records.end_at_accept(item, self._worker.limits, is_late=now >= self._deadline)
        if verdict is not None:
            self._deadline = inf
            self._closing = verdict
            self.state = "finishing"
            return self._outbox.send("end", item.ctl_seq, encode(verdict), now)
        self.occupies = True
        lease = self._lease(item.ctl_seq, item.cause, now)
        return [*lease, *self._start_engine(now)] if item.ctl_seq == 0 else lease

    def offer_again(self, item: WorkItem, now: float) -> None:
        """The request came again while it runs here: from now on it is held by the newer delivery."""
        # Whatever its number: a broker killed and started again has been seen counting deliveries from one.
        self.item = item
        self._holding.renew(now)

    def handle(self, event: AttemptEvent, now: float) -> list[Action]:
        """Anything that happens to this request. What answers an older run, publish or read is ignored."""
        match event:
            case EngineOutput() if event.run == self._run:
                assert event.ids, "text without a token could not be told from its repeat"
                if self._first_token_at is None:
                    self._first_token_at = now
                self._tokens.push(event.ids, event.deltas)
                return self._advance(now)
            case Stored() if self._publish_op == event.op:
                return self._on_stored(event.seq, now)
            case Refused() if self._publish_op == event.op:
                return self._outbox.refused(event, now)
            case EngineFinished() if event.run == self._run:
                return self._on_finished(event, now)
            case EngineFailed() if event.run == self._run:
                return self._on_engine_failed(event, now)
            case CtlRead() if self._outbox.is_reading(event.op):
                return self._on_ctl(event.seq, event.record, now)
            case LogRead() if self._outbox.is_reading(event.op):
                return self._on_log(event.entries, now)
            case ReadFailed() if self._outbox.is_reading(event.op):
                return self._on_read_failed(event, now)
            case CancelHinted() if self._outbox.reading is None:
                return self._outbox.read_ctl()
        return []

    def tick(self, now: float) -> list[Action]:
        """Whatever the time asks for."""
        if now >= self._give_up_at:
            return self._settle("gave_up")
        actions: list[Action] = []
        if now >= self._deadline:
            self._deadline = inf
            actions += self._close(records.request_timeout(self.item), now)
        if now >= self._holding.sign_at:
            actions += self._show_progress(now)
        if now >= self._outbox.retry_at:
            actions += self._retry(now)
        if now >= self._flush_at:
            actions += self._advance(now)
        return actions

    def connection_changed(self, now: float) -> list[Action]:
        """Nothing is assumed after a reconnect: what was not answered is sent again, and the fence decides."""
        self._holding.connection_changed(self._worker.connected, now)
        self._outbox.connection_changed(now)
        return self.tick(now)

    def hand_off(self, now: float) -> list[Action]:
        """Gives the request back to be continued elsewhere, once what it made is in the log."""
        return self._close(Handoff(nonce="", n=0), now)

    def check(self) -> None:
        """Asserts the invariants."""
        self._tokens.check()
        self._outbox.check()
        kind = None if self._outbox.publish is None else self._outbox.publish.kind
        expected = {
            "leasing": ("lease",),
            "reading": (None,),
            "running": (None, "append"),
            "finishing": ("end", "failed", "handoff"),
            "settled": (None,),
        }
        assert kind in expected[self.state], f"{kind} is published while {self.state}"
        assert self.state != "running" or self._lease_seq > 0, "no append without a lease"
        assert self._run == 0 or self.occupies, "what runs on the engine takes a slot"
        assert self.state != "settled" or not self.occupies

    @property
    def _publish_op(self) -> int:
        return 0 if self._outbox.publish is None else self._outbox.publish.op

    # What is stored next.

    def _advance(self, now: float) -> list[Action]:
        self._flush_at = inf
        if self.state != "running" or self._outbox.publish is not None:
            return []
        tokens = self._tokens
        match self._closing:
            case None:
                if not tokens.has_waiting:
                    return []
                if now < self._append_at:
                    self._flush_at = self._append_at
                    return []
                return self._append(now)
            case End() as end:
                fits = tokens.fit(self._worker.limits.append_bytes_max)
                return self._end(end, now) if fits else self._append(now)
            case Failed() as failed:
                record: CtlRecord = Failed(nonce=self._nonce, error=failed.error)
                return self._finish("failed", record, now)
            case Handoff():
                record = Handoff(nonce=self._nonce, n=tokens.off)
                return self._append(now) if tokens.has_waiting else self._finish("handoff", record, now)

    def _append(self, now: float) -> list[Action]:
        if not self.item.meta.stream:
            self._append_at = now + self._worker.limits.append_interval_s
        off = self._tokens.off
        ids, deltas = self._tokens.take(self._worker.limits.append_bytes_max)
        return self._outbox.send(
            "append", self._lease_seq, encode(Tok(self._lease_seq, off, ids, deltas)), now
        )

    def _end(self, end: End, now: float) -> list[Action]:
        first_token_at = now if self._first_token_at is None else self._first_token_at
        timings = Timings(
            first_token_ms=round((first_token_at - self._accepted_at) * 1e3, 3),
            total_ms=round((now - self._accepted_at) * 1e3, 3),
        )
        record = records.end_of_owner(end, self.item, self._tokens, timings, self._nonce, self._lease_seq)
        return self._finish("end", record, now)

    def _finish(
        self, kind: Literal["end", "failed", "handoff"], record: CtlRecord, now: float
    ) -> list[Action]:
        """Stores the attempt's last record, by CAS on its own lease."""
        self.state = "finishing"
        return self._outbox.send(kind, self._lease_seq, encode(record), now)

    def _lease(self, expect: int, cause: Cause, now: float) -> list[Action]:
        """Asks for the lease after ctl record `expect`. What was in flight under an older lease is sorted out later,
        against the log."""
        self.state = "leasing"
        self._lease_seq = 0
        self._nonce = f"{self._worker.id}.{self._worker.number()}"
        lease = records.lease_of(self.item, self._worker, self._nonce, cause)
        return self._outbox.send("lease", expect, encode(lease), now)

    def _retry(self, now: float) -> list[Action]:
        publish = self._outbox.publish
        is_lease = publish is not None and publish.kind == "lease" and not self._outbox.is_parked
        if is_lease and not self._holding.is_held(now):
            return self._settle("fenced")
        return self._outbox.retry(now)

    def _close(self, closing: End | Failed | Handoff, now: float) -> list[Action]:
        """Notes how the attempt ends, if that is not decided yet. The engine is not needed for it."""
        if self._closing is not None:
            return []
        self._closing = closing
        self.occupies = False
        return [*self._stop_engine(), *self._advance(now)]

    # What the broker and the log say.

    def _on_stored(self, seq: int, now: float) -> list[Action]:
        publish = self._outbox.stored()
        match publish.kind:
            case "append":
                self._tokens.stored()
                return self._advance(now)
            case "lease":
                self._lease_seq = seq
                if publish.expect == 0:
                    return self._continue([], now)
                self.state = "reading"
                return self._outbox.read_log(seq)
            case "end":
                return self._settle("ended", Ack(self.item.ack))
            case "failed":
                return self._give_back("failed", FAILED_NAK_S, now)
            case "handoff":
                return self._give_back("handed_off", 0.0, now)

    def _on_ctl(self, seq: int, record: CtlRecord | None, now: float) -> list[Action]:
        """The table of the design: what follows from the last ctl record after a refusal. A hint's read only looks for
        END."""
        if isinstance(record, End):
            return self._settle("ended", Ack(self.item.ack))
        if not self._outbox.read_done(seq, now) or not self._outbox.is_parked:
            return []
        publish = self._outbox.publish
        assert publish is not None
        if record is not None and record.nonce == self._nonce:
            if _kind_of(record) == publish.kind:
                return self._on_stored(seq, now)
            # Our lease is the last record, so whatever the publish met has passed.
            self._outbox.resend_soon(now)
            return []
        is_unleased = self._closing is not None and self._lease_seq == 0 and publish.kind == "end"
        is_newer = isinstance(record, Lease) and record.attempt >= self.item.attempt
        if is_unleased or is_newer or not self._holding.is_held(now):
            return self._settle("fenced")
        return self._lease(seq, records.cause_after(record), now)

    def _on_log(self, entries: list[Entry], now: float) -> list[Action]:
        if not entries or entries[-1].seq != self._lease_seq:
            # A replica that lags; the total order makes only the prefix up to the own lease exact.
            self._outbox.read_failed(now)
            return []
        self._outbox.read_done(self._lease_seq, now)
        return self._continue(entries, now)

    def _on_read_failed(self, event: ReadFailed, now: float) -> list[Action]:
        if not event.is_unreadable:
            self._outbox.read_failed(now)
            return []
        if self.state != "reading":
            # Nobody can say whose turn it is; the next delivery begins with a fresh look.
            return self._settle("fenced")
        self._outbox.read_done(self._lease_seq, now)
        return self._refuse(records.end_unreadable(self.item), Fold(hole=True), now)

    def _continue(self, entries: list[Entry], now: float) -> list[Action]:
        """The lease is ours and `entries` is the log up to it: go on from there, with our own tokens as far as they
        extend what it says."""
        worker, log = self._worker, fold(entries)
        self.state = "running"
        verdict = records.end_after_read(self.item, worker.capabilities, worker.limits, entries, log)
        if verdict is not None:
            return self._refuse(verdict, log, now)
        is_kept = self._tokens.rebase(log)
        if is_kept and (self._run or self._closing is not None):
            return self._advance(now)
        if self._closing is not None and not (
            isinstance(self._closing, End) and self._closing.status == "ok"
        ):
            self._tokens = Tokens(log)
            return self._advance(now)
        self._closing = None
        self._tokens = Tokens(log)
        return [*self._stop_engine(), *self._start_engine(now)]

    def _refuse(self, verdict: End, log: Fold, now: float) -> list[Action]:
        """The log itself forbids to go on, whatever was to come."""
        self.state = "running"
        self._tokens = Tokens(log)
        self._closing = None
        return self._close(verdict, now)

    # Engine and delivery.

    def _start_engine(self, now: float) -> list[Action]:
        self.occupies = True
        self._run = self._worker.number()
        self._run_at = now
        logged = self._tokens.logged
        prefix = Prefix(list(logged.ids), logged.texts) if logged.ids else None
        return [StartEngine(EngineRequest(self.key, self._run, self.item.body, self.item.meta, prefix))]

    def _stop_engine(self) -> list[Action]:
        if not self._run:
            return []
        self._run = 0
        return [StopEngine(self.key)]

    def _on_finished(self, event: EngineFinished, now: float) -> list[Action]:
        if event.ids or event.deltas:
            if self._first_token_at is None:
                self._first_token_at = now
            self._tokens.push(event.ids, event.deltas)
        self._run = 0
        return self._close(records.end_finished(self.item, event), now)

    def _on_engine_failed(self, event: EngineFailed, now: float) -> list[Action]:
        if event.reason == "engine_error":
            return self._close(Failed(nonce="", error=event.error), now)
        return self._close(records.end_invalid(self.item, event), now)

    def _show_progress(self, now: float) -> list[Action]:
        """A hung engine must lose its work, a slow one must not: no sign without a step."""
        last_step_at = max(self._worker.last_step_at, self._run_at)
        if self._run and now - last_step_at >= self._worker.limits.step_s_max:
            self._holding.skip(now)
            return []
        self._holding.sign(now)
        return [Progress(self.item.ack)]

    def _give_back(self, outcome: Outcome, delay_s: float, now: float) -> list[Action]:
        if self._holding.is_held(now):
            return self._settle(outcome, Nak(self.item.ack, delay_s))
        return self._settle(outcome)

    def _settle(self, outcome: Outcome, *settling: Action) -> list[Action]:
        self.state = "settled"
        self.occupies = False
        settled = Settled(self.key, outcome, self._tokens.made)
        return [*self._outbox.drop(), *self._stop_engine(), *settling, settled]


def _kind_of(record: CtlRecord) -> str:
    return type(record).__name__.lower()
