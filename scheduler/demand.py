"""What is asked of a model and what its workers took: the numbers that edges make forecasts of.

Requests that wait are known in two parts. What is held in the window is counted as it stands. What the broker has yet
to deliver is known as of the last look, less what was delivered since; the next look sees what came in since then.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

LOOK_S = 1.0
"""How often a consumer is asked that may have something undelivered."""

LOOK_IDLE_S = 2.0
"""How often one is asked that should have nothing, because it has credit open: some times before it counts as stuck."""


@dataclass(slots=True)
class Demand:
    """Of one class of one model. `taken`: requests that workers took since this scheduler leads; `undelivered`: those
    still at the broker, as far as is known."""

    taken: int = 0
    undelivered: int = 0
    _looked_at: float = -inf
    _asked_at: float = -inf

    def looked(self, undelivered: int, now: float) -> None:
        """The broker said how much it has yet to deliver for the first time."""
        self.undelivered = undelivered
        self._looked_at = now

    def delivered(self, attempt: int) -> None:
        """A delivery came; a repeated one had been counted before."""
        if attempt == 1:
            self.undelivered = max(0, self.undelivered - 1)

    def wants_look(self, *, credit: int, now: float) -> bool:
        """Whether the broker should be asked now; notes that it is. `credit`: what open fetches may still bring."""
        if now - self._asked_at < (LOOK_IDLE_S if credit and not self.undelivered else LOOK_S):
            return False
        self._asked_at = now
        return True

    def age_s(self, *, credit: int, now: float) -> float:
        """How old this knowledge is; 0 where open fetches bring everything at once."""
        return 0.0 if credit and not self.undelivered else min(now - self._looked_at, LOOK_IDLE_S)

    def reset(self) -> None:
        """A leader begins: it has seen nothing yet."""
        self.taken = 0
        self.undelivered = 0
        self._looked_at = self._asked_at = -inf
