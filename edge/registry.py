"""Which models there are, as the leader's heartbeats tell it. Pure; `now` is monotonic seconds.

Soft state: with the leader gone the last view is kept, because requests can still be queued and running ones read.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.errors import Problem
from schemas.dispatch import Leader, ModelCard
from schemas.health import Health, HealthStatus, ModelHealth, QueueStats, WorkersHealth
from schemas.ids import ModelKey, model_key
from schemas.streams import OUTPUT_REFUSE_AT

LEADER_SILENT_S = 3.0
"""Six missed heartbeats; a standby takes over within the leader's TTL of the same length."""

MODELS_MAX = 1024
"""Models remembered; past it the one that was seen longest ago is forgotten."""


class _Known(msgspec.Struct, frozen=True):
    card: ModelCard
    workers: int
    slots: int
    free: int
    idle: int
    waiting: int
    seen_at: float


class Registry:
    """`model_seen_s`: for this long after its last worker was seen, a model's requests are still queued; with
    `cold_start` "reject" they never are."""

    def __init__(self, *, model_seen_s: float, cold_start: Literal["queue", "reject"]) -> None:
        self._model_seen_s = model_seen_s
        self._cold_start = cold_start
        self._known: dict[str, _Known] = {}
        self._keys_of_adapters: dict[str, str] = {}
        self._term = 0
        self._output_used = 0.0
        self._heard_at: float | None = None

    def heard(self, leader: Leader, now: float) -> None:
        """Takes in a heartbeat, unless a newer leader has spoken meanwhile."""
        if leader.term < self._term and not self._silent(now):
            return
        self._term, self._heard_at = leader.term, now
        self._output_used = leader.output_used
        told = {
            state.card.key: _Known(
                state.card,
                state.workers,
                state.slots,
                state.free,
                state.idle,
                sum(state.waiting.values()),
                now - state.seen_age_s,
            )
            for state in leader.models
        }
        # A new leader knows only who has pulled since; what the old one knew is remembered as gone.
        for key, known in self._known.items():
            if key not in told:
                told[key] = _Known(known.card, 0, 0, 0, 0, 0, known.seen_at)
        newest = sorted(told, key=lambda key: told[key].seen_at, reverse=True)[:MODELS_MAX]
        self._known = {key: told[key] for key in newest}
        # Of two models with an adapter of one name the one that was seen last serves it.
        self._keys_of_adapters = {
            name: key for key in reversed(newest) for name in self._known[key].card.adapters
        }

    def find(self, name: str | None, now: float) -> ModelCard | Problem:
        """The model a request names, itself or by one of its adapters (None: the only one there is), if it can be
        queued for."""
        if self._heard_at is None:
            return Problem("no_workers", "no scheduler has been heard of yet", "model")
        if name is None:
            offered = self.offered(now)
            if len(offered) == 1:
                return offered[0]
            return Problem("bad_request", f"model is required: there are {len(offered)} models", "model")
        known = self._known.get(model_key(name)) or self._known.get(self._keys_of_adapters.get(name, ""))
        if known is None:
            return Problem("model_not_found", f"the model `{name}` does not exist", "model")
        if not self._queued_for(known, now):
            return Problem("no_workers", f"no worker serves the model `{name}` now", "model")
        return known.card

    def offered(self, now: float) -> list[ModelCard]:
        """The models that requests are queued for now, by name."""
        cards = [known.card for known in self._known.values() if self._queued_for(known, now)]
        return sorted(cards, key=lambda card: card.name)

    def slots(self, key: ModelKey) -> int:
        """Requests that the live workers of a model can run at the same time."""
        known = self._known.get(key)
        return 0 if known is None else known.slots

    def has_live_worker(self) -> bool:
        """Whether any model could be run at once, as far as is known."""
        return any(known.workers for known in self._known.values())

    @property
    def output_is_full(self) -> bool:
        """Whether so little room is left for output that it is kept for what runs already."""
        return self._output_used >= OUTPUT_REFUSE_AT

    def health(self, now: float, *, connected: bool) -> Health:
        """`connected`: whether this edge reaches the broker."""
        models = sorted(self.models(), key=lambda model: model.id)
        stats = self.queue_stats()
        status: HealthStatus = "ok"
        detail = ""
        if not connected:
            status, detail = "down", "broker"
        elif self._heard_at is None:
            status, detail = "starting", "no_scheduler"
        elif not self.has_live_worker():
            status, detail = "down" if self._known else "starting", "no_workers"
        elif self._silent(now):
            status, detail = "degraded", "no_scheduler"
        workers = WorkersHealth(stats.idle_workers, stats.busy_workers, stats.total_workers)
        return Health(
            status,
            stats.pending_requests,
            models,
            models[0].id if models else None,
            stats.processing_requests,
            workers,
            detail,
        )

    def models(self) -> list[ModelHealth]:
        """All that are known."""
        return [
            ModelHealth(known.card.name, known.workers, known.slots, known.free)
            for known in self._known.values()
        ]

    def queue_stats(self) -> QueueStats:
        """What waits and runs, by the newest heartbeat."""
        known = self._known.values()
        waiting, running = sum(one.waiting for one in known), sum(one.slots - one.free for one in known)
        idle, total = sum(one.idle for one in known), sum(one.workers for one in known)
        return QueueStats(waiting, running, idle, total - idle, total)

    def _queued_for(self, known: _Known, now: float) -> bool:
        waits = self._cold_start == "queue" and now - known.seen_at <= self._model_seen_s
        return known.workers > 0 or waits

    def hears_leader(self, now: float) -> bool:
        """Whether a leader was heard just now."""
        return not self._silent(now)

    def _silent(self, now: float) -> bool:
        return self._heard_at is None or now - self._heard_at > LEADER_SILENT_S


def name_asked(card: ModelCard, name: str | None) -> str:
    """The name that a client who asked for `name` and was given `card` knows the model by."""
    return name if name is not None and name in card.adapters else card.name
