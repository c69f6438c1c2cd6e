"""The consumers of each model: that they are there, that they are fetched from, and that they deliver."""

from __future__ import annotations

from scheduler import events
from scheduler.fleet import Fleet
from scheduler.limits import Limits
from scheduler.models import Model, Models
from scheduler.turn import Turn
from scheduler.window import FETCH_EXPIRES_S
from schemas.ids import ModelKey
from schemas.requests import Klass


class Fetching:
    """Keeps each model's window filled from its consumers."""

    def __init__(self, limits: Limits, fleet: Fleet, models: Models, turn: Turn) -> None:
        self._limits = limits
        self._fleet = fleet
        self._models = models
        self._turn = turn
        self._stuck = 0

    def ensure(self, model: Model) -> None:
        """Asks for the consumers of a model that is not known to have them."""
        if self._turn.leading and self._turn.connected and model.asks_for_consumers(self._turn.now):
            self._turn.out.append(events.EnsureConsumers(model.key))

    def ready(self, key: ModelKey, age_s: float) -> None:
        """A model's consumers are there."""
        model = self._models.get(key)
        if model is not None and self._turn.leading:
            model.ready = True
            model.counts_since = self._turn.now - age_s
            self._turn.stir(key)

    def refill(self, key: ModelKey) -> None:
        """Fetches what the window of a model has room for."""
        model = self._models.get(key)
        if model is None or not model.ready:
            return
        free = self._fleet.free(key)
        for klass, batch in model.window.wants(free):
            model.window.fetch(klass, batch, self._turn.now)
            of_class = model.window.credit(klass) + model.window.waiting_of(klass)
            assert of_class <= free + self._limits.window_lead, "the window is bounded"
            self._turn.out.append(events.Fetch(klass, key, batch, FETCH_EXPIRES_S))

    def ended(self, event: events.FetchEnded) -> None:
        """A fetch brought less than it might."""
        model = self._models.get(event.model)
        if model is not None:
            model.window.use(event.klass, event.unused)
            self._turn.stir(event.model)

    def to_look_at(self, now: float) -> list[tuple[Klass, ModelKey]]:
        """The consumers to be asked now what they have left; notes that they are."""
        return [
            (klass, model.key)
            for model in self._models
            if self._may_reopen(model)
            for klass, demand in model.demand.items()
            if demand.wants_look(credit=model.window.credit(klass), now=now)
        ]

    def seen(self, event: events.ConsumerSeen) -> None:
        """A consumer was looked at: one that is gone is made at once, one that is stuck is helped."""
        model = self._models.get(event.model)
        if model is None or not self._may_reopen(model):
            return
        if event.undelivered is None:
            self.gone(event.model)
            return
        model.demand[event.klass].looked(event.undelivered, self._turn.now)
        remedy = model.watchdogs[event.klass].looked(
            undelivered=event.undelivered, credit=model.window.credit(event.klass), now=self._turn.now
        )
        if remedy is None:
            return
        self._stuck += 1
        self._turn.out.append(events.ConsumerStuck(event.klass, event.model, remedy, self._stuck))
        if remedy == "reopen":
            self.gone(event.model)
        else:
            self._close(model)
            model.asked_at = self._turn.now
            self._turn.out.append(events.EnsureConsumers(event.model, event.klass))

    def gone(self, key: ModelKey) -> None:
        """A consumer of a model may be missing: its fetches are opened anew. At most once a second: one that is deleted
        over and over is not to keep the broker busy."""
        model = self._models.get(key)
        if model is not None and self._may_reopen(model):
            self._close(model)
            self.ensure(model)

    def stop(self) -> None:
        """Another scheduler leads."""
        for model in self._models:
            self._close(model)
            model.distrust()

    def start_anew(self) -> None:
        """The fetches are gone with the connection, and a broker that was restarted may have lost the consumers."""
        for model in self._models:
            model.window.forget_fetches()
            model.distrust()
            self.ensure(model)

    def _may_reopen(self, model: Model) -> bool:
        return model.ready and self._turn.leading and self._turn.connected

    def _close(self, model: Model) -> None:
        self._turn.out.append(events.StopFetching(model.key))
        model.window.forget_fetches()
        model.ready = False
