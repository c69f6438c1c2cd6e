"""The limits of the gate that count over all edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edge.call import Caller
from edge.counts.leftover import Leftovers
from edge.counts.service import SharedCounts
from edge.errors import NOT_STORED, Problem
from edge.gate import Entering, Limit, Pass, Settled
from edge.registry import Registry
from infra.settings import Settings
from schemas.ids import ModelKey, is_key, model_key
from schemas.quotas import QUOTA_EXCEEDED, model_full, streams_full, tenant_full
from schemas.requests import RequestMeta


def limits(settings: Settings, counts: SharedCounts, leftovers: Leftovers, registry: Registry) -> list[Limit]:
    """What the settings ask for of requests. The model's comes last: a slot that is counted is used by whoever is let
    in."""
    timeouts = partial(_time_left_s, settings)
    found: list[Limit] = []
    if settings.tenant_queue_max:
        found.append(TenantLimit(counts, leftovers, settings.tenant_queue_max, timeouts))
    if settings.model_queue_max or settings.queue_mode == "reject":
        slots = registry.slots if settings.queue_mode == "reject" else None
        found.append(ModelLimit(counts, leftovers, settings.model_queue_max, slots, timeouts))
    return found


class StreamsLimit:
    """Answers that one key has open."""

    def __init__(self, counts: SharedCounts) -> None:
        self._counts = counts

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Of a new request."""
        return await self.open(entering.caller)

    async def open(self, caller: Caller) -> Pass | Problem:
        """Of whatever has an answer: the count goes with that, not with its request."""
        if not caller.streams_max:
            return Pass()
        key = _key("streams", caller.id)
        said = await self._counts.enter(key, caller.streams_max)
        if said == "admitted":
            return Pass(settle=lambda _settled: self._counts.leave(key))
        return NOT_STORED if said == "away" else Problem(QUOTA_EXCEEDED, streams_full(caller.streams_max))


class TenantLimit:
    """Requests of one tenant, queued or running."""

    def __init__(
        self,
        counts: SharedCounts,
        leftovers: Leftovers,
        queue_max: int,
        time_left_s: Callable[[RequestMeta], float],
    ) -> None:
        self._counts = counts
        self._leftovers = leftovers
        self._queue_max = queue_max
        self._time_left_s = time_left_s

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Counted until the request's end."""
        key = _key("tenant", entering.arrival.tenant)
        said = await self._counts.enter(key, self._queue_max)
        if said == "admitted":
            return Pass(settle=_until_end(self._counts, self._leftovers, key, entering, self._time_left_s))
        return NOT_STORED if said == "away" else Problem(QUOTA_EXCEEDED, tenant_full(self._queue_max))


class ModelLimit:
    """Requests for one model, queued or running. `slots`: in reject mode, how many its live workers have."""

    def __init__(
        self,
        counts: SharedCounts,
        leftovers: Leftovers,
        queue_max: int,
        slots: Callable[[ModelKey], int] | None,
        time_left_s: Callable[[RequestMeta], float],
    ) -> None:
        self._counts = counts
        self._leftovers = leftovers
        self._queue_max = queue_max
        self._slots = slots
        self._time_left_s = time_left_s

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Counted until the request's end."""
        card = entering.admitted.card
        slots = None if self._slots is None else self._slots(ModelKey(card.key))
        if slots == 0:
            return Problem(
                "no_slot", f"no worker serves the model `{card.name}` now, and nothing is queued here"
            )
        bound = min(bound for bound in (slots, self._queue_max or None) if bound is not None)
        key = _key("model", card.key)
        said = await self._counts.enter(key, bound)
        if said == "admitted":
            return Pass(settle=_until_end(self._counts, self._leftovers, key, entering, self._time_left_s))
        if said == "away":
            return NOT_STORED
        if slots == bound:
            what = f"all {slots} slots of the model `{card.name}` are taken, and nothing is queued here"
            return Problem("no_slot", what)
        return Problem(QUOTA_EXCEEDED, model_full(card.name, self._queue_max))


def _until_end(
    counts: SharedCounts,
    leftovers: Leftovers,
    key: str,
    entering: Entering,
    time_left_s: Callable[[RequestMeta], float],
) -> Callable[[Settled], None]:
    """What to do when the edge knows no more of a request that is counted under `key`."""
    arrival = entering.arrival
    leave = partial(counts.leave, key)

    def settle(settled: Settled) -> None:
        if settled.how == "left":
            leftovers.watch(arrival.tenant, arrival.rid, time_left_s(entering.admitted.meta), leave)
        else:
            leave()

    return settle


def _time_left_s(settings: Settings, meta: RequestMeta) -> float:
    """The longest a request can take from now on: as if it had just been stored."""
    return min(meta.request_timeout_s or settings.request_timeout_s, settings.request_timeout_max_s)


def _key(kind: str, name: str) -> str:
    """The bucket's key of what is counted; a name that does not fit into a subject is folded and hashed."""
    key = f"{kind}-{name}"
    return key if is_key(key) else model_key(key)
