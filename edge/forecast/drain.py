"""How fast a model's workers take requests, measured. Pure.

A slot that is free takes nothing while nobody waits, so requests per second tell of the load, not of what the workers
can do. What they can do is told by how long a slot is busy with a request: busy slot-seconds by requests ended. It is
the same measure at any load, and under overload, where all slots are busy, it is the rate at which requests are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

HALF_LIFE_S = 10.0
"""What was measured this long ago counts half: other prompts, other lengths, another load."""

HALF_TAKES = 16
"""But never less than this many requests count: of slow ones fewer would be chance."""

KNOWN_TAKES = 3.0
"""From so many on there is a rate: rough (its error is about half), but far better than none."""


@dataclass(slots=True)
class Drain:
    """Of one model, all classes together."""

    _ended: float = 0.0
    _busy_s: float = 0.0
    _seconds: float = 0.0

    def observe(self, ended: int, busy_s: float, seconds: float) -> None:
        """In `seconds` `ended` requests ended, and slots were busy for `busy_s` seconds, all of them together."""
        if not busy_s and not ended:
            return
        keep = self._keep(seconds)
        # What ends may be negative for a moment: a slot counts as busy a little before its request counts as taken.
        self._ended = self._ended * keep + ended
        self._busy_s = self._busy_s * keep + busy_s
        self._seconds = self._seconds * keep + seconds

    def rate(self, slots: int) -> float | None:
        """Requests per second that `slots` slots take while requests wait; None: not known yet, or there are none."""
        if not slots or self._ended < KNOWN_TAKES or self._busy_s <= 0:
            return None
        return slots * self._ended / self._busy_s

    def _keep(self, seconds: float) -> float:
        if self._ended < 1:
            return 1.0
        half_life_s = max(HALF_LIFE_S, HALF_TAKES * self._seconds / self._ended)
        return float(0.5 ** (seconds / half_life_s))


FRESH_S = 30.0
"""A class's share of what is taken is its share against others that waited then; later it says nothing."""


@dataclass(slots=True)
class Share:
    """The share of one class in what a model's workers take, while requests of that class wait."""

    _own: float = 0.0
    _all: float = 0.0
    _seen_at: float = 0.0

    def observe(self, own: int, everyone: int, seconds: float, now: float) -> None:
        """In the `seconds` before `now` `everyone` were taken, `own` of them of this class."""
        keep = 0.5 ** (seconds / HALF_LIFE_S) if self._all > HALF_TAKES else 1.0
        if now - self._seen_at > FRESH_S:
            keep = 0.0
        self._own = self._own * keep + own
        self._all = self._all * keep + everyone
        self._seen_at = now

    def share(self, now: float) -> float | None:
        """0 to 1, above 0; None: not known, or it gets nothing for now."""
        if now - self._seen_at > FRESH_S or self._all < KNOWN_TAKES or self._own <= 0:
            return None
        return min(1.0, self._own / self._all)
