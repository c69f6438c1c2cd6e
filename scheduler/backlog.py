"""Requests that wait for a slot: their order, their groups, and the batches made of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf

from scheduler.holding import Held
from schemas.ids import ModelKey, WorkerId
from schemas.requests import Klass

HEAD_START_S: dict[Klass, float] = {"interactive": 10.0, "standard": 0.0, "batch": -60.0}
"""A request is ordered as if it had arrived this much earlier. Any class goes first once it has waited longer than the
others by the difference: ageing is built in and nothing starves."""

_Entry = tuple[float, int, Held]


class Backlog:
    """Waiting requests by model and `max_tokens` bucket.

    `batch_window_s` > 0 lets a group wait until it is full or its oldest member waited that long: for engines that
    batch statically. A batch holds at most `batch_size_max` requests and `batch_bytes_max` bytes of bodies, but at
    least one request.
    """

    def __init__(self, *, batch_window_s: float, batch_size_max: int, batch_bytes_max: int) -> None:
        self._batch_window_s = batch_window_s
        self._batch_size_max = batch_size_max
        self._batch_bytes_max = batch_bytes_max
        self._models: dict[ModelKey, dict[int, list[_Entry]]] = {}

    def add(self, held: Held, now: float) -> None:
        """Queues a request; one that comes back keeps the place its arrival gave it."""
        held.queued_at = held.queued_at or now
        groups = self._models.setdefault(held.model, {})
        insort(groups.setdefault(bucket_of(held.meta.max_tokens), []), (_key(held), held.order, held))

    def remove(self, held: Held) -> None:
        """Takes out one request that waits."""
        entries = self._models[held.model][bucket_of(held.meta.max_tokens)]
        at = bisect_left(entries, (_key(held), held.order))
        assert entries[at][2] is held, "a waiting request is in its group"
        del entries[at]
        self._drop_if_empty(held.model, bucket_of(held.meta.max_tokens))

    def take(
        self, model: ModelKey, worker: WorkerId, slots: int, now: float, *, holds_new: bool
    ) -> list[Held]:
        """The next batch for a worker with `slots` free: from the group whose first member is most urgent. With
        `holds_new` only of requests that have been begun."""
        groups = self._models.get(model)
        if not groups:
            return []
        for bucket in sorted(groups, key=lambda bucket: groups[bucket][0][:2]):
            if self._ready_at(groups[bucket]) <= now:
                count_max = min(slots, self._batch_size_max)
                batch = self._pick(groups[bucket], worker, count_max, now, holds_new=holds_new)
                self._drop_if_empty(model, bucket)
                if batch:
                    return batch
        return []

    def is_empty(self, model: ModelKey) -> bool:
        """Whether nothing of `model` waits."""
        return model not in self._models

    def ready_at(self, model: ModelKey, now: float) -> float:
        """When the next group that still waits to fill becomes ready; inf if none does."""
        times = (self._ready_at(entries) for entries in self._models.get(model, {}).values())
        return min((at for at in times if at > now), default=inf)

    def check(self) -> list[Held]:
        """Asserts its invariants; returns everything that waits."""
        found = []
        for model, groups in self._models.items():
            assert groups, "a model without groups is dropped"
            for bucket, entries in groups.items():
                assert entries, "an empty group is dropped"
                assert entries == sorted(entries, key=lambda entry: entry[:2])
                for key, order, held in entries:
                    assert (held.model, bucket_of(held.meta.max_tokens), _key(held), held.order) == (
                        model,
                        bucket,
                        key,
                        order,
                    )
                    assert held.place == "waiting"
                    found.append(held)
        assert len({id(held) for held in found}) == len(found), "a request waits once"
        return found

    def _ready_at(self, entries: list[_Entry]) -> float:
        if self._batch_window_s <= 0 or len(entries) >= self._batch_size_max:
            return -inf
        return min(held.queued_at for _, _, held in entries) + self._batch_window_s

    def _pick(
        self, entries: list[_Entry], worker: WorkerId, count_max: int, now: float, *, holds_new: bool
    ) -> list[Held]:
        batch: list[Held] = []
        passed: list[_Entry] = []
        scanned = size = 0
        for entry in entries:
            held = entry[2]
            if len(batch) == count_max or (batch and size + len(held.body) > self._batch_bytes_max):
                break
            scanned += 1
            is_excluded = held.excluded and held.excluded.get(worker, -inf) > now
            if is_excluded or (holds_new and not held.ctl_seq):
                passed.append(entry)
            else:
                batch.append(held)
                size += len(held.body)
        entries[:scanned] = passed
        return batch

    def _drop_if_empty(self, model: ModelKey, bucket: int) -> None:
        groups = self._models[model]
        if not groups[bucket]:
            del groups[bucket]
            if not groups:
                del self._models[model]


def _key(held: Held) -> float:
    return held.arrived - HEAD_START_S[held.klass]


def bucket_of(max_tokens: int) -> int:
    """`max_tokens` up to the next power of two; 0: the client named none."""
    return 1 << (max_tokens - 1).bit_length() if max_tokens else 0
