"""Requests with a strike: each runs alone until its first new token, so that nobody else pays for what it may do.

The first in line of a model gets a worker that runs nothing else. If there is none, the least busy one gets nothing
more until it is empty. After `alone_wait_s` it goes to any worker with room. Two suspects never share a worker before
their first new tokens: a healthy one must not collect the strikes of another.
"""

from __future__ import annotations

from collections import deque
from math import inf

from scheduler.fleet import Fleet
from scheduler.holding import Held
from schemas.ids import ModelKey, WorkerId


class Suspects:
    """Waiting suspects by model, in the order they came."""

    def __init__(self, fleet: Fleet, *, alone_wait_s: float) -> None:
        self._fleet = fleet
        self._alone_wait_s = alone_wait_s
        self._waiting: dict[ModelKey, deque[Held]] = {}
        self._reserved: dict[ModelKey, WorkerId] = {}

    def add(self, held: Held, now: float) -> None:
        """Queues a suspect; one that comes back after an offer keeps its patience, not its place."""
        if held.alone_until == inf:
            held.alone_until = now + self._alone_wait_s
        self._waiting.setdefault(held.model, deque()).append(held)

    def remove(self, held: Held) -> None:
        """Takes out one that waits."""
        line = self._waiting[held.model]
        line.remove(held)
        if not line:
            del self._waiting[held.model]
            self._give_free(held.model)

    def take(self, model: ModelKey, now: float) -> tuple[WorkerId, Held] | None:
        """The next suspect of `model` that may go, and the worker it goes to; that worker is kept for it."""
        line = self._waiting.get(model)
        if line is None:
            return None
        held = line[0]
        any_will_do = held.alone_until <= now
        kept = sum(worker.suspect is not None and worker.is_kept for worker in self._fleet.of(model).values())
        # Half of the workers at most are kept for suspects: the others have requests, too.
        if not any_will_do and kept >= max(1, len(self._fleet.of(model)) // 2):
            return None
        for worker_id in self._fleet.by_room(model):
            worker = self._fleet.of(model)[worker_id]
            if held.excluded.get(worker_id, -inf) <= now and (any_will_do or worker.is_empty):
                self.remove(held)
                self._give_free(model)
                if worker.is_empty:
                    self._fleet.keep(worker_id, now + self._alone_wait_s)
                self._fleet.expect_suspect(worker_id, held.name)
                return worker_id, held
        if not any_will_do:
            self._reserve(model, held.alone_until)
        return None

    def check(self) -> list[Held]:
        """Asserts its invariants; returns everything that waits."""
        assert self._reserved.keys() <= self._waiting.keys(), "nothing is reserved for nobody"
        for model, line in self._waiting.items():
            assert line, "an empty line is dropped"
            assert all(held.model == model and held.strikes for held in line)
        return [held for line in self._waiting.values() for held in line]

    def _reserve(self, model: ModelKey, until: float) -> None:
        workers = self._fleet.of(model)
        worker = workers.get(self._reserved[model]) if model in self._reserved else None
        if worker is not None and worker.is_kept and not worker.pull.leaving:
            return
        self._reserved.pop(model, None)
        candidates = [
            (worker.pull.slots - worker.room, worker_id)
            for worker_id, worker in workers.items()
            if worker.suspect is None and not worker.pull.leaving
        ]
        if candidates:
            self._reserved[model] = min(candidates)[1]
            self._fleet.keep(self._reserved[model], until)

    def _give_free(self, model: ModelKey) -> None:
        worker = self._reserved.pop(model, None)
        if worker is not None:
            self._fleet.give_free(worker)
