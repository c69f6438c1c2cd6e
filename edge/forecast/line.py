"""One model's line as the leader's heartbeats tell it: who waits, how fast it moves, and when a request has its turn.

How exact it is: within a class requests are taken in the order they came, but for batches, which are made of one bucket
of `max_tokens`. At first a place is what the last heartbeat told and what this edge has published since. The heartbeat
that counts the request corrects it by what other edges published in that time, as if all had come in turn; from then on
it falls with what is taken. Classes age into each other: of a more urgent class all that wait
count as ahead, of a less urgent one none. So a position may stand still or last longer than it says, where more urgent
requests come later or less urgent ones have waited longer than the head start between the classes. Requests that end
while they wait let those behind them move up only where the whole class gets shorter. Pure; `now` is monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf

from edge.forecast.drain import Drain, Share
from edge.registry import LEADER_SILENT_S
from schemas.dispatch import ModelState
from schemas.requests import CLASSES, Klass

PUBLISHED_MAX = 4096
"""Publishes remembered until a heartbeat counts them: more than an edge makes in a second."""

UNDER_WAY_S = 0.1
"""From a publish until the leader can have counted it."""

EVERY_CLASS: dict[Klass, int] = dict.fromkeys(CLASSES, 0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A request's place: `ahead` requests are taken before it; in `eta_s` it is, where that is known. That is not while
    no leader is heard."""

    ahead: int
    eta_s: float | None


@dataclass(slots=True, eq=False)
class Line:
    """`passed` counts, by class, what was taken since this edge knows the model, whoever led."""

    slots: int = 0
    free: int = 0
    heard_at: float = -inf
    waiting: dict[Klass, int] = field(default_factory=EVERY_CLASS.copy)
    passed: dict[Klass, int] = field(default_factory=EVERY_CLASS.copy)
    _counted_at: float = -inf
    _term: int = -1
    _taken: dict[Klass, int] = field(default_factory=EVERY_CLASS.copy)
    _drain: Drain = field(default_factory=Drain)
    _shares: dict[Klass, Share] = field(default_factory=lambda: {klass: Share() for klass in CLASSES})
    _published: deque[Place] = field(default_factory=lambda: deque(maxlen=PUBLISHED_MAX))

    def heard(self, state: ModelState, term: int, now: float) -> None:
        """Takes in what the leader of `term` says at `now`."""
        taken = {klass: state.taken.get(klass, 0) for klass in CLASSES}
        is_new = term != self._term or any(taken[klass] < self._taken[klass] for klass in CLASSES)
        since = EVERY_CLASS if is_new else self._taken
        took = {klass: taken[klass] - since[klass] for klass in CLASSES}
        waiting = {klass: state.waiting.get(klass, 0) for klass in CLASSES}
        # Slots that came or went in between would look like requests that began or ended.
        if not is_new and state.slots == self.slots:
            self._measure(took, waiting, state.free, now)
        came = {klass: max(0, waiting[klass] - self.waiting[klass] + took[klass]) for klass in CLASSES}
        for klass in CLASSES:
            self.passed[klass] += took[klass]
        self.slots, self.free = state.slots, state.free
        self.waiting, self._taken, self._term, self.heard_at = waiting, taken, term, now
        self._counted_at = now - state.waiting_age_s - UNDER_WAY_S
        counted: list[Place] = []
        while self._published and self._published[0].at <= self._counted_at:
            counted.append(self._published.popleft())
        for klass in CLASSES:
            self._correct([place for place in counted if place.klass == klass], came[klass])

    def rate(self, klass: Klass | None, now: float) -> float | None:
        """Requests per second taken of a class, of the whole model where the class's share is not known or not asked
        for; None: not known."""
        rate = self._drain.rate(self.slots)
        share = None if klass is None else self._shares[klass].share(now)
        return rate if rate is None or share is None else rate * share

    def outlook(self, klass: Klass, now: float) -> Outlook:
        """For a request that is published now."""
        return self._outlook(klass, self._ahead(klass), now)

    def publish(self, klass: Klass, now: float) -> Place:
        """A request is published now; it counts until a heartbeat has counted it."""
        place = Place(self, klass, now, self._ahead(klass), dict(self.passed))
        self._published.append(place)
        return place

    def withdraw(self, place: Place) -> None:
        """It was not stored."""
        if place in self._published:
            self._published.remove(place)

    def later(self, place: Place, now: float) -> Outlook:
        """For a request that was published some time ago and still waits."""
        left = self._left(place)
        if self._counted_at > place.at:
            # It waits itself, so it is one of its class.
            left = {
                klass: min(count, max(0, self.waiting[klass] - (klass == place.klass)))
                for klass, count in left.items()
            }
        return self._outlook(place.klass, left, now)

    def _ahead(self, klass: Klass) -> dict[Klass, int]:
        ahead = {of: self.waiting[of] for of in CLASSES[: CLASSES.index(klass) + 1]}
        for place in self._published:
            if place.klass in ahead:
                ahead[place.klass] += 1
        # Free slots take the first ones at once.
        free = self.free
        for of in ahead:
            went = min(free, ahead[of])
            ahead[of] -= went
            free -= went
        return ahead

    def _correct(self, places: list[Place], came: int) -> None:
        """These, in their order, are counted now, with what others published meanwhile: `came` in all."""
        others = max(0, came - len(places))
        for number, place in enumerate(places):
            behind = len(places) - number
            own = self.waiting[place.klass] - behind - others * behind // (len(places) + 1)
            place.ahead = self._left(place) | {place.klass: max(0, own)}
            place.passed = dict(self.passed)

    def _left(self, place: Place) -> dict[Klass, int]:
        return {
            klass: max(0, ahead - (self.passed[klass] - place.passed[klass]))
            for klass, ahead in place.ahead.items()
        }

    def _outlook(self, klass: Klass, ahead: dict[Klass, int], now: float) -> Outlook:
        everyone = sum(ahead.values())
        if now - self.heard_at > LEADER_SILENT_S:
            return Outlook(everyone, None)
        if not everyone and self.free > len(self._published):
            return Outlook(0, 0.0)
        rate = self._drain.rate(self.slots)
        share = self._shares[klass].share(now)
        if rate is None:
            return Outlook(everyone, None)
        if share is None:
            return Outlook(everyone, (everyone + 1) / rate)
        # The own class moves at its own pace, which says what comes in between of the others.
        return Outlook(everyone, (ahead[klass] + 1) / (rate * share))

    def _measure(self, took: dict[Klass, int], waiting: dict[Klass, int], free: int, now: float) -> None:
        seconds = now - self.heard_at
        before, after = self.slots - self.free, self.slots - free
        everyone = sum(took.values())
        self._drain.observe(everyone - (after - before), (before + after) / 2 * seconds, seconds)
        for klass in CLASSES:
            if self.waiting[klass] and waiting[klass]:
                self._shares[klass].observe(took[klass], everyone, seconds, now)


@dataclass(slots=True, eq=False)
class Place:
    """A request's place in its line: published at `at`; there were `ahead` before it, by class, when `passed` were
    through."""

    line: Line
    klass: Klass
    at: float
    ahead: dict[Klass, int]
    passed: dict[Klass, int]

    def outlook(self, now: float) -> Outlook:
        """As it stands now, if it still waits."""
        return self.line.later(self, now)

    def withdraw(self) -> None:
        """It was not stored."""
        self.line.withdraw(self)
