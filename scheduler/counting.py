"""Counts what happens in a scheduler: events as the core gets them, actions as it wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from infra import clock
from infra.metrics.tables import MODELS, UNKNOWN_MODEL
from scheduler import events, metrics, quota_events
from scheduler.core import Core
from schemas.dispatch import Answer, Leader, WorkItem
from schemas.requests import CLASSES

CountAnswers = Callable[[Sequence[Answer]], None]

TAKEN: tuple[Answer, ...] = ("accepted", "mine")


class Counting:
    """Of one scheduler. What is known, and not counted, is set when somebody looks."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._leader: Leader | None = None

    def came(self, event: events.Event) -> None:
        """Of what happens to the core."""
        match event:
            case events.BecameLeader():
                metrics.LEADER_CHANGES.inc()
            case events.LostLeadership():
                self._leader = None

    def wanted(self, action: events.Action) -> None:
        """Of what the core asks for."""
        match action:
            case events.Announce(leader):
                self._leader = leader
            case events.WorkerGone(reason=reason):
                metrics.WORKERS_LOST.labels(reason).inc()
            case events.Cancel():
                metrics.LEADER_CANCELS.inc()
            case events.Close(end=end) if end.status == "expired":
                metrics.EXPIRED.inc()
            case events.Close(end=end) | quota_events.RefuseQueued(end=end):
                metrics.REFUSED.labels(end.reason).inc()

    def offer(self, offer: events.Offer) -> CountAnswers:
        """A batch is offered. Returns what is to be told of the answers."""
        model = MODELS.of(self._core.model_of(offer.worker) or UNKNOWN_MODEL)
        items, at = offer.work.items, clock.now()
        metrics.BATCH_SIZE.labels(model).observe(len(items))

        def answered(answers: Sequence[Answer]) -> None:
            for item, answer in zip(items, answers, strict=False):  # a worker may answer anything
                if answer in TAKEN:
                    _count_taken(model, item, clock.now() - at)

        return answered

    def refresh(self) -> None:
        """Sets what is known."""
        leader = self._leader if self._core.leading else None
        metrics.LEADER.set(leader is not None)
        metrics.OUTPUT_USED.set(0.0 if leader is None else leader.output_used)
        gauges = (metrics.QUEUED_REQUESTS, metrics.HELD_REQUESTS, metrics.WORKERS)
        for gauge in (*gauges, metrics.SLOTS, metrics.FREE_SLOTS, metrics.SATURATION):
            gauge.clear()
        for state in () if leader is None else leader.models:
            label = MODELS.of(state.card.name)
            metrics.HELD_REQUESTS.labels(label).inc(self._core.held_of(state.card.key))
            metrics.WORKERS.labels(label).inc(state.workers)
            metrics.SLOTS.labels(label).inc(state.slots)
            metrics.FREE_SLOTS.labels(label).inc(state.free)
            metrics.SATURATION.labels(label).set(1 - state.free / state.slots if state.slots else 1)
            for klass in CLASSES:
                metrics.QUEUED_REQUESTS.labels(label, klass).inc(state.waiting.get(klass, 0))


def _count_taken(model: str, item: WorkItem, since_offer_s: float) -> None:
    if item.cause == "first":
        metrics.QUEUE_TIME.labels(model, item.klass).observe(item.age_s + since_offer_s)
    else:
        metrics.REDELIVERIES.labels(item.cause).inc()
