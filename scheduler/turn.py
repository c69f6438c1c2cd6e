"""What the parts of the core share while one event is handled."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from scheduler.events import Action
from schemas.ids import ModelKey


@dataclass(slots=True)
class Turn:
    """Set by the core before any part acts.

    `out` takes the actions, in order. `connected_since` is inf before the first connection. `stirred`: models whose
    waiting requests or window changed: the core dispatches and fetches for them at the end of the turn.
    """

    now: float = -inf
    out: list[Action] = field(default_factory=list)
    leading: bool = False
    connected: bool = False
    connected_since: float = inf
    stirred: dict[ModelKey, None] = field(default_factory=dict)

    def stir(self, model: ModelKey) -> None:
        """Something happened to `model`."""
        self.stirred[model] = None
