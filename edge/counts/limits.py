"""The limits of the gate that count over all edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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
    time_left_s = partial(_time_left_s, settings)
    bounds: list[Callable[[Entering], Bound]] = []
    if settings.tenant_queue_max:
        bounds.append(partial(_of_tenant, settings.tenant_queue_max))
    if settings.model_queue_max or settings.queue_mode == "reject":
        slots_of = registry.slots if settings.queue_mode == "reject" else None
        bounds.append(partial(_of_model, settings.model_queue_max, slots_of))
    return [RequestsLimit(counts, leftovers, bound_of, time_left_s) for bound_of in bounds]


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


class Bound(NamedTuple):
    """Requests that are counted together, under `key`: at most `most`, and `full` is what the next one is told."""

    key: str
    most: int
    full: Problem


class RequestsLimit:
    """Requests that are queued or running. `bound_of` says what one is counted with."""

    def __init__(
        self,
        counts: SharedCounts,
        leftovers: Leftovers,
        bound_of: Callable[[Entering], Bound],
        time_left_s: Callable[[RequestMeta], float],
    ) -> None:
        self._counts = counts
        self._leftovers = leftovers
        self._bound_of = bound_of
        self._time_left_s = time_left_s

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Counted until the request's end."""
        key, most, full = self._bound_of(entering)
        if most == 0:
            return full
        said = await self._counts.enter(key, most)
        if said == "admitted":
            return Pass(settle=partial(self._settle, key, entering))
        return NOT_STORED if said == "away" else full

    def _settle(self, key: str, entering: Entering, settled: Settled) -> None:
        """This edge knows no more of a request that is counted under `key`."""
        leave = partial(self._counts.leave, key)
        if settled.how == "left":
            arrival, meta = entering.arrival, entering.admitted.meta
            self._leftovers.watch(arrival.tenant, arrival.rid, self._time_left_s(meta), leave)
        else:
            leave()


def _of_tenant(queue_max: int, entering: Entering) -> Bound:
    key = _key("tenant", entering.arrival.tenant)
    return Bound(key, queue_max, Problem(QUOTA_EXCEEDED, tenant_full(queue_max)))


def _of_model(queue_max: int, slots_of: Callable[[ModelKey], int] | None, entering: Entering) -> Bound:
    """`slots_of`: in reject mode, how many slots a model's live workers have."""
    card = entering.admitted.card
    key = _key("model", card.key)
    slots = None if slots_of is None else slots_of(ModelKey(card.key))
    if slots is None or 0 < queue_max < slots:
        return Bound(key, queue_max, Problem(QUOTA_EXCEEDED, model_full(card.name, queue_max)))
    model = f"the model `{card.name}`"
    why = f"all {slots} slots of {model} are taken" if slots else f"no worker serves {model} now"
    return Bound(key, slots, Problem("no_slot", f"{why}, and nothing is queued here"))


def _time_left_s(settings: Settings, meta: RequestMeta) -> float:
    """The longest a request can take from now on: as if it had just been stored."""
    return min(meta.request_timeout_s or settings.request_timeout_s, settings.request_timeout_max_s)


def _key(kind: str, name: str) -> str:
    """The bucket's key of what is counted; a name that does not fit into a subject is folded and hashed."""
    key = f"{kind}-{name}"
    return key if is_key(key) else model_key(key)
