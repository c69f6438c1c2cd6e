"""Everything that all edges count together, as this edge knows it. Pure; `now` is monotonic seconds.

Which edges are alive is known from the heartbeats by which edges tell of their readers: one that was not heard for
`silent_s` counts no more, and neither does what it told. Silence is measured by this edge's own beats, which come back
to it on the same way: while it does not hear itself, because it or the broker was away, it knows nothing of others.
"""

from __future__ import annotations

from math import inf
from typing import assert_never

from edge.counts import events
from edge.counts.counter import Counter
from edge.counts.events import Action, Event

CALLS_MAX = 256
"""Under way at the same time, each for another key: after a reconnect every key in use wants one."""

RETRY_S = 0.1
"""After a call without an answer."""

REFRESH_S = 200.0
"""What is still counted is written again: a third of the time after which the bucket forgets a value."""

SWEEP_S = 10.0
IDLE_MAX = 4096
"""Keys kept that nothing is counted under: the next one that comes needs no read. Some 300 bytes each."""

EDGES_MAX = 4096
"""Edges remembered."""


class Counts:
    """`edge` is this one's name. Who wants to enter waits `wait_s` for a broker that is away, at most `waiting_max` at
    the same time."""

    def __init__(self, edge: str, now: float, *, silent_s: float, wait_s: float, waiting_max: int) -> None:
        self._edge = edge
        self._silent_s = silent_s
        self._wait_s = wait_s
        self._waiting_max = waiting_max
        self._connected = False
        self._counters: dict[str, Counter] = {}
        self._idle: dict[str, None] = {}
        self._ready: dict[str, None] = {}
        self._later: dict[str, float] = {}
        self._tickets: dict[int, tuple[str, float]] = {}
        self._newest = -1
        self._calls = 0
        self._heard: dict[str, float] = {}
        self._heard_myself_at = now
        self._watching_since = now
        self._sweep_at = now + SWEEP_S

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes in one event."""
        actions = self._advance(now)
        match event:
            case events.Enter():
                actions += self._on_enter(event, now)
            case events.Withdraw(ticket):
                self._forget(ticket)
            case events.Leave(key):
                self._counters[key].held -= 1
                self._stir(key)
            case events.WasRead(key, value, revision):
                self._answered(key).read(value, revision)
            case events.Written(key, revision):
                for action in self._answered(key).written(revision, now):
                    actions.append(action)
                    if isinstance(action, events.Admit):
                        del self._tickets[action.ticket]
            case events.Failed(key):
                self._answered(key).failed()
                del self._ready[key]
                if self._counters[key].is_idle:
                    self._rest(key)
                else:
                    self._later[key] = now + RETRY_S
            case events.Heard(edge):
                self._on_heard(edge, now)
            case events.Connected(connected):
                self._on_connected(connected, now)
            case events.Tick():
                pass
            case _:
                assert_never(event)
        return actions + self._serve()

    def next_deadline(self) -> float:
        """When `handle(Tick())` is wanted at the latest."""
        ticket_at = next(iter(self._tickets.values()))[1] if self._tickets else inf
        retry_at = next(iter(self._later.values())) if self._later else inf
        return min(ticket_at, retry_at, self._sweep_at)

    @property
    def is_settled(self) -> bool:
        """Whether the bucket says what is counted here."""
        return not (self._calls or self._ready or self._later)

    def check(self) -> None:
        """Asserts its invariants."""
        assert 0 <= self._calls <= CALLS_MAX
        assert self._calls == sum(counter.is_calling for counter in self._counters.values())
        assert len(self._tickets) <= self._waiting_max
        waiting = {ticket for counter in self._counters.values() for ticket in counter.waiting}
        assert waiting == self._tickets.keys()
        assert len(self._idle) <= IDLE_MAX
        assert len(self._heard) <= EDGES_MAX
        for key, counter in self._counters.items():
            counter.check()
            assert counter.is_idle == (key in self._idle)
            assert (
                counter.is_idle or counter.is_calling or counter.held or {key} & {*self._ready, *self._later}
            )

    def is_alive(self, edge: str) -> bool:
        """Whether what an edge tells of itself counts."""
        heard_at = max(self._heard.get(edge, -inf), self._watching_since)
        return self._heard_myself_at - heard_at < self._silent_s

    def _advance(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self._tickets:
            ticket, (_, until) = next(iter(self._tickets.items()))
            if until > now:
                break
            self._forget(ticket)
            actions.append(events.GiveUp(ticket))
        while self._later:
            key, at = next(iter(self._later.items()))
            if at > now:
                break
            del self._later[key]
            self._stir(key)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            for key, counter in self._counters.items():
                if counter.held and now - counter.written_at >= REFRESH_S:
                    counter.rewrite()
                    self._stir(key)
        return actions

    def _on_enter(self, enter: events.Enter, now: float) -> list[Action]:
        assert enter.ticket > self._newest, "tickets only grow"
        self._newest = enter.ticket
        if len(self._tickets) >= self._waiting_max:
            return [events.GiveUp(enter.ticket)]
        counter = self._counters.get(enter.key)
        if counter is None:
            counter = self._counters[enter.key] = Counter(self._edge, enter.key)
        counter.waiting[enter.ticket] = enter.bound
        self._tickets[enter.ticket] = (enter.key, now + self._wait_s)
        self._stir(enter.key)
        return []

    def _on_heard(self, edge: str, now: float) -> None:
        if edge == self._edge:
            # Others may have taken this edge for dead, and dropped its counts.
            if now - self._heard_myself_at >= self._silent_s / 2:
                self._rewrite_all()
            self._heard_myself_at = now
            self._heard = {name: at for name, at in self._heard.items() if now - at < self._silent_s}
        elif edge in self._heard or len(self._heard) < EDGES_MAX:
            self._heard[edge] = now

    def _on_connected(self, connected: bool, now: float) -> None:
        self._connected = connected
        if connected:
            self._watching_since = self._heard_myself_at = now
            # The bucket may be another one, with revisions that only look the same.
            for key in self._idle:
                del self._counters[key]
            self._idle.clear()
            self._later.clear()
            self._rewrite_all()

    def _rewrite_all(self) -> None:
        for key, counter in self._counters.items():
            if not counter.is_idle and not counter.is_calling:
                counter.rewrite()
            self._stir(key)

    def _answered(self, key: str) -> Counter:
        self._calls -= 1
        self._stir(key)
        return self._counters[key]

    def _forget(self, ticket: int) -> None:
        key, _ = self._tickets.pop(ticket, (None, 0.0))
        if key is None:
            return
        counter = self._counters[key]
        del counter.waiting[ticket]
        if counter.is_idle:
            # Without a broker nothing is served, and keys would pile up.
            self._ready.pop(key, None)
            self._later.pop(key, None)
            self._rest(key)

    def _stir(self, key: str) -> None:
        self._idle.pop(key, None)
        if key not in self._later:
            self._ready[key] = None

    def _serve(self) -> list[Action]:
        """The next call for every key that something happened to, as many as may be under way."""
        actions: list[Action] = []
        while self._ready and self._connected and self._calls < CALLS_MAX:
            key = next(iter(self._ready))
            del self._ready[key]
            counter = self._counters[key]
            if counter.is_calling:
                continue
            for action in counter.proceed(self._newest, self.is_alive):
                actions.append(action)
                if isinstance(action, events.Refuse):
                    del self._tickets[action.ticket]
            self._calls += counter.is_calling
            if counter.is_idle:
                self._rest(key)
        return actions

    def _rest(self, key: str) -> None:
        self._idle[key] = None
        if len(self._idle) > IDLE_MAX:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._counters[oldest]
