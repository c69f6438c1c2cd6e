"""A timer that can be set earlier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Cancel(Protocol):
    """What a scheduled call can be called off with."""

    def cancel(self) -> object: ...


CallAt = Callable[[float, Callable[[], None]], Cancel]
"""Schedules a call at a Unix time in seconds."""


class Alarm:
    """At most one scheduled call. It may ring too early, never too late: who is rung sets it again."""

    __slots__ = ("_at", "_call_at", "_ring", "_scheduled")

    def __init__(self, call_at: CallAt, ring: Callable[[], None]) -> None:
        self._call_at = call_at
        self._ring = ring
        self._at: float | None = None
        self._scheduled: Cancel | None = None

    @property
    def is_set(self) -> bool:
        """Whether it will ring."""
        return self._at is not None

    def set(self, when: float | None) -> None:
        """Rings at `when`, unless it is set to ring earlier; None leaves it as it is."""
        if when is None or (self._at is not None and self._at <= when):
            return
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._at = when
        self._scheduled = self._call_at(when, self._rung)

    def cancel(self) -> None:
        """Does not ring any more."""
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._at = self._scheduled = None

    def _rung(self) -> None:
        if self._scheduled is None:
            return  # called off after its time had come, while the broker was paused
        self._at = self._scheduled = None
        self._ring()
