"""Bounds on what is queued and running, for those who publish without an edge. Pure.

Edges count what they admit and refuse the rest, so a request of theirs is never refused here. What a direct publisher
queued is looked at about once a second, and only while the queue is longer than the smallest bound: of a tenant or
model with more requests than it may have, whatever stands behind the first `queue_max` in the queue and has not been
begun ends with an error, as an edge would have refused it.
"""

from __future__ import annotations

from math import inf

from scheduler.limits import Limits
from scheduler.models import Models
from scheduler.quota_events import (
    CountQueue,
    FindOver,
    Kind,
    OverFound,
    QueueCounted,
    Queued,
    QuotaAction,
    QuotaEvent,
    RefusalOver,
    RefuseQueued,
)
from scheduler.turn import Turn
from schemas.ids import ModelKey, is_key
from schemas.output import End
from schemas.quotas import QUOTA_EXCEEDED, model_full, tenant_full

LOOK_EVERY_S = 1.0
"""A look takes the broker 16 ms at 10,000 requests, and a twentieth of its time is the most it may have …"""

LOOK_COST_MAX = 0.05
"""… so a slow look is followed by a long pause."""

FOUND_MAX = 256
OVER_MAX = 8
"""Requests that one look refuses of one tenant or model, and how many of these, the most crowded first."""

PATIENCE_S = 60.0
"""A look whose answers got lost is begun anew after this."""


class Quotas:
    """Looks, one at a time."""

    def __init__(self, limits: Limits, models: Models, turn: Turn) -> None:
        self._bounds: dict[Kind, int] = {"tenant": limits.tenant_queue_max, "model": limits.model_queue_max}
        self._least = min([bound for bound in self._bounds.values() if bound], default=inf)
        self._models = models
        self._turn = turn
        self._look_at = -inf
        self._looked_at = -inf
        self._under_way = 0
        self._refused = 0

    def depth(self, requests: int) -> None:
        """So many requests are in the queue."""
        turn = self._turn
        if self._under_way and turn.now - self._looked_at > PATIENCE_S:
            self._under_way = 0
        if requests > self._least and turn.leading and not self._under_way and turn.now >= self._look_at:
            self._looked_at = turn.now
            self._refused = 0
            self._ask(CountQueue())

    def handle(self, event: QuotaEvent) -> None:
        """An answer."""
        if not self._under_way:
            return
        self._under_way -= 1
        if isinstance(event, QueueCounted):
            self._counted(event)
        elif isinstance(event, OverFound):
            self._found(event)
        elif isinstance(event, RefusalOver):
            self._refused += event.refused
        if not self._under_way:
            # Whoever has just been refused made room: the rest is looked at without a pause.
            took_s = self._turn.now - self._looked_at
            pause_s = 0.0 if self._refused else max(LOOK_EVERY_S, took_s / LOOK_COST_MAX)
            self._look_at = self._turn.now + pause_s

    def check(self) -> None:
        """Asserts its invariants."""
        assert 0 <= self._under_way <= OVER_MAX * FOUND_MAX + OVER_MAX

    def _counted(self, counted: QueueCounted) -> None:
        if not self._turn.leading:
            return
        over: list[tuple[int, Kind, str]] = []
        kinds: list[tuple[Kind, dict[str, int]]] = [("tenant", counted.tenants), ("model", counted.models)]
        for kind, counts in kinds:
            bound = self._bounds[kind]
            over += [(count - bound, kind, key) for key, count in counts.items() if 0 < bound < count]
        for _, kind, key in sorted(over, reverse=True)[:OVER_MAX]:
            self._ask(FindOver(kind, key, self._bounds[kind], FOUND_MAX))

    def _found(self, found: OverFound) -> None:
        if not self._turn.leading:
            return
        for request in found.requests[:FOUND_MAX]:
            if not request.admitted:
                end = self._end(found.kind, found.key, request)
                self._ask(RefuseQueued(request.tenant, request.rid, request.stream_seq, end))

    def _end(self, kind: Kind, key: str, request: Queued) -> End:
        model = self._models.get(ModelKey(key)) if kind == "model" and is_key(key) else None
        name = key if model is None else model.card.name
        bound = self._bounds[kind]
        message = tenant_full(bound) if kind == "tenant" else model_full(name, bound)
        return End(status="error", reason=QUOTA_EXCEEDED, message=message, fingerprint=request.fingerprint)

    def _ask(self, action: QuotaAction) -> None:
        self._under_way += 1
        self._turn.out.append(action)
