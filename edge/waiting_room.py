"""Where requests wait for a broker that is away: a bounded number of places, and word when it is back."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from edge.errors import Problem
from infra.bus import Bus


class WaitingRoom:
    """At most `places` requests wait at the same time. One for each process."""

    def __init__(self, bus: Bus, *, places: int) -> None:
        self._places = places
        self._taken = 0
        self._back = asyncio.Event()
        bus.on_state(self._on_state)

    @property
    def is_full(self) -> bool:
        """Whether a request that came now had better be sent away at once."""
        return self._taken >= self._places

    def stay(self) -> Stay:
        """For one request: it takes a place when it first waits, and keeps it to the end of the `with`."""
        return Stay(self)

    def take(self) -> bool:
        """False: there is no place."""
        if self.is_full:
            return False
        self._taken += 1
        return True

    def leave(self) -> None:
        """Gives a place back."""
        assert self._taken > 0, "who leaves has taken a place"
        self._taken -= 1

    async def sleep(self, timeout_s: float) -> None:
        """Returns after `timeout_s`, or as soon as a lost connection is back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._back.wait()

    def _on_state(self, connected: bool) -> None:
        if connected:
            self._back.set()
            self._back = asyncio.Event()


class Stay:
    """One request's use of a waiting room, as a context manager."""

    def __init__(self, room: WaitingRoom) -> None:
        self._room = room
        self._has_place = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_place:
            self._room.leave()

    async def wait(self, timeout_s: float) -> bool:
        """Waits `timeout_s`, or until a lost connection is back. False, at once: there is no place to wait in."""
        self._has_place = self._has_place or self._room.take()
        if self._has_place:
            await self._room.sleep(timeout_s)
        return self._has_place


def no_place() -> Problem:
    """The answer to a request that finds the room full: nothing of it was sent."""
    return Problem("broker_away", "the broker is away, and as many requests as may wait for it do")
