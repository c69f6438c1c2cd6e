"""The requests this scheduler holds a delivery of, and until when it may act on each.

The broker redelivers what nobody touched for the ack wait. So a holder says "still mine" (+WPI) from a third of it on,
and past half of it since the last time that could have arrived it lets go: somebody else may hold the request by then.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from schemas.ids import ModelKey, RequestId, TenantKey, WorkerId
from schemas.output import Cause
from schemas.requests import Klass, RequestMeta

Place = Literal["reading", "waiting", "offered", "closing"]
"""Where a held request stands: its log is being read, it waits in the backlog, a worker has been asked, or its END is
being written."""

Name = tuple[TenantKey, RequestId]


@dataclass(slots=True, eq=False)
class Held:
    """A held request. Times are the core's seconds; `order` is unique and grows."""

    name: Name
    model: ModelKey
    klass: Klass
    order: int
    ack: str
    stream_seq: int
    attempt: int
    meta: RequestMeta
    body: bytes
    arrived: float
    """When the broker stored it."""
    touched: float
    """When the broker last counted the ack wait from the start, as far as we can know."""
    place: Place = "reading"
    ctl_seq: int = 0
    cause: Cause = "first"
    leased_by: WorkerId | None = None
    """Who made the last attempt, if its log ends with a lease."""
    expires_at: float = inf
    expiry: Literal["queue_timeout", "request_timeout"] = "queue_timeout"
    reads: int = 0
    """Reads of its log that have not come back."""
    queued_at: float = 0.0
    strikes: int = 0
    alone_until: float = inf
    """With a strike: until when it waits for a worker of its own."""
    is_doubtful: bool = False
    """It was said to have an END while a worker was asked to take it."""
    excluded: dict[WorkerId, float] = field(default_factory=dict)
    """Workers that did not answer an offer of it, and until when they get no other one."""


class Holding:
    """Held requests by name, with the two clocks that run for each: the ack wait and the time-out."""

    def __init__(self, *, ack_wait_s: float) -> None:
        self._extend_after_s = ack_wait_s / 3
        self._let_go_after_s = ack_wait_s / 2
        self._by_touch: OrderedDict[Name, Held] = OrderedDict()
        self._expiries: list[tuple[float, int, Held]] = []

    def __len__(self) -> int:
        return len(self._by_touch)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._by_touch.values())

    def get(self, name: Name) -> Held | None:
        """The request of that name, if it is held."""
        return self._by_touch.get(name)

    def has(self, held: Held) -> bool:
        """Whether this very delivery is still held."""
        return self._by_touch.get(held.name) is held

    def add(self, held: Held) -> None:
        """Holds a request that has just been delivered."""
        assert held.name not in self._by_touch, "a request is held once"
        self._by_touch[held.name] = held

    def remove(self, held: Held) -> None:
        """Holds it no longer."""
        del self._by_touch[held.name]
        self.expire_at(held, inf)

    def touch(self, held: Held, now: float) -> None:
        """Its ack wait starts anew."""
        held.touched = now
        self._by_touch.move_to_end(held.name)

    def expire_at(self, held: Held, at: float) -> None:
        """Sets its time-out; inf: none."""
        if held.expires_at < inf:
            index = bisect_left(self._expiries, (held.expires_at, held.order))
            if index < len(self._expiries) and self._expiries[index][2] is held:
                del self._expiries[index]
        held.expires_at = at
        if at < inf:
            insort(self._expiries, (at, held.order, held))

    def let_go(self, now: float) -> list[Held]:
        """Requests past the time up to which they are ours for sure; the caller removes them."""
        return self._untouched_for(self._let_go_after_s, now)

    def to_extend(self, now: float) -> list[Held]:
        """Requests whose ack wait should be restarted; the caller touches them."""
        return self._untouched_for(self._extend_after_s, now)

    def expired(self, now: float) -> list[Held]:
        """Requests whose time-out has come, each named once."""
        count = bisect_left(self._expiries, (now, inf))
        expired = [held for _, _, held in self._expiries[:count]]
        del self._expiries[:count]
        return expired

    def next_deadline(self, *, connected: bool) -> float:
        """When the next of these is due; inf if nothing is held."""
        at = self._expiries[0][0] if self._expiries else inf
        if self._by_touch:
            first = next(iter(self._by_touch.values()))
            at = min(at, first.touched + (self._extend_after_s if connected else self._let_go_after_s))
        return at

    def check(self) -> None:
        """Asserts its invariants."""
        touched = [held.touched for held in self]
        assert touched == sorted(touched)
        assert self._expiries == sorted(self._expiries, key=lambda entry: entry[:2])
        for at, order, held in self._expiries:
            assert self.has(held)
            assert (at, order) == (held.expires_at, held.order)

    def _untouched_for(self, seconds: float, now: float) -> list[Held]:
        found: list[Held] = []
        for held in self._by_touch.values():
            if held.touched + seconds > now:
                break
            found.append(held)
        return found
