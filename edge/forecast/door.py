"""What is refused at the door because of what will become of it, and when who is refused should come back. Pure.

Refusing here spares a round trip and keeps places for those who were promised one; how full the queue may be is the
broker's to say. `now` is monotonic seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from edge.admission import Admitted
from edge.errors import RETRY_AFTER_S, Problem
from edge.forecast.forecast import Forecast
from edge.forecast.line import Outlook, Place
from edge.forecast.peers import Peers
from edge.forecast.promises import RETRY_AFTER_MAX_S, Promises
from edge.registry import MODELS_MAX
from edge.wishes import KEY_HEADER
from schemas import subjects
from schemas.dispatch import EdgeBeat, Leader
from schemas.requests import CLASSES, Klass

RETRY_COUNT_HEADER = "x-stainless-retry-count"
"""The official clients send it with every request; above 0 it is a retry."""

CERTAIN = 1.25
"""A request is refused because it would time out in the queue if its turn comes later than that by this factor: the
estimate may be wrong, and others may leave. A deadline is the client's own word and has no such slack."""

RESERVE = 0.1
"""Of the queue's places, kept free for clients that come back while others are turned away: those who come a little
early, or two at a time, find one."""

KEYS_MAX = 10_000
"""Idempotency keys remembered of requests that were refused here."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """The settings of the same names."""

    queue_max: int
    queue_timeout_s: float
    edge_interval_s: float


@dataclass(frozen=True, slots=True)
class Asking:
    """A request as its future depends on it. `key`: tenant and idempotency key, if it has one. `is_retry`: its client
    says so. `deadline_s` and `queue_timeout_s` are 0 where the client named none."""

    model: str
    klass: Klass
    key: tuple[str, str] | None
    is_retry: bool
    deadline_s: float
    queue_timeout_s: float


def asking_of(admitted: Admitted, headers: Mapping[str, str]) -> Asking:
    """`headers` are the client's, by lower-case name."""
    named = subjects.parse_request(admitted.subject)
    assert named is not None, "what is admitted has a subject"
    assert named.klass in CLASSES, "and a class"
    key = headers.get(KEY_HEADER)
    count = headers.get(RETRY_COUNT_HEADER, "")
    return Asking(
        named.model,
        named.klass,
        None if key is None else (named.tenant, key),
        count.isascii() and count.isdigit() and count.strip("0") != "",
        admitted.meta.request_timeout_s,
        admitted.meta.queue_timeout_s,
    )


class Door:
    """One edge's. `name` is the edge's id."""

    def __init__(self, name: str, limits: DoorLimits) -> None:
        self._limits = limits
        self._forecast = Forecast()
        self._peers = Peers(name, interval_s=limits.edge_interval_s)
        self._queue = Promises()
        self._of_models: OrderedDict[tuple[str, str], Promises] = OrderedDict()
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()

    def leader_heard(self, leader: Leader, now: float) -> None:
        """The leader's heartbeat."""
        self._forecast.heard(leader, now)

    def edge_heard(self, beat: EdgeBeat, now: float) -> None:
        """An edge's heartbeat, this one's own too."""
        self._peers.heard(beat.edge, now)

    def judge(self, asking: Asking, now: float) -> Problem | None:
        """Why a request is not worth publishing; None: it is."""
        outlook = self._forecast.line(asking.model).outlook(asking.klass, now)
        if self._late_s(asking, outlook) > 0:
            return Problem(
                "too_late", f"its turn would come in {outlook.eta_s:.0f} s, which is too late for it"
            )
        if asking.is_retry or asking.key in self._refused:
            self._queue.redeem(now)
        elif self._is_promised(now, runs_at_once=outlook.eta_s == 0):
            return Problem("queue_full", "the queue is full, and others were here before: try again later")
        return None

    def publish(self, asking: Asking, now: float) -> Place:
        """The place in the line of a request that is published now."""
        self._forecast.published(now)
        return self._forecast.line(asking.model).publish(asking.klass, now)

    def withdraw(self, place: Place) -> None:
        """It was not stored."""
        self._forecast.withdrawn(place.at)
        place.withdraw()

    def advise(self, problem: Problem, asking: Asking, now: float) -> Problem:
        """The problem with the time at which to try again, where that is worth it and the time can be known."""
        if not problem.row.retry_after or problem.retry_after_s is not None:
            return problem
        if problem.reason == "queue_full" and asking.key is not None:
            self._refused[asking.key] = None
            if len(self._refused) > KEYS_MAX:
                self._refused.popitem(last=False)
        wait_s = self._wait_s(problem.reason, asking, now)
        if wait_s is None:
            return problem
        return problem._replace(retry_after_s=min(wait_s, RETRY_AFTER_MAX_S))

    def _wait_s(self, reason: str, asking: Asking, now: float) -> float | None:
        edges = self._peers.count(now)
        line = self._forecast.line(asking.model)
        rate = line.rate(None, now)
        outlook = line.outlook(asking.klass, now)
        match reason:
            case "queue_full":
                # Its bound is one for all models: so is the rate at which its places become free.
                whole = self._forecast.rate(now) or rate
                after_s = 0.0 if self._queue.waits(now) or whole is None else self._reserve() / whole
                return whole and self._queue.promise(now, whole, edges=edges, after_s=after_s)
            case "no_slot" | "quota_exceeded":
                return rate and self._of_model(asking, reason).promise(now, rate, edges=edges)
            case "too_late" | "queue_timeout" if outlook.eta_s is not None:
                # Its turn comes in time again when that much less is before it.
                pace = line.rate(asking.klass, now)
                late_s = max(0.0, self._late_s(asking, outlook))
                promises = self._of_model(asking, reason)
                return pace and promises.promise(now, pace, edges=edges, after_s=late_s)
            case "no_workers" | "output_full" if outlook.eta_s is not None:
                return max(outlook.eta_s, RETRY_AFTER_S)
            case _:
                return None

    def _late_s(self, asking: Asking, outlook: Outlook) -> float:
        """How much too late its turn comes; -inf: not known."""
        if outlook.eta_s is None:
            return -inf
        queue_s = (asking.queue_timeout_s or self._limits.queue_timeout_s) * CERTAIN
        # What runs may end at any moment: for certain it waits only for those ahead of it.
        surely_s = outlook.eta_s * outlook.ahead / (outlook.ahead + 1)
        return max(surely_s - queue_s, outlook.eta_s - (asking.deadline_s or inf))

    def _is_promised(self, now: float, *, runs_at_once: bool) -> bool:
        """Whether every place that is free now, as far as is known, is promised to somebody. A slot that is free is
        nobody's: who could run at once may take the place of who is not there."""
        if not self._queue.waits(now):
            return False
        edges = self._peers.count(now)
        taken = self._forecast.depth(edges)
        if runs_at_once:
            return taken >= self._limits.queue_max
        return taken + edges * self._queue.due(now) >= self._limits.queue_max - self._reserve()

    def _reserve(self) -> float:
        """Never so much that slots would be free for it."""
        return min(RESERVE * self._limits.queue_max, self._forecast.spare() / 2)

    def _of_model(self, asking: Asking, reason: str) -> Promises:
        of = (asking.model, reason)
        promises = self._of_models.setdefault(of, Promises())
        self._of_models.move_to_end(of)
        if len(self._of_models) > MODELS_MAX:
            self._of_models.popitem(last=False)
        return promises
