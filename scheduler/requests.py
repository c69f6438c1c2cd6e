"""What becomes of each delivered request, until a worker has it or an END settles it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from scheduler import events
from scheduler.backlog import Backlog
from scheduler.events import Action
from scheduler.fleet import Fleet, Lost
from scheduler.holding import Held, Holding, Name
from scheduler.limits import Limits
from scheduler.models import Model, Models
from scheduler.window import Window
from schemas.dispatch import Work, WorkItem
from schemas.ids import ModelKey, WorkerId
from schemas.log import Entry
from schemas.output import Cause, End, Failed, Handoff, Lease, Status
from schemas.requests import InvalidMeta, RequestMeta

EXCLUDED_S = 1.0
"""A worker that did not answer an offer of a request gets no other one of it for this long."""

RETRY_S = 1.0
"""Delay of a NAK for what cannot be dealt with now: the broker did not answer, or the window is full."""

_GIVEN_UP: tuple[Cause, ...] = ("handoff", "engine_error")
"""After these the worker that had the request runs it no longer, whatever its last pull said."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A batch that a worker has been asked to take. `returning`: it is said to run there already."""

    batch: list[Held]
    deadline: float
    returning: bool


class Requests:
    """The held requests. `now`, `out`, `leading`, `connected` and `connected_since` are set by the core beforehand."""

    def __init__(self, limits: Limits, fleet: Fleet, models: Models) -> None:
        self._limits = limits
        self._fleet = fleet
        self._models = models
        self._holding = Holding(ack_wait_s=limits.ack_wait_s)
        self._backlog = Backlog(
            batch_window_s=limits.batch_window_s,
            batch_size_max=limits.batch_size_max,
            batch_bytes_max=limits.batch_bytes_max,
        )
        self._offers: dict[tuple[WorkerId, int], _Offer] = {}
        self._order = 0
        self.now = -inf
        self.out: list[Action] = []
        self.connected = False
        self.connected_since = inf
        self.leading = False
        self.stirred: dict[ModelKey, None] = {}
        """Models whose waiting requests or window changed: the core dispatches and fetches for them."""

    def __len__(self) -> int:
        return len(self._holding)

    def delivered(self, event: events.Delivered, model: Model) -> None:
        """A message came while leading."""
        model.window.use(event.klass, 1)
        self.stirred[event.model] = None
        if event.subject is None:
            # It names no log that an END could close, and nobody can ask for it.
            self.out.append(events.Ack(event.ack))
            return
        old = self._holding.get((event.subject.tenant, event.subject.rid))
        if old is None:
            self._take_in(event, model, (event.subject.tenant, event.subject.rid))
        elif old.stream_seq != event.stream_seq:
            # Queued twice, in two classes or models: one at a time, and the second finds the END of the first.
            self.out.append(events.Nak(event.ack, self._limits.ack_wait_s))
        elif old.place in ("offered", "closing"):
            old.ack = event.ack
            old.attempt = event.attempt
            self._holding.touch(old, self.now)
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
            held.ctl_seq = 0 if entry is None else entry.seq
            held.cause = self._cause(held, entry)
            self._set_expiry(held)
            self._queue(held)

    def end_written(self, name: Name) -> None:
        """The request's log holds an END: its message may go."""
        held = self._holding.get(name)
        if held is not None:
            self._settle(held)

    def call_failed(self, name: Name) -> None:
        """Nobody knows what became of a read or a close: the next delivery finds out."""
        held = self._holding.get(name)
        if held is not None and held.place in ("reading", "closing"):
            self._give_back(held, RETRY_S)

    def cancel_hinted(self, name: Name) -> None:
        """An END is said to be stored. The worker that runs or is offered the request finds it itself."""
        held = self._holding.get(name)
        if held is None:
            if self.leading and self.connected and not self._fleet.runs_anywhere(name):
                self.out.append(events.DeleteQueued(*name))
        elif held.place in ("waiting", "reading"):
            self._read(held)

    def answered(self, event: events.Answered) -> None:
        """A worker answered an offer; one answer per item, or it counts as none."""
        offer = self._offers.get((event.worker, event.seq))
        if offer is None:
            return
        if len(event.answers) != len(offer.batch):
            self.offer_failed(event.worker, event.seq)
            return
        del self._offers[event.worker, event.seq]
        for held, answer in zip(offer.batch, event.answers, strict=True):
            if not self._holding.has(held):
                continue
            if answer in ("accepted", "mine"):
                self._fleet.accepted(event.worker, event.seq, held.name, held.ack)
                self._leave(held)
            elif answer == "done":
                self._leave(held)
            else:
                self._fleet.full(event.worker, event.seq)
                if offer.returning:
                    held.excluded[event.worker] = self.now + EXCLUDED_S
                self._return(held)

    def offer_failed(self, worker: WorkerId, seq: int) -> None:
        """No answer to an offer, or none that can be used: its requests go elsewhere. Fencing covers a late one."""
        offer = self._offers.pop((worker, seq), None)
        if offer is None:
            return
        self._fleet.failed(worker, seq)
        for held in offer.batch:
            if self._holding.has(held):
                held.excluded[worker] = self.now + EXCLUDED_S
                self._return(held)

    def worker_lost(self, lost: Lost) -> None:
        """A worker is dead: what it was offered waits again, what it ran comes back as a new delivery."""
        for worker, seq in [key for key in self._offers if key[0] == lost.id]:
            self._give_up_offer(worker, seq)
        if self.leading and self.connected:
            acks = lost.worker.acks()
            self.out.append(events.WorkerGone(lost.id, lost.reason, len(acks)))
            self.out += [events.Nak(ack, 0.0) for ack in acks.values()]

    def yield_all(self) -> None:
        """Leadership is lost: another scheduler gets what waits. What is under way is finished here."""
        for held in list(self._holding):
            if held.place in ("waiting", "reading"):
                self._give_back(held, 0.0)

    def advance(self) -> None:
        """What the clock brings up to `now`."""
        for held in self._holding.let_go(self.now):
            self._leave(held)
        if self.connected:
            for held in self._holding.to_extend(self.now):
                self.out.append(events.Progress(held.ack))
                self._holding.touch(held, self.now)
        for held in self._holding.expired(self.now):
            if held.place == "waiting":
                self._close_expired(held)
        while self._offers:
            (worker, seq), offer = next(iter(self._offers.items()))
            if offer.deadline > self.now:
                break
            self._give_up_offer(worker, seq)

    def next_deadline(self) -> float:
        """When `advance` has something to do."""
        offer_at = next(iter(self._offers.values())).deadline if self._offers else inf
        return min(offer_at, self._holding.next_deadline(connected=self.connected))

    def dispatch(self, model: ModelKey) -> None:
        """Offers what waits to whoever has room, the least loaded worker first."""
        while not self._backlog.is_empty(model):
            for worker_id in self._fleet.by_credit(model):
                batch = self._backlog.take(model, worker_id, self._fleet.credit(worker_id), self.now)
                if batch:
                    self._offer(worker_id, batch, returning=False)
                    break
            else:
                return

    def batch_at(self, model: ModelKey) -> float:
        """When a group of `model` that waits to fill has waited long enough."""
        return self._backlog.ready_at(model, self.now)

    def check(self) -> None:
        """Asserts its invariants."""
        self._holding.check()
        offered = [held for offer in self._offers.values() for held in offer.batch if self._holding.has(held)]
        for place, found in (("waiting", self._backlog.check()), ("offered", offered)):
            expected = [held for held in self._holding if held.place == place]
            assert sorted(held.order for held in found) == sorted(held.order for held in expected), place
        for model in self._models:
            mine = [held for held in self._holding if held.model == model.key]
            assert model.window.held == len(mine)
            assert model.window.size_bytes == sum(len(held.body) for held in mine)
            assert model.window.waiting == sum(held.place != "offered" for held in mine)
        assert all(self._models.get(held.model) is not None for held in self._holding)
        assert self.leading or all(held.place in ("offered", "closing") for held in self._holding)
        deadlines = [offer.deadline for offer in self._offers.values()]
        assert deadlines == sorted(deadlines)

    def _take_in(self, event: events.Delivered, model: Model, name: Name) -> None:
        if not model.window.fits(len(event.body)):
            self.out.append(events.Nak(event.ack, RETRY_S))
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
            arrived=self.now - event.age_s,
            touched=self.now,
        )
        self._holding.add(held)
        model.window.enter(held.klass, len(held.body))
        bytes_max = self._limits.request_bytes_max
        if isinstance(event.meta, InvalidMeta):
            self._close(held, "error", "bad_request", event.meta.reason)
        elif len(held.body) > bytes_max:
            self._close(held, "error", "too_large", f"the request is larger than {bytes_max} bytes")
        elif held.attempt > 1 or held.arrived < self.connected_since:
            # A broker killed and started again has been seen counting deliveries from one: older than the connection
            # is as good as delivered before.
            self._read(held)
        else:
            self._set_expiry(held)
            self._queue(held)

    def _read(self, held: Held) -> None:
        if held.place == "waiting":
            self._backlog.remove(held)
        held.place = "reading"
        held.reads += 1
        self.out.append(events.ReadCtl(*held.name))

    def _queue(self, held: Held) -> None:
        """Sends a request on its way to a worker: to the one that runs it already, else it waits for its turn."""
        if held.expires_at <= self.now:
            self._close_expired(held)
            return
        if held.cause != "first" and held.cause not in _GIVEN_UP:
            runner = self._fleet.runner_of(held.model, held.name)
            if runner is not None and held.excluded.get(runner, -inf) <= self.now:
                self._offer(runner, [held], returning=True)
                return
        held.place = "waiting"
        self._backlog.add(held, self.now)
        self.stirred[held.model] = None

    def _offer(self, worker: WorkerId, batch: list[Held], *, returning: bool) -> None:
        seq = self._fleet.offer(worker, 0 if returning else len(batch))
        items = []
        for held in batch:
            held.place = "offered"
            self._window(held).offer(held.klass)
            items.append(
                WorkItem(
                    rid=held.name[1],
                    tenant=held.name[0],
                    ack=held.ack,
                    attempt=held.attempt,
                    ctl_seq=held.ctl_seq,
                    cause=held.cause,
                    age_s=self.now - held.arrived,
                    meta=held.meta,
                    body=held.body,
                    klass=held.klass,
                )
            )
        self._offers[worker, seq] = _Offer(batch, self.now + self._limits.offer_timeout_s, returning)
        self.out.append(events.Offer(worker, Work(seq, items)))

    def _give_up_offer(self, worker: WorkerId, seq: int) -> None:
        self.out.append(events.ForgetOffer(worker, seq))
        self.offer_failed(worker, seq)

    def _return(self, held: Held) -> None:
        """An offered request is ours again."""
        held.place = "reading"
        self._window(held).wait(held.klass)
        if self.leading:
            self._queue(held)
        else:
            self._give_back(held, 0.0)

    def _close_expired(self, held: Held) -> None:
        what = "taken by a worker" if held.expiry == "queue_timeout" else "finished"
        after_s = held.expires_at - held.arrived
        # Only over the log as it was read: a lease since then means that somebody runs it after all.
        message = f"the request was not {what} within {after_s:g} s"
        self._close(held, "expired", held.expiry, message, expect=held.ctl_seq)

    def _close(
        self, held: Held, status: Status, reason: str, message: str, *, expect: int | None = None
    ) -> None:
        if held.place == "waiting":
            self._backlog.remove(held)
        held.place = "closing"
        self._holding.expire_at(held, inf)
        end = End(status=status, reason=reason, message=message, fingerprint=held.meta.fingerprint)
        self.out.append(events.Close(*held.name, end, expect))

    def _settle(self, held: Held) -> None:
        self.out.append(events.Ack(held.ack))
        self._leave(held)

    def _give_back(self, held: Held, delay_s: float) -> None:
        if self.connected:
            self.out.append(events.Nak(held.ack, delay_s))
        self._leave(held)

    def _leave(self, held: Held) -> None:
        if held.place == "waiting":
            self._backlog.remove(held)
        self._holding.remove(held)
        self._window(held).leave(held.klass, len(held.body), waiting=held.place != "offered")
        self.stirred[held.model] = None

    def _window(self, held: Held) -> Window:
        model = self._models.get(held.model)
        assert model is not None, "the model of a held request is kept"
        return model.window

    def _set_expiry(self, held: Held) -> None:
        """A request that once had a lease has been taken by a worker: only its whole time counts from then on."""
        limits, meta = self._limits, held.meta
        queue_s = inf if held.ctl_seq else meta.queue_timeout_s or limits.queue_timeout_s
        request_s = min(meta.request_timeout_s or limits.request_timeout_s, limits.request_timeout_max_s)
        held.expiry = "queue_timeout" if queue_s <= request_s else "request_timeout"
        self._holding.expire_at(held, held.arrived + min(queue_s, request_s))

    def _cause(self, held: Held, entry: Entry | None) -> Cause:
        match entry.record if entry is not None else None:
            case Failed():
                return "engine_error"
            case Handoff():
                return "handoff"
            case Lease(worker=worker) if self._is_dead(WorkerId(worker)):
                return "worker_dead"
            case None if held.attempt == 1:
                return "first"
            case _:
                return "redelivered"

    def _is_dead(self, worker: WorkerId) -> bool:
        return self._fleet.get(worker) is None and self._fleet.has_evidence(self.now)
