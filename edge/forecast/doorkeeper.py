"""The door on the edge's clock: a limit of the gate, and what it knows of each request that it lets in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.admission import Admitted
from edge.errors import Problem
from edge.forecast.door import Asking, Door, asking_of
from edge.forecast.line import Outlook
from edge.gate import Entering, Pass, Settled


class Doorkeeper:
    """Asked before the limits that need a round trip."""

    def __init__(self, door: Door, now: Callable[[], float]) -> None:
        self._door = door
        self._now = now

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Refuses what would be too late, and who would take the place of somebody else."""
        return self._door.judge(asking_of(entering.admitted, entering.headers), self._now()) or Pass()

    def refused(self, problem: Problem, admitted: Admitted, headers: Mapping[str, str]) -> Problem:
        """The problem that keeps a request out, with the time at which to try again."""
        return self._door.advise(problem, asking_of(admitted, headers), self._now())

    def let_in(self, admitted: Admitted, headers: Mapping[str, str]) -> Prospect:
        """A request is published now."""
        return Prospect(self._door, asking_of(admitted, headers), self._now)


class Prospect:
    """The future of one request."""

    def __init__(self, door: Door, asking: Asking, now: Callable[[], float]) -> None:
        self._door = door
        self._asking = asking
        self._now = now
        self._place = door.publish(asking, now())

    def outlook(self) -> Outlook:
        """As it stands now, if the request still waits."""
        return self._place.outlook(self._now())

    def advise(self, problem: Problem) -> Problem:
        """The problem it ends with, with the time at which to try again."""
        return self._door.advise(problem, self._asking, self._now())

    def settle(self, settled: Settled) -> None:
        """What became of it."""
        if settled.how == "refused":
            self._door.withdraw(self._place)
