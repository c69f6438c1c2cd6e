"""Cancels that need calls to the broker, a few at a time: however many come at once, each is done in its turn.

A request that is delivered while its cancel waits here, or shortly after, is not taken for new: its log is read first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import inf

from scheduler.events import Cancel, DeleteQueued
from scheduler.holding import Name

UNDER_WAY_MAX = 64
"""Calls at a time: at ~1 ms each, tens of thousands of cancels a second are more than a broker would do."""

WAITING_MAX = 65_536
"""More are dropped: whoever waits for an answer asks again, and the next delivery finds an END that is stored."""

OVERTAKEN_S = 2.0
"""The broker's word that a message is deleted was seen to overtake the message itself, which a fetch had on its way: so
long after a cancel its request may still be delivered."""

Job = Cancel | DeleteQueued


class Cancels:
    """A bounded line of jobs."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._under_way = 0
        self._names: dict[Name, int] = {}
        self._over: OrderedDict[Name, float] = OrderedDict()

    def add(self, job: Job) -> bool:
        """Takes in a job. False: there are too many."""
        if len(self._waiting) == WAITING_MAX:
            return False
        self._waiting.append(job)
        name = (job.tenant, job.rid)
        self._names[name] = self._names.get(name, 0) + 1
        return True

    def start(self) -> list[Job]:
        """What may begin now."""
        jobs = []
        while self._waiting and self._under_way < UNDER_WAY_MAX:
            self._under_way += 1
            jobs.append(self._waiting.popleft())
        return jobs

    def over(self, name: Name, now: float) -> None:
        """A job that was begun is over, however it ended."""
        if name not in self._names or not self._under_way:
            return
        self._under_way -= 1
        self._names[name] -= 1
        if not self._names[name]:
            del self._names[name]
        self._over[name] = now
        self._over.move_to_end(name)
        while len(self._over) > WAITING_MAX or next(iter(self._over.values())) < now - OVERTAKEN_S:
            self._over.popitem(last=False)

    def has(self, name: Name, now: float) -> bool:
        """Whether a job for this request waits, is under way, or was over a moment ago."""
        return name in self._names or self._over.get(name, -inf) >= now - OVERTAKEN_S

    def check(self) -> None:
        """Asserts its invariants."""
        assert 0 <= self._under_way <= UNDER_WAY_MAX
        assert len(self._waiting) <= WAITING_MAX
        assert len(self._over) <= WAITING_MAX
        assert sum(self._names.values()) == len(self._waiting) + self._under_way
