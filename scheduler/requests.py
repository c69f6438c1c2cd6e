"""What becomes of each delivered request, until a worker has it or an END settles it."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from scheduler import events
from scheduler.cancels import Cancels
from scheduler.dispatcher import Dispatcher
from scheduler.events import Action
from scheduler.fleet import Fleet, Lost
from scheduler.holding import Held, Holding, Name
from scheduler.limits import Limits
from scheduler.models import Model, Models
from scheduler.turn import Turn
from schemas.ids import WorkerId
from schemas.log import Entry, strikes
from schemas.output import Cause, End, Failed, Handoff, Lease, Status
from schemas.requests import InvalidMeta, RequestMeta

RETRY_S = 1.0
"""Delay of a NAK for what cannot be dealt with now: the broker did not answer, or the window is full."""

FULL_RETRY_S_MAX = 30.0
"""While OUTPUT takes no END the delay doubles with every delivery of a request, up to this."""

HOLD_TURN_S = 2.0
"""While OUTPUT is nearly full new requests take turns in the window, so that what has been begun is not kept out."""

_GIVEN_UP: tuple[Cause, ...] = ("handoff", "engine_error")
"""After these the worker that had the request runs it no longer, whatever its last pull said."""


class Requests:
    """The held requests."""

    def __init__(self, limits: Limits, fleet: Fleet, models: Models, turn: Turn) -> None:
        self._limits = limits
        self._fleet = fleet
        self._models = models
        self._turn = turn
        self._holding = Holding(ack_wait_s=limits.ack_wait_s)
        self.dispatcher = Dispatcher(limits, fleet, models, self._holding, turn)
        self._cancels = Cancels()
        self._refused = 0
        self._order = 0

    def __iter__(self) -> Iterator[Held]:
        return iter(self._holding)

    def __len__(self) -> int:
        return len(self._holding)

    def delivered(self, event: events.Delivered, model: Model) -> None:
        """A message came while leading."""
        model.window.use(event.klass, 1)
        self._turn.stir(event.model)
        if event.subject is None:
            # It names no log that an END could close, and nobody can ask for it.
            self._out(events.Ack(event.ack))
            return
        old = self._holding.get((event.subject.tenant, event.subject.rid))
        if old is None:
            self._take_in(event, model, (event.subject.tenant, event.subject.rid))
        elif old.stream_seq != event.stream_seq:
            # Queued twice, in two classes or models: one at a time, and the second finds the END of the first.
            self._out(events.Nak(event.ack, self._limits.ack_wait_s))
        elif old.place in ("offered", "closing"):
            old.ack = event.ack
            old.attempt = event.attempt
            self._holding.touch(old, self._turn.now)
        else:
            self._leave(old)
            self._take_in(event, model, old.name)

    def ctl_read(self, name: Name, entry: Entry | None) -> None:
        """The newest ctl record of a request is known."""
        held = self._holding.get(name)
        if held is None:
            return
        held.reads = max(0, held.reads - 1)
        if entry is not None and isinstance(entry.record, End):
            self._settle(held)
        elif held.place == "reading" and not held.reads:
            self._note_ctl(held, entry)
            if entry is not None and _may_strike(entry):
                held.reads += 1
                self._out(events.ReadHistory(*name))
            else:
                self._queue(held)

    def history_read(self, event: events.HistoryRead) -> None:
        """All that a request's log tells of its attempts is known."""
        held = self._holding.get((event.tenant, event.rid))
        if held is None:
            return
        held.reads = max(0, held.reads - 1)
        if any(isinstance(entry.record, End) for entry in event.entries):
            self._settle(held)
        elif held.place == "reading" and not held.reads:
            # A replica may have answered: what the stream leader said before counts where it knows less.
            if event.entries and event.entries[-1].seq > held.ctl_seq:
                self._note_ctl(held, event.entries[-1])
            held.strikes = strikes(entry for entry in event.entries if entry.seq > event.tok_seq)
            self._queue(held)

    def end_written(self, name: Name) -> None:
        """The request's log holds an END: its message may go."""
        if self._refused:
            self._out(events.OutputFull(False, self._refused))
            self._refused = 0
        held = self._holding.get(name)
        if held is not None:
            self._settle(held)

    def close_refused(self, name: Name) -> None:
        """There is no room for an END. Space comes back by itself, with the oldest logs; asking often brings none."""
        self._refused += 1
        if self._refused == 1:
            self._out(events.OutputFull(True, 1))
        held = self._holding.get(name)
        if held is not None and held.place == "closing":
            doublings = min(held.attempt - 1, 5)
            self._give_back(held, min(RETRY_S * 2**doublings, FULL_RETRY_S_MAX))

    def call_failed(self, name: Name) -> None:
        """Nobody knows what became of a read or a close: the next delivery finds out."""
        held = self._holding.get(name)
        if held is not None and held.place in ("reading", "closing"):
            self._give_back(held, RETRY_S)

    def cancel_hinted(self, name: Name) -> None:
        """An END is said to be stored. The worker that runs or is offered the request finds it itself."""
        held = self._holding.get(name)
        if held is None:
            if self._turn.leading and self._turn.connected and not self._fleet.runs_anywhere(name):
                self._cancels.add(events.DeleteQueued(*name))
        elif held.place in ("waiting", "reading"):
            self._read(held)
        elif held.place == "offered":
            held.is_doubtful = True

    def cancel(self, name: Name, message: str, *, reply_to: str = "") -> None:
        """Ends a request wherever it is. What has an END already keeps it."""
        held = self._holding.get(name)
        fingerprint = "" if held is None else held.meta.fingerprint
        end = End(status="cancelled", reason="cancelled", message=message, fingerprint=fingerprint)
        is_known = held is not None or self._fleet.runs_anywhere(name)
        if not self._cancels.add(events.Cancel(*name, end, is_known, reply_to)) or held is None:
            return
        if held.place in ("waiting", "reading"):
            self._to_closing(held)
        elif held.place == "offered":
            held.is_doubtful = True

    def cancel_over(self, name: Name) -> None:
        """A call for a cancel has come to its end."""
        self._cancels.over(name, self._turn.now)

    def start_cancels(self) -> None:
        """Begins as many of the cancels that wait as may be under way."""
        self._out(*self._cancels.start())

    def answered(self, event: events.Answered) -> None:
        """A worker answered an offer."""
        for held, answer in self.dispatcher.answered(event):
            if held.place == "offered":
                if answer == "accepted":
                    self._models.demand_of(held.model, held.klass).taken += 1
                self._leave(held)
            else:
                assert answer in ("full", "draining")
                self._return(held)

    def offer_failed(self, worker: WorkerId, seq: int) -> None:
        """No answer to an offer."""
        for held in self.dispatcher.failed(worker, seq):
            self._return(held)

    def worker_lost(self, lost: Lost) -> None:
        """A worker is dead: what it was offered waits again, what it ran comes back as a new delivery."""
        for held in self.dispatcher.lost(lost.id):
            self._return(held)
        if self._turn.leading:
            acks = lost.worker.acks() if self._turn.connected else {}
            self._out(events.WorkerGone(lost.id, lost.reason, len(acks)))
            self._out(*(events.Nak(ack, 0.0) for name, ack in acks.items() if not self._is_back(name)))

    def rotate(self) -> None:
        """New requests that have been held up for long enough make room for others."""
        for held in list(self._holding):
            if (
                held.place == "waiting"
                and not held.ctl_seq
                and self._turn.now - held.queued_at >= HOLD_TURN_S
            ):
                self._give_back(held, RETRY_S)

    def yield_all(self) -> None:
        """Leadership is lost: another scheduler gets what waits. What is under way is finished here."""
        for held in list(self._holding):
            if held.place in ("waiting", "reading"):
                self._give_back(held, 0.0)

    def advance(self) -> None:
        """What the clock brings up to `now`."""
        for held in self._holding.let_go(self._turn.now):
            self._leave(held)
        if self._turn.connected:
            for held in self._holding.to_extend(self._turn.now):
                self._out(events.Progress(held.ack))
                self._holding.touch(held, self._turn.now)
        for held in self._holding.expired(self._turn.now):
            if held.place == "waiting":
                self._close_expired(held)
        for held in self.dispatcher.timed_out():
            self._return(held)

    def next_deadline(self) -> float:
        """When `advance` has something to do."""
        holding_at = self._holding.next_deadline(connected=self._turn.connected)
        return min(self.dispatcher.next_deadline(), holding_at)

    def check(self) -> None:
        """Asserts its invariants."""
        self._holding.check()
        self._cancels.check()
        self.dispatcher.check()
        for model in self._models:
            mine = [held for held in self._holding if held.model == model.key]
            assert model.window.held == len(mine)
            assert model.window.size_bytes == sum(len(held.body) for held in mine)
            assert model.window.waiting == sum(held.place != "offered" for held in mine)
        assert all(self._models.get(held.model) is not None for held in self._holding)
        assert self._turn.leading or all(held.place in ("offered", "closing") for held in self._holding)

    def _take_in(self, event: events.Delivered, model: Model, name: Name) -> None:
        if not model.window.fits(len(event.body)):
            self._out(events.Nak(event.ack, RETRY_S))
            return
        self._order += 1
        held = Held(
            name=name,
            model=event.model,
            klass=event.klass,
            order=self._order,
            ack=event.ack,
            stream_seq=event.stream_seq,
            attempt=event.attempt,
            meta=RequestMeta() if isinstance(event.meta, InvalidMeta) else event.meta,
            body=event.body,
            arrived=self._turn.now - event.age_s,
            touched=self._turn.now,
        )
        self._holding.add(held)
        model.window.enter(held.klass, len(held.body))
        bytes_max = self._limits.request_bytes_max
        first_since = max(self._turn.connected_since, model.counts_since)
        if isinstance(event.meta, InvalidMeta):
            self._close(held, "error", "bad_request", event.meta.reason)
        elif len(held.body) > bytes_max:
            self._close(held, "error", "too_large", f"the request is larger than {bytes_max} bytes")
        elif held.attempt > 1 or held.arrived < first_since or self._cancels.has(held.name, self._turn.now):
            # A broker killed and started again has been seen counting deliveries from one, and a consumer made anew
            # does: what is older than the connection or the consumer is as good as delivered before.
            self._read(held)
        else:
            self._queue(held)

    def _read(self, held: Held) -> None:
        if held.place == "waiting":
            self.dispatcher.withdraw(held)
        held.place = "reading"
        held.is_doubtful = False
        held.reads += 1
        self._out(events.ReadCtl(*held.name))

    def _queue(self, held: Held) -> None:
        """Sends a request on its way to a worker: to the one that runs it already, else it waits for its turn."""
        # Only here: what is still being read cannot be closed yet, and a time-out that is due would ring for nothing.
        self._set_expiry(held)
        if held.expires_at <= self._turn.now:
            self._close_expired(held)
            return
        is_running = held.cause != "first" and held.cause not in _GIVEN_UP
        if not (is_running and self.dispatcher.return_to_runner(held)):
            self.dispatcher.wait(held)

    def _return(self, held: Held) -> None:
        """An offered request is ours again."""
        if not self._turn.leading:
            self._give_back(held, 0.0)
        elif held.is_doubtful:
            self._read(held)
        else:
            self._queue(held)

    def _close_expired(self, held: Held) -> None:
        what = "taken by a worker" if held.expiry == "queue_timeout" else "finished"
        after_s = held.expires_at - held.arrived
        # Only over the log as it was read: a lease since then means that somebody runs it after all.
        message = f"the request was not {what} within {after_s:g} s"
        self._close(held, "expired", held.expiry, message, expect=held.ctl_seq)

    def _close(
        self, held: Held, status: Status, reason: str, message: str, *, expect: int | None = None
    ) -> None:
        self._to_closing(held)
        end = End(status=status, reason=reason, message=message, fingerprint=held.meta.fingerprint)
        self._out(events.Close(*held.name, end, expect))

    def _to_closing(self, held: Held) -> None:
        if held.place == "waiting":
            self.dispatcher.withdraw(held)
            self._turn.stir(held.model)
        held.place = "closing"
        self._holding.expire_at(held, inf)

    def _settle(self, held: Held) -> None:
        self._out(events.Ack(held.ack))
        self._leave(held)

    def _give_back(self, held: Held, delay_s: float) -> None:
        if self._turn.connected:
            self._out(events.Nak(held.ack, delay_s))
        self._leave(held)

    def _leave(self, held: Held) -> None:
        if held.place == "waiting":
            self.dispatcher.withdraw(held)
        self._holding.remove(held)
        self._models.window_of(held.model).leave(held.klass, len(held.body), waiting=held.place != "offered")
        self._turn.stir(held.model)

    def _note_ctl(self, held: Held, entry: Entry | None) -> None:
        held.ctl_seq = 0 if entry is None else entry.seq
        held.cause = _cause(held, entry)
        record = None if entry is None else entry.record
        held.leased_by = WorkerId(record.worker) if isinstance(record, Lease) else None
        held.strikes = 0

    def _set_expiry(self, held: Held) -> None:
        """A request that once had a lease has been taken by a worker: only its whole time counts from then on."""
        limits, meta = self._limits, held.meta
        queue_s = inf if held.ctl_seq else meta.queue_timeout_s or limits.queue_timeout_s
        request_s = min(meta.request_timeout_s or limits.request_timeout_s, limits.request_timeout_max_s)
        held.expiry = "queue_timeout" if queue_s <= request_s else "request_timeout"
        self._holding.expire_at(held, held.arrived + min(queue_s, request_s))

    def _is_back(self, name: Name) -> bool:
        """Whether a newer delivery of what a dead worker ran is known: one more would only come between."""
        return self._holding.get(name) is not None or self._fleet.runs_anywhere(name)

    def _out(self, *actions: Action) -> None:
        self._turn.out.extend(actions)


def _cause(held: Held, entry: Entry | None) -> Cause:
    match entry.record if entry is not None else None:
        case Failed():
            return "engine_error"
        case Handoff():
            return "handoff"
        case None if held.attempt == 1:
            return "first"
        case _:
            return "redelivered"


def _may_strike(entry: Entry) -> bool:
    """Whether the log can hold strikes when this is its last ctl record. A first lease is none: a worker that dies once
    says nothing of its requests, and they are not kept waiting for it."""
    match entry.record:
        case Failed():
            return True
        case Lease(cause=cause):
            return cause != "first"
        case _:
            return False
