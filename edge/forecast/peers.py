"""How many edges share the load. Pure; `now` is monotonic seconds."""

from __future__ import annotations

PEERS_MAX = 1024
"""More are not counted."""

BEATS_MISSED_MAX = 3
"""An edge that was not heard for so many beats takes no clients."""


class Peers:
    """The edges heard of, this one, `name`, among them. Each beats at `interval_s`."""

    def __init__(self, name: str, *, interval_s: float) -> None:
        self._name = name
        self._silent_s = BEATS_MISSED_MAX * interval_s
        self._heard_at: dict[str, float] = {}

    def heard(self, edge: str, now: float) -> None:
        """An edge told of itself."""
        if edge != self._name and (edge in self._heard_at or len(self._heard_at) < PEERS_MAX):
            self._heard_at[edge] = now

    def count(self, now: float) -> int:
        """The edges that live, at least this one."""
        silent = [edge for edge, at in self._heard_at.items() if now - at > self._silent_s]
        for edge in silent:
            del self._heard_at[edge]
        return 1 + len(self._heard_at)
