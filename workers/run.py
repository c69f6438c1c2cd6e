"""An attempt's side of the engine: which run is its own, since when the engine owes it tokens, and how long it took."""

from __future__ import annotations

from schemas.dispatch import WorkItem
from schemas.log import Fold
from schemas.output import Timings
from workers.engines.base import EngineRequest, prefix_of
from workers.events import Action, StartEngine, StopEngine
from workers.limits import Worker


class Run:
    """At most one run at a time; `number` is 0 while there is none. `at` is when the last one began, `made` counts the
    tokens of all."""

    def __init__(self, key: str, worker: Worker, now: float) -> None:
        self.number = 0
        self.at = now
        self.made = 0
        self._key = key
        self._worker = worker
        self._accepted_at = now
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None

    @property
    def owes_since(self) -> float | None:
        """Since when the engine owes this request tokens; None: it does not."""
        return self.at if self.number else None

    def start(self, item: WorkItem, logged: Fold, now: float) -> list[Action]:
        """Gives the request to the engine, to be continued from `logged`."""
        self.number = self._worker.number()
        self.at = now
        prefix = prefix_of(logged) if logged.ids else None
        return [StartEngine(EngineRequest(self._key, self.number, item.body, item.meta, prefix))]

    def stop(self) -> list[Action]:
        """Takes the request from the engine, if it is there."""
        if not self.number:
            return []
        self.number = 0
        return [StopEngine(self._key)]

    def over(self) -> None:
        """The engine ended the run by itself."""
        self.number = 0

    @property
    def has_spoken(self) -> bool:
        """Whether this attempt has made a token."""
        return self._first_token_at is not None

    def spoke(self, tokens: int, now: float) -> None:
        """Tokens came."""
        self.made += tokens
        self._last_token_at = now
        if self._first_token_at is None:
            self._first_token_at = now

    @property
    def spoken_at(self) -> tuple[float | None, float | None]:
        """When the first tokens came, and the last ones."""
        return self._first_token_at, self._last_token_at

    def is_stuck(self, now: float) -> bool:
        """Whether the engine owes tokens and has not stepped for too long, as far as can be known."""
        last_step_at = max(self._worker.last_step_at, self.at)
        return self.number > 0 and now - last_step_at >= self._worker.step_s_max

    def timings(self, now: float) -> Timings:
        """Of the whole attempt, if it ends now."""
        first_token_at = now if self._first_token_at is None else self._first_token_at
        return Timings(
            first_token_ms=round((first_token_at - self._accepted_at) * 1e3, 3),
            total_ms=round((now - self._accepted_at) * 1e3, 3),
        )
