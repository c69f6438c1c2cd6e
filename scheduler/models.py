"""The models that workers serve or served not long ago, each with its window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

import msgspec

from scheduler.demand import Demand
from scheduler.events import KnownModel
from scheduler.watchdog import Watchdog
from scheduler.window import Window
from schemas.dispatch import ModelCard
from schemas.ids import ModelKey
from schemas.requests import CLASSES, Klass

MODELS_MAX = 1024
"""Each has three consumers on the broker that are pulled from all the time."""

ENSURE_RETRY_S = 1.0
"""Consumers that were asked for and are not there by then are asked for again."""

REMEMBER_INTERVAL_S = 20.0
"""How often it is stored that a model was seen: a third of the default `model_seen_s`."""


@dataclass(slots=True)
class Model:
    """`seen_at`: when a worker last pulled for it. `ready`: its consumers exist and may be fetched from."""

    card: ModelCard
    seen_at: float
    window: Window
    ready: bool = False
    asked_at: float = -inf
    remembered_at: float = -inf
    watchdogs: dict[Klass, Watchdog] = field(default_factory=lambda: {klass: Watchdog() for klass in CLASSES})
    demand: dict[Klass, Demand] = field(default_factory=lambda: {klass: Demand() for klass in CLASSES})
    counts_since: float = -inf
    """A consumer counts deliveries from its making: what is older may have been delivered by the one before."""

    @property
    def key(self) -> ModelKey:
        """Its key in subjects."""
        return ModelKey(self.card.key)

    def asks_for_consumers(self, now: float) -> bool:
        """Whether its consumers should be ensured now; notes that they are."""
        if self.ready or now - self.asked_at < ENSURE_RETRY_S:
            return False
        self.asked_at = now
        return True

    def distrust(self) -> None:
        """Its consumers may be gone."""
        self.ready = False
        self.asked_at = -inf
        for watchdog in self.watchdogs.values():
            watchdog.reset()

    def waiting(self) -> dict[str, int]:
        """Requests that no worker has yet, by class: those at the broker and those in the window."""
        counts = {
            klass: demand.undelivered + self.window.waiting_of(klass) for klass, demand in self.demand.items()
        }
        return {klass: count for klass, count in counts.items() if count}

    def waiting_age_s(self, now: float) -> float:
        """How old the oldest of the counts in `waiting` is."""
        return max(
            demand.age_s(credit=self.window.credit(klass), now=now) for klass, demand in self.demand.items()
        )

    def taken(self) -> dict[str, int]:
        """Requests that workers took since this scheduler leads, by class."""
        return {klass: demand.taken for klass, demand in self.demand.items() if demand.taken}

    def is_worth_remembering(self, now: float) -> bool:
        """Whether it should be stored that it was seen; notes that it is."""
        if now - self.remembered_at < REMEMBER_INTERVAL_S:
            return False
        self.remembered_at = now
        return True


class Models:
    """Known models by key. One that nobody served for `seen_s` is announced no more, after `kept_s` it is forgotten."""

    def __init__(self, *, lead: int, bytes_max: int, seen_s: float, kept_s: float) -> None:
        self._lead = lead
        self._bytes_max = bytes_max
        self._seen_s = seen_s
        self._kept_s = kept_s
        self._models: dict[ModelKey, Model] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, key: ModelKey) -> Model | None:
        """The model, if it is known."""
        return self._models.get(key)

    def window_of(self, key: ModelKey) -> Window:
        """The window of a model that something is held of: it is kept as long as that."""
        return self._models[key].window

    def demand_of(self, key: ModelKey, klass: Klass) -> Demand:
        """The demand of such a model, by class."""
        return self._models[key].demand[klass]

    def see(self, card: ModelCard, at: float) -> Model | None:
        """A worker served `card` at `at`. None: there are too many models already."""
        key = ModelKey(card.key)
        model = self._models.get(key)
        if model is None:
            if len(self._models) == MODELS_MAX:
                return None
            model = Model(card, at, Window(lead=self._lead, bytes_max=self._bytes_max))
            self._models[key] = model
        if at >= model.seen_at:
            model.card = card
            model.seen_at = at
        return model

    def is_seen(self, model: Model, now: float) -> bool:
        """Whether a request for it is worth queueing."""
        return now - model.seen_at <= self._seen_s

    def forget_old(self, now: float) -> list[ModelKey]:
        """Drops models nobody served for long and that nothing is held of; returns their keys."""
        old = [
            key
            for key, model in self._models.items()
            if now - model.seen_at > self._kept_s and not model.window.held
        ]
        for key in old:
            del self._models[key]
        return old


class _Seen(msgspec.Struct, frozen=True):
    """A model in the bucket of known models; `seen_at` is Unix time in seconds."""

    card: ModelCard
    seen_at: float


_decoder = msgspec.json.Decoder(_Seen)


def remembered(card: ModelCard, unix_s: float) -> bytes:
    """What is stored of a model that was seen at `unix_s`."""
    return msgspec.json.encode(_Seen(card, unix_s))


def recall(value: bytes, unix_s: float) -> KnownModel | None:
    """Reads `remembered` back at `unix_s`; None for anything else that somebody put into the bucket."""
    try:
        seen = _decoder.decode(value)
    except ValueError:
        return None
    return KnownModel(seen.card, max(0.0, unix_s - seen.seen_at))
