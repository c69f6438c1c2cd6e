"""From a waiting request to a worker: who is offered what, and what the workers say to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from scheduler import events
from scheduler.backlog import Backlog
from scheduler.fleet import Fleet
from scheduler.holding import Held, Holding
from scheduler.limits import Limits
from scheduler.models import Models
from scheduler.suspects import Suspects
from scheduler.turn import Turn
from schemas.dispatch import Answer, Work, WorkItem
from schemas.ids import ModelKey, WorkerId
from schemas.output import Cause

EXCLUDED_S = 1.0
"""A worker that did not answer an offer of a request gets no other one of it for this long."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A batch that a worker has been asked to take. `returning`: it is said to run there already."""

    batch: list[Held]
    deadline: float
    returning: bool


class Dispatcher:
    """Waiting and offered requests. What leaves neither way is the business of `Requests`."""

    def __init__(self, limits: Limits, fleet: Fleet, models: Models, holding: Holding, turn: Turn) -> None:
        self._limits = limits
        self._fleet = fleet
        self._models = models
        self._holding = holding
        self._turn = turn
        self._backlog = Backlog(
            batch_window_s=limits.batch_window_s,
            batch_size_max=limits.batch_size_max,
            batch_bytes_max=limits.batch_bytes_max,
        )
        self._suspects = Suspects(fleet, alone_wait_s=limits.alone_wait_s)
        self.holds_new = False
        """Requests without a ctl record wait, because OUTPUT is nearly full; what has been begun goes on."""
        self._offers: dict[tuple[WorkerId, int], _Offer] = {}

    def wait(self, held: Held) -> None:
        """A request waits for its turn; one with a strike for a worker of its own."""
        held.place = "waiting"
        line = self._suspects if held.strikes else self._backlog
        line.add(held, self._turn.now)
        self._turn.stir(held.model)

    def withdraw(self, held: Held) -> None:
        """Takes out a request that waits."""
        line = self._suspects if held.strikes else self._backlog
        line.remove(held)

    def return_to_runner(self, held: Held) -> bool:
        """Offers a request to the worker that says it runs it already. False: there is none."""
        runner = self._fleet.runner_of(held.model, held.name)
        if runner is None or held.excluded.get(runner, -inf) > self._turn.now:
            return False
        self._offer(runner, [held], returning=True)
        return True

    def dispatch(self, model: ModelKey) -> None:
        """Offers what waits to whoever has room, the least loaded worker first."""
        while suspect := self._suspects.take(model, self._turn.now):
            self._offer(suspect[0], [suspect[1]], returning=False)
        while not self._backlog.is_empty(model):
            for worker_id in self._fleet.by_credit(model):
                slots = self._fleet.credit(worker_id)
                batch = self._backlog.take(model, worker_id, slots, self._turn.now, holds_new=self.holds_new)
                if batch:
                    self._offer(worker_id, batch, returning=False)
                    break
            else:
                return

    def answered(self, event: events.Answered) -> list[tuple[Held, Answer]]:
        """A worker answered an offer, one answer per item, or it counts as none. Returns what became of each request
        that is still held; one that was refused is "full"."""
        offer = self._offers.get((event.worker, event.seq))
        if offer is None:
            return []
        if len(event.answers) != len(offer.batch):
            return [(held, "full") for held in self.failed(event.worker, event.seq)]
        del self._offers[event.worker, event.seq]
        answers: list[tuple[Held, Answer]] = []
        for held, answer in zip(offer.batch, event.answers, strict=True):
            if not self._holding.has(held):
                continue
            if answer in ("accepted", "mine"):
                self._fleet.accepted(event.worker, event.seq, held.name, held.ack)
            elif answer != "done":
                self._fleet.full(event.worker, event.seq)
                if offer.returning:
                    held.excluded[event.worker] = self._turn.now + EXCLUDED_S
                self._back(held)
            answers.append((held, answer))
        return answers

    def failed(self, worker: WorkerId, seq: int) -> list[Held]:
        """No answer to an offer, or none that can be used. Returns its requests: they go elsewhere, and fencing covers
        a late answer."""
        offer = self._offers.pop((worker, seq), None)
        if offer is None:
            return []
        self._fleet.failed(worker, seq)
        found = [held for held in offer.batch if self._holding.has(held)]
        for held in found:
            held.excluded[worker] = self._turn.now + EXCLUDED_S
            self._back(held)
        return found

    def lost(self, worker: WorkerId) -> list[Held]:
        """A worker is dead. Returns what it was offered."""
        return [held for key in list(self._offers) if key[0] == worker for held in self._give_up(*key)]

    def timed_out(self) -> list[Held]:
        """Returns what was offered to workers that did not answer in time."""
        found: list[Held] = []
        while self._offers:
            key, offer = next(iter(self._offers.items()))
            if offer.deadline > self._turn.now:
                break
            found += self._give_up(*key)
        return found

    def next_deadline(self) -> float:
        """When `timed_out` has something to say."""
        return next(iter(self._offers.values())).deadline if self._offers else inf

    def batch_at(self, model: ModelKey) -> float:
        """When a group of `model` that waits to fill has waited long enough."""
        return self._backlog.ready_at(model, self._turn.now)

    def check(self) -> None:
        """Asserts its invariants."""
        offered = [held for offer in self._offers.values() for held in offer.batch if self._holding.has(held)]
        waiting = self._backlog.check() + self._suspects.check()
        for place, found in (("waiting", waiting), ("offered", offered)):
            expected = [held for held in self._holding if held.place == place]
            assert sorted(held.order for held in found) == sorted(held.order for held in expected), place
        deadlines = [offer.deadline for offer in self._offers.values()]
        assert deadlines == sorted(deadlines)

    def _offer(self, worker: WorkerId, batch: list[Held], *, returning: bool) -> None:
        now = self._turn.now
        seq = self._fleet.offer(worker, 0 if returning else len(batch))
        items = []
        for held in batch:
            held.place = "offered"
            self._models.window_of(held.model).offer(held.klass)
            items.append(
                WorkItem(
                    rid=held.name[1],
                    tenant=held.name[0],
                    ack=held.ack,
                    attempt=held.attempt,
                    ctl_seq=held.ctl_seq,
                    cause=self._cause(held),
                    age_s=now - held.arrived,
                    meta=held.meta,
                    body=held.body,
                    klass=held.klass,
                )
            )
        self._offers[worker, seq] = _Offer(batch, now + self._limits.offer_timeout_s, returning)
        self._turn.out.append(events.Offer(worker, Work(seq, items)))

    def _cause(self, held: Held) -> Cause:
        """Why it is offered, by what is known now: it may have come back sooner than its worker was found dead."""
        has_died = held.leased_by is not None and self._fleet.is_dead(held.leased_by, self._turn.now)
        return "worker_dead" if has_died else held.cause

    def _give_up(self, worker: WorkerId, seq: int) -> list[Held]:
        self._turn.out.append(events.ForgetOffer(worker, seq))
        return self.failed(worker, seq)

    def _back(self, held: Held) -> None:
        """An offered request is ours again; the caller says what becomes of it."""
        held.place = "reading"
        self._models.window_of(held.model).wait(held.klass)
