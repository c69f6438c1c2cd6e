"""Edges that count together, in simulated time: a bucket that keeps revisions, calls that take their time, get lost on
the way there or back, edges that die, are paused and are replaced."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

from edge.counts import events
from edge.counts.core import Counts
from edge.counts.events import Action, Event

KEY = "tenant-a"
SILENT_S = 5.0
BEAT_S = 0.5
WAIT_S = 3.0
CALL_TIMEOUT_S = 1.0


class Bucket:
    """One key with compare-and-set."""

    def __init__(self) -> None:
        self.revision = 0
        self.value: bytes | None = None
        self.writes = 0

    def update(self, value: bytes, revision: int) -> int | None:
        if revision != self.revision:
            return None
        self.revision += 1
        self.writes += 1
        self.value = value
        return self.revision


class Edge:
    """One edge and whoever asks it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.core = Counts(name, world.now, silent_s=SILENT_S, wait_s=WAIT_S, waiting_max=100)
        self.is_dead = False
        self.inside = 0
        self.said: dict[int, str] = {}
        self._tickets = count()
        self.handle(events.Connected(True))
        self._tick_at = -1.0
        self._beat()

    def enter(self) -> int:
        ticket = next(self._tickets)
        self.world.asked[self.name, ticket] = self.world.now
        self.handle(events.Enter(ticket, KEY, self.world.bound))
        return ticket

    def leave(self) -> None:
        self.inside -= 1
        self.handle(events.Leave(KEY))

    def handle(self, event: Event) -> None:
        if self.is_dead:
            return
        for action in self.core.handle(event, self.world.now):
            self._act(action)
        self.core.check()
        at = self.core.next_deadline()
        self.world.at(max(at, self.world.now + 1e-3), lambda: self._tick(at))

    def _act(self, action: Action) -> None:
        match action:
            case events.Read(key):
                self.world.call(
                    self,
                    lambda: events.WasRead(key, self.world.bucket.value, self.world.bucket.revision),
                )
            case events.Write(key, value, revision):
                self.world.call(self, lambda: events.Written(key, self.world.bucket.update(value, revision)))
            case events.Admit(ticket):
                self.inside += 1
                self._say(ticket, "admitted")
            case events.Refuse(ticket):
                self._say(ticket, "full")
            case events.GiveUp(ticket):
                self._say(ticket, "away")

    def _say(self, ticket: int, what: str) -> None:
        assert ticket not in self.said, "one answer"
        self.said[ticket] = what
        assert self.world.now - self.world.asked.pop((self.name, ticket)) <= WAIT_S + 0.01

    def _tick(self, at: float) -> None:
        if not self.is_dead and self.core.next_deadline() <= self.world.now:
            self.handle(events.Tick())

    def _beat(self) -> None:
        if not self.is_dead:
            for edge in self.world.edges:
                edge.handle(events.Heard(self.name))
            self.handle(events.Heard(self.name))
            self.world.at(self.world.now + BEAT_S, self._beat)


class World:
    """`loss`: the share of calls whose request, and likewise of those whose answer, is lost."""

    def __init__(self, seed: int, *, bound: int, loss: float = 0.0) -> None:
        self.random = Random(seed)
        self.bound = bound
        self.loss = loss
        self.now = 1000.0
        self.bucket = Bucket()
        self.edges: list[Edge] = []
        self.asked: dict[tuple[str, int], float] = {}
        self._names = count()
        self._order = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def edge(self) -> Edge:
        edge = Edge(self, f"edge-{next(self._names)}")
        self.edges.append(edge)
        return edge

    def kill(self, edge: Edge) -> None:
        edge.is_dead = True
        self.edges.remove(edge)
        self.asked = {key: at for key, at in self.asked.items() if key[0] != edge.name}

    @property
    def inside(self) -> int:
        """Admitted and not released, at edges that live."""
        return sum(edge.inside for edge in self.edges)

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), act))

    def call(self, edge: Edge, execute: Callable[[], events.WasRead | events.Written]) -> None:
        """Executed some time later, answered later still; silence is noticed after a second, and what was sent may be
        executed even after that."""
        is_late = self.random.random() < self.loss
        there_s = self.random.uniform(1.0, 2.0) if is_late else self.random.uniform(1e-4, 2e-3)
        back_s = self.random.uniform(1e-4, 2e-3)
        is_lost, is_answer_lost = self.random.random() < self.loss, self.random.random() < self.loss
        answered: list[bool] = []

        def arrive() -> None:
            answer = execute()
            if not is_answer_lost:
                self.at(self.now + back_s, lambda: reply(answer))

        def reply(answer: Event) -> None:
            if not answered:
                answered.append(True)
                edge.handle(answer)

        if not is_lost:
            self.at(self.now + there_s, arrive)
        self.at(self.now + CALL_TIMEOUT_S, lambda: reply(events.Failed(KEY)))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._heap and self._heap[0][0] <= until:
            when, _, act = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            act()
            assert self.inside <= self.bound, "never more than the bound"
        self.now = until
