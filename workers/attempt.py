"""The life of one request on this worker, from the accepted offer to the settled delivery.

```
           lease stored           the log fits
leasing ────────────────▶ reading ────────────▶ running ────────▶ finishing ────────▶ settled
   ▲ └─ a first lease: nothing to read ───────────▲ │   END, failed or handoff
   │                         │ poison             │ │   is being stored
   │                         └──────▶ burying ────┘ │
   └──────── fenced, but ours is the newer delivery ┘
```

At most one publish is in flight. What the engine makes meanwhile waits in the draft, which also says what is stored
next and, once that is decided, how the attempt ends. A publish that is refused with 10071 is parked while the last ctl
record is read, and that record alone decides what follows. A poisoned request is copied to DEAD before its END is
stored: what is lost between the two is done again by the next attempt.
"""

from __future__ import annotations

from math import inf
from typing import Literal

from schemas import subjects
from schemas.dispatch import WorkItem
from schemas.log import Entry, Fold, fold
from schemas.output import Cause, CtlRecord, End, Handoff, encode
from workers import records
from workers.draft import Closing, Draft
from workers.engines.base import EngineFailed, EngineFinished, EngineOutput
from workers.events import (
    Ack,
    Action,
    AttemptEvent,
    CancelHinted,
    CtlRead,
    Kind,
    LetterLost,
    LogRead,
    Nak,
    Outcome,
    Progress,
    ReadFailed,
    Refused,
    Settled,
    Stored,
)
from workers.fence import after_refusal
from workers.holding import Holding
from workers.letters import letter_headers
from workers.limits import Worker
from workers.outbox import FULL, FULL_RETRY_S, TOO_LARGE, WRONG_LAST, Outbox
from workers.run import Run

FAILED_NAK_S = 0.2
"""A request whose engine raised comes back this late: the engine gets a moment to recover, a client hardly waits."""

NO_ROOM_NAK_S = 5.0
"""A request for whose records OUTPUT has no room comes back this late: room is made by ageing records, not by tries."""

LETTER_TRIES_MAX = 10
"""At `append_timeout_s` apart they outlast an election (4 to 9 s, measured); then END is more urgent than the copy."""

State = Literal["leasing", "reading", "running", "burying", "finishing", "settled"]


class Attempt:
    """One request. The core feeds it events, and a `tick` when `due` is reached."""

    def __init__(self, item: WorkItem, worker: Worker, now: float, trace: str = "") -> None:
        limits = worker.limits
        self.item = item
        self.key = f"{item.tenant}.{item.rid}"
        self.state: State = "leasing"
        self.occupies = False
        """Whether it takes one of the slots."""
        self._worker = worker
        self._trace = trace
        self._outbox = Outbox(item, worker, self.key)
        self._holding = Holding(limits.ack_wait_s, now)
        self._nonce = ""
        self._lease_seq = 0
        self.run = Run(self.key, worker, now)
        self._draft = Draft(worker, self.run, now if item.meta.stream else now + limits.append_interval_s)
        timeout_s = min(item.meta.request_timeout_s or limits.request_timeout_s, limits.request_timeout_max_s)
        self._deadline = now + timeout_s - item.age_s
        # Past its deadline only END is left to store. If that takes longer than a redelivery, others will do it.
        self._give_up_at = max(self._deadline, now) + limits.ack_wait_s

    @property
    def due(self) -> float:
        """When `tick` wants to be called."""
        return min(
            self._outbox.retry_at,
            self._holding.sign_at,
            self._draft.flush_at,
            self._deadline,
            self._give_up_at,
        )

    def accept(self, now: float) -> list[Action]:
        """Begins. The lease leaves before the engine starts; a request that is over already gets its END at once."""
        item = self.item
        verdict = records.end_at_accept(item, self._worker.limits, is_late=now >= self._deadline)
        if verdict is not None:
            self._deadline = inf
            self._draft.closing = verdict
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
            case EngineOutput() if event.run == self.run.number:
                assert event.ids, "text without a token could not be told from its repeat"
                self.run.spoke(len(event.ids), now)
                self._draft.tokens.push(event.ids, event.deltas, event.of)
                return self._advance(now)
            case Stored() if self._publish_op == event.op:
                return self._on_stored(event.seq, now)
            case Refused() if self._publish_op == event.op:
                return self._on_refused(event, now)
            case EngineFinished() if event.run == self.run.number:
                return self._on_finished(event, now)
            case EngineFailed() if event.run == self.run.number:
                return self._close(records.closing_after(event, self.item), now)
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
        if now >= self._draft.flush_at:
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

    def cut_off(self, now: float) -> list[Action]:
        """OUTPUT has no room for more tokens: the request ends with what the log has, unless it is ending already."""
        return self._close(records.end_output_full(self.item), now)

    def check(self) -> None:
        """Asserts the invariants."""
        self._draft.check()
        self._outbox.check()
        kind = None if self._outbox.publish is None else self._outbox.publish.kind
        expected = {
            "leasing": ("lease",),
            "reading": (None,),
            "running": (None, "append"),
            "burying": ("dead",),
            "finishing": ("end", "failed", "handoff"),
            "settled": (None,),
        }
        assert kind in expected[self.state], f"{kind} is published while {self.state}"
        assert self.state != "running" or self._lease_seq > 0, "no append without a lease"
        assert self.run.number == 0 or self.occupies, "what runs on the engine takes a slot"
        assert self.state != "settled" or not self.occupies

    @property
    def _publish_op(self) -> int:
        return 0 if self._outbox.publish is None else self._outbox.publish.op

    # What is stored next.

    def _advance(self, now: float) -> list[Action]:
        self._draft.flush_at = inf
        if self.state != "running" or self._outbox.publish is not None:
            return []
        following = self._draft.next(self.item, self._lease_seq, self._nonce, now)
        if following is None:
            return []
        kind, body = following
        if kind == "append":
            return self._outbox.send(kind, self._lease_seq, body, now)
        self.state = "finishing"
        return [*self._release(), *self._outbox.send(kind, self._lease_seq, body, now)]

    def _lease(self, expect: int, cause: Cause, now: float) -> list[Action]:
        """Asks for the lease after ctl record `expect`. What was in flight under an older lease is sorted out later,
        against the log."""
        self.state = "leasing"
        self._lease_seq = 0
        self._nonce = f"{self._worker.id}.{self._worker.number()}"
        lease = records.lease_of(self.item, self._worker, self._nonce, cause, self._trace)
        return self._outbox.send("lease", expect, encode(lease), now)

    def _retry(self, now: float) -> list[Action]:
        publish = self._outbox.publish
        if publish is not None and not self._outbox.is_parked:
            if publish.kind == "lease" and not self._holding.is_held(now):
                return self._settle("fenced")
            if publish.kind == "dead" and self._outbox.tries >= LETTER_TRIES_MAX:
                return self._go_on_without_letter(0, now)
        return self._outbox.retry(now)

    def _close(self, closing: Closing, now: float) -> list[Action]:
        """Notes how the attempt ends, if that is not decided yet."""
        if self._draft.closing is not None:
            return []
        self._draft.closing = closing
        return [*self._release(), *self._advance(now)]

    def _release(self) -> list[Action]:
        """The engine is not needed for what is left to do."""
        self.occupies = False
        return self.run.stop()

    # What the broker and the log say.

    def _on_stored(self, seq: int, now: float) -> list[Action]:
        publish = self._outbox.answered()
        match publish.kind:
            case "append":
                self._draft.tokens.stored()
                return self._advance(now)
            case "lease":
                self._lease_seq = seq
                if publish.expect == 0:
                    return self._continue([], now)
                self.state = "reading"
                return self._outbox.read_log(seq)
            case "dead":
                self.state = "running"
                return self._advance(now)
            case "end":
                return self._settle("ended", Ack(self.item.ack), is_whole=True)
            case "failed":
                return self._give_back("failed", FAILED_NAK_S, now)
            case "handoff":
                return self._give_back("handed_off", 0.0, now)

    def _on_refused(self, event: Refused, now: float) -> list[Action]:
        publish = self._outbox.publish
        assert publish is not None
        if publish.kind == "dead":
            return self._on_letter_refused(event.err_code, now)
        if event.err_code == FULL:
            return self._on_full(publish.kind, now)
        return self._outbox.refused(event, now)

    def _on_full(self, kind: Kind, now: float) -> list[Action]:
        """OUTPUT is full: nothing is sent again at once. An END is, later: it is what makes the request's place free,
        and records that age make room for it."""
        match kind:
            case "append":
                self._outbox.answered()
                self._draft.cut_off(self.item)
                return self._advance(now)
            case "end":
                self._outbox.retry_after(FULL_RETRY_S, now)
                return []
            case _:
                return self._give_back("no_room", NO_ROOM_NAK_S, now)

    def _on_ctl(self, seq: int, record: CtlRecord | None, now: float) -> list[Action]:
        """The last ctl record after a refusal. A hint's read only looks for END."""
        if isinstance(record, End):
            return self._settle("ended", Ack(self.item.ack))
        if not self._outbox.read_done(seq, now) or not self._outbox.is_parked:
            return []
        publish = self._outbox.publish
        assert publish is not None
        is_held, is_leased = self._holding.is_held(now), self._lease_seq > 0
        match after_refusal(
            record, publish.kind, self._nonce, self.item, is_held=is_held, is_leased=is_leased
        ):
            case "stored":
                return self._on_stored(seq, now)
            case "again":
                self._outbox.resend_soon(now)
                return []
            case "lease":
                return self._lease(seq, records.cause_after(record), now)
            case "fenced":
                return self._settle("fenced")

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
        self.state = "running"
        self._draft.refuse(records.end_unreadable(self.item), Fold(hole=True))
        return self._advance(now)

    def _continue(self, entries: list[Entry], now: float) -> list[Action]:
        """The lease is ours and `entries` is the log up to it: go on from there, with our own tokens as far as they
        extend what it says."""
        worker, log = self._worker, fold(entries)
        self.state = "running"
        verdict = records.end_after_read(self.item, worker.capabilities, worker.limits, entries, log)
        if verdict is not None:
            self._draft.refuse(verdict, log)
            is_poison = verdict.reason == "poison"
            return self._bury(verdict, entries, now) if is_poison else self._advance(now)
        if self._draft.rebase(log):
            return self._advance(now)
        return [*self.run.stop(), *self._start_engine(now)]

    # A poisoned request.

    def _bury(self, verdict: End, entries: list[Entry], now: float) -> list[Action]:
        """Copies the request to DEAD. Its END comes after that: a request that has ended is not looked at again."""
        self.state = "burying"
        item, model = self.item, self._worker.model
        subject = subjects.dead(model, item.tenant, item.rid)
        letter = letter_headers(item, model, verdict, entries, self._draft.tokens.off)
        return [*self._release(), *self._outbox.send_letter(subject, letter, item.body, now)]

    def _on_letter_refused(self, err_code: int, now: float) -> list[Action]:
        if err_code == WRONG_LAST:
            # An earlier try, or an earlier attempt that did not come to its END, has stored it.
            return self._on_stored(0, now)
        if err_code in TOO_LARGE or self._outbox.tries >= LETTER_TRIES_MAX:
            return self._go_on_without_letter(err_code, now)
        self._outbox.retry_after(self._worker.limits.append_timeout_s, now)
        return []

    def _go_on_without_letter(self, err_code: int, now: float) -> list[Action]:
        """The copy is for people; END is for the client, and frees the request's place."""
        tries, lost = self._outbox.tries, self._outbox.drop()
        self.state = "running"
        return [*lost, LetterLost(self.key, tries, err_code), *self._advance(now)]

    # Engine and delivery.

    def _start_engine(self, now: float) -> list[Action]:
        self.occupies = True
        return self.run.start(self.item, self._draft.tokens.logged, now)

    def _on_finished(self, event: EngineFinished, now: float) -> list[Action]:
        if event.ids or event.deltas:
            self.run.spoke(len(event.ids), now)
            self._draft.tokens.push(event.ids, event.deltas, event.of)
        self.run.over()
        return self._close(records.end_finished(self.item, event), now)

    def _show_progress(self, now: float) -> list[Action]:
        """A hung engine must lose its work, a slow one must not: no sign without a step."""
        if self.run.is_stuck(now):
            self._holding.skip(now)
            return []
        self._holding.sign(now)
        return [Progress(self.item.ack)]

    def _give_back(self, outcome: Outcome, delay_s: float, now: float) -> list[Action]:
        if self._holding.is_held(now):
            return self._settle(outcome, Nak(self.item.ack, delay_s))
        return self._settle(outcome)

    def _settle(self, outcome: Outcome, *settling: Action, is_whole: bool = False) -> list[Action]:
        self.state = "settled"
        self.occupies = False
        settled = Settled(self.key, outcome, *self._draft.tally(is_whole=is_whole), *self.run.spoken_at)
        return [*self._outbox.drop(), *self.run.stop(), *settling, settled]
