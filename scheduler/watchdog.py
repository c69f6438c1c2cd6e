"""A consumer that has messages and open fetches, and delivers nothing.

It should not happen, and has happened to others. Redelivery makes every remedy safe: what was delivered and not settled
comes again, and leases sort out who runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

STUCK_S = 10.0
"""Far longer than a broker takes to deliver, and than it takes to elect another leader for a stream."""

Remedy = Literal["reopen", "remake"]


@dataclass(slots=True)
class Watchdog:
    """Watches one consumer: first its fetches are opened anew, then the consumer itself is made anew, and so on."""

    _silent_since: float = inf
    _was_reopened: bool = False

    def reset(self) -> None:
        """It delivered something, or nobody could have heard it."""
        self._silent_since = inf
        self._was_reopened = False

    def looked(self, *, undelivered: int, credit: int, now: float) -> Remedy | None:
        """What it has to deliver and how much it may deliver was looked at; returns what is to be done about it."""
        if not undelivered or not credit:
            self._silent_since = inf
            return None
        if self._silent_since == inf:
            self._silent_since = now
        if now - self._silent_since < STUCK_S:
            return None
        self._silent_since = now
        remedy: Remedy = "remake" if self._was_reopened else "reopen"
        self._was_reopened = not self._was_reopened
        return remedy
