"""Counts what happens in a worker: a few counters for a request, next to nothing for a token."""

from __future__ import annotations

from collections.abc import Iterable

from infra import clock
from infra.jetstream import WRONG_LAST
from infra.metrics.tables import MODELS
from schemas.dispatch import Answer, Work, WorkItem
from workers import metrics
from workers.engines.base import EngineLoad, EngineRequest
from workers.events import Kind, Settled

TIMED_EVERY = 8
"""One of so many records is timed: each token may be a record, and to time all would take 1.6 µs of it, this 0.2."""


class Counting:
    """Of one worker, which serves `model` in `slots` slots. Everything here is bounded by those."""

    def __init__(self, model: str, slots: int) -> None:
        self._model = MODELS.of(model)
        self._appends = metrics.APPEND_LATENCY.of(self._model)
        self._offered: list[WorkItem] = []
        self._sent: dict[int, tuple[Kind, float]] = {}
        self._cancelled: dict[str, float] = {}
        metrics.SLOTS.labels(self._model).set(slots)

    def looked(self, load: EngineLoad) -> None:
        """How busy the engine is."""
        metrics.RUNNING_REQUESTS.labels(self._model).set(load.running)
        metrics.ENGINE_STEPS.value = load.steps

    def offered(self, work: Work) -> None:
        """A batch came; `answered` follows."""
        metrics.BATCH_SIZE.observe(len(work.items))
        self._offered = work.items

    def answered(self, answers: Iterable[Answer]) -> None:
        """What was said to the batch."""
        for item, answer in zip(self._offered, answers, strict=True):
            if answer == "accepted":
                metrics.ATTEMPTS.labels(self._model, item.cause).inc()
        self._offered = []

    def started(self, request: EngineRequest) -> None:
        """The engine was given a request."""
        if request.prefix is not None:
            metrics.TOKENS.labels(self._model, "replayed").inc(len(request.prefix.ids))

    def sent(self, op: int, kind: Kind) -> None:
        """A record is on its way, perhaps not for the first time."""
        is_timed = op % TIMED_EVERY == 0 if kind == "append" else kind == "dead"
        if is_timed and op not in self._sent:
            self._sent[op] = kind, clock.now()

    def stored(self, op: int) -> None:
        """It is stored."""
        if op not in self._sent:
            return
        kind, at = self._sent.pop(op)
        if kind == "append":
            self._appends.observe(clock.now() - at)
        else:
            metrics.POISONED.inc()
            metrics.DEAD_LETTERS.inc()

    def refused(self, op: int, err_code: int) -> None:
        """It is not; what is sent again counts anew."""
        self._sent.pop(op, None)
        if err_code == WRONG_LAST:
            metrics.LEASE_CONFLICTS.inc()

    def forgotten(self, op: int) -> None:
        """Nobody waits for an answer any more."""
        self._sent.pop(op, None)

    def letter_lost(self) -> None:
        """A poisoned request ends without a copy."""
        metrics.POISONED.inc()

    def cancelled(self, key: str) -> None:
        """A request that is here is said to be cancelled."""
        self._cancelled.setdefault(key, clock.now())

    def freed(self, key: str) -> None:
        """The engine was told to drop a request."""
        at = self._cancelled.pop(key, None)
        if at is not None:
            metrics.CANCEL_TO_FREE.observe(clock.now() - at)

    def settled(self, settled: Settled) -> None:
        """A request is over here."""
        self._cancelled.pop(settled.key, None)
        metrics.SETTLED.labels(settled.outcome).inc()
        metrics.LOGGED_TOKENS.inc(settled.tokens)
        metrics.TOKENS.labels(self._model, "generated").inc(settled.generated)
        metrics.TOKENS.labels(self._model, "wasted").inc(settled.wasted)
