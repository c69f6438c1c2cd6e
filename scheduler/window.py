"""How many requests of one model may be pulled from the queue: a little more than its workers can take now."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from schemas.requests import CLASSES, Klass

FETCH_EXPIRES_S = 2.0
"""Short, because a paused scheduler swallows what its open fetches are sent until the ack wait is over."""

_WRITE_OFF_S = 1.0
"""After its expiry a fetch whose end was never heard of (a lost message, a reconnect) counts no longer."""

_SIZE_DECAY = 0.99
"""Per delivery: the size expected of the next body follows large ones at once and forgets them over ~100 requests."""


@dataclass(slots=True)
class _Open:
    """An open fetch: messages it may still bring, and when it is written off."""

    credit: int
    until: float


@dataclass(slots=True)
class _Consumer:
    """`open` oldest first: the broker serves and ends fetches in that order. `credit` is their sum."""

    open: deque[_Open] = field(default_factory=deque)
    credit: int = 0
    waiting: int = 0


class Window:
    """The window of one model.

    `waiting` counts held requests that no worker has been asked to take; `size_bytes` the bodies of all that are held.
    Each class has credit of its own, so that one that fills the window cannot hide a more urgent one behind it.
    """

    def __init__(self, *, lead: int, bytes_max: int) -> None:
        self._lead = lead
        self._bytes_max = bytes_max
        self._consumers: dict[Klass, _Consumer] = {klass: _Consumer() for klass in CLASSES}
        self._size_expected = 1.0
        self.waiting = 0
        self.held = 0
        self.size_bytes = 0

    def fits(self, body_bytes: int) -> bool:
        """Whether a delivered body may be held: always the first one, then up to the limit."""
        return not self.held or self.size_bytes + body_bytes <= self._bytes_max

    def enter(self, klass: Klass, body_bytes: int) -> None:
        """A delivered request is held from now on."""
        self._size_expected = max(body_bytes, self._size_expected * _SIZE_DECAY, 1.0)
        self.size_bytes += body_bytes
        self.held += 1
        self.wait(klass)

    def leave(self, klass: Klass, body_bytes: int, *, waiting: bool) -> None:
        """A request is held no longer."""
        self.size_bytes -= body_bytes
        self.held -= 1
        if waiting:
            self.offer(klass)

    def offer(self, klass: Klass) -> None:
        """A worker has been asked to take a request: it uses a slot, not the window."""
        self._consumers[klass].waiting -= 1
        self.waiting -= 1

    def wait(self, klass: Klass) -> None:
        """A request waits for a slot (again)."""
        self._consumers[klass].waiting += 1
        self.waiting += 1

    def wants(self, free: int) -> list[tuple[Klass, int]]:
        """What to fetch of which class with `free` slots on live workers; too little to bother a broker is left out.

        Never more of a class than free slots + lead, held and on the way together. Of that, the total that waits
        is taken off, except for a lead that every class keeps.
        """
        if self.size_bytes >= self._bytes_max:
            return []
        target = free + self._lead
        bytes_left = self._bytes_max - self.size_bytes
        share = max(1, int(bytes_left / (len(CLASSES) * self._size_expected)))
        enough = min(target, share) / 2
        wanted: list[tuple[Klass, int]] = []
        for klass, consumer in self._consumers.items():
            if target - consumer.credit < enough:
                continue
            room = max(target - self.waiting, self._lead - consumer.waiting)
            missing = min(room, share) - consumer.credit
            if missing > 0 and missing >= enough:
                wanted.append((klass, missing))
        return wanted

    def fetch(self, klass: Klass, batch: int, now: float) -> None:
        """A fetch has been sent."""
        consumer = self._consumers[klass]
        consumer.credit += batch
        consumer.open.append(_Open(batch, now + FETCH_EXPIRES_S + _WRITE_OFF_S))

    def use(self, klass: Klass, credit: int) -> None:
        """Credit was used by a delivery or came back unused. More than is open: it was written off already."""
        consumer = self._consumers[klass]
        while credit and consumer.open:
            first = consumer.open[0]
            used = min(credit, first.credit)
            first.credit -= used
            consumer.credit -= used
            credit -= used
            if not first.credit:
                consumer.open.popleft()

    def write_off(self, now: float) -> None:
        """Forgets fetches that must be over."""
        for consumer in self._consumers.values():
            while consumer.open and consumer.open[0].until <= now:
                consumer.credit -= consumer.open.popleft().credit

    def forget_fetches(self) -> None:
        """The connection that carried the fetches is gone, or nobody wants what they bring."""
        for consumer in self._consumers.values():
            consumer.open.clear()
            consumer.credit = 0

    def credit(self, klass: Klass) -> int:
        """Messages that open fetches of a class may still bring."""
        return self._consumers[klass].credit

    def waiting_of(self, klass: Klass) -> int:
        """Held requests of a class that wait."""
        return self._consumers[klass].waiting

    def check(self) -> None:
        """Asserts its invariants."""
        assert self.size_bytes >= 0
        assert self.waiting == sum(consumer.waiting for consumer in self._consumers.values()) <= self.held
        for consumer in self._consumers.values():
            assert consumer.waiting >= 0
            assert consumer.credit == sum(fetch.credit for fetch in consumer.open)
            assert all(fetch.credit > 0 for fetch in consumer.open)
