"""A crowd in simulated time: edges' doors before one bounded queue, clients that come back when they are told to."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random

from edge.errors import RETRY_AFTER_S, Problem
from edge.forecast.door import Asking, Door, DoorLimits
from schemas.dispatch import EdgeBeat, Leader, ModelCard, ModelState

CARD = ModelCard("m", "m", "simulator", 4096, 256)
LOOK_S = 0.5
FULL = Problem("queue_full", "full")


@dataclass
class Client:
    tries: int = 0
    waits: list[float] = field(default_factory=list)


@dataclass
class Crowd:
    """`load` times what the slots can take comes for `burst_s`; `spread`: how much service times differ, 0 to 1;
    `loyal`: the share of the refused that come back."""

    seed: int = 1
    slots: int = 16
    service_s: float = 1.6
    spread: float = 0.5
    queue_max: int = 60
    load: float = 3.0
    burst_s: float = 35.0
    edges: int = 2
    constant: bool = False
    loyal: float = 1.0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        limits = DoorLimits(self.queue_max, 300.0, 1.0)
        self.doors = [Door(f"e{number}", limits) for number in range(self.edges)]
        self.queue: list[tuple[Client, Door]] = []
        self.running = self.looked_depth = self.looked_waiting = self.taken = 0
        self.now = self.looked_at = 100.0
        self.served: Counter[int] = Counter()
        self.refused_at_door = self.depth_max = self.overtaken = 0
        self.clients: list[Client] = []
        self._events: list[tuple[float, int, str, object]] = []
        self._order = count()

    def run(self) -> Crowd:
        start = self.now
        at = start + 3.0
        while at < start + 3.0 + self.burst_s:
            at += self.random.expovariate(self.load * self.slots / self.service_s)
            self._at(at, "client", Client())
        self._at(start, "look", None)
        self._at(start + 0.2, "beat", None)
        while self._events:
            self.now, _, what, subject = heapq.heappop(self._events)
            if what == "client":
                assert isinstance(subject, Client)
                self._ask(subject)
            elif what == "end":
                self.running -= 1
                self._take()
            elif what == "look":
                self._look()
            else:
                self._beat()
            self.depth_max = max(self.depth_max, len(self.queue) + self.running)
        return self

    @property
    def refused(self) -> list[Client]:
        return [client for client in self.clients if client.waits]

    @property
    def first_retry(self) -> float:
        """Of the clients that were refused, the share whose first retry was let in."""
        return sum(client.tries == 2 for client in self.refused) / len(self.refused)

    def _at(self, at: float, what: str, subject: object) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, subject))

    def _ask(self, client: Client) -> None:
        if not client.tries:
            self.clients.append(client)
        client.tries += 1
        door = self.random.choice(self.doors)
        asking = Asking("m", "standard", None, client.tries > 1, 0.0, 0.0)
        problem = None if self.constant else door.judge(asking, self.now)
        self.refused_at_door += problem is not None
        if problem is None:
            if len(self.queue) + self.running < self.queue_max:
                door.publish(asking, self.now)
                self.queue.append((client, door))
                self._take()
                return
            problem = FULL
        wait_s = door.advise(problem, asking, self.now).retry_after_s if not self.constant else None
        wait_s = RETRY_AFTER_S if wait_s is None else wait_s
        client.waits.append(wait_s)
        if self.random.random() < self.loyal:
            self._at(self.now + wait_s + self.random.uniform(0, 0.02), "client", client)

    def _take(self) -> None:
        while self.queue and self.running < self.slots:
            self.queue.pop(0)
            self.running += 1
            self.taken += 1
            length = self.service_s * self.random.uniform(1 - self.spread, 1 + self.spread)
            self._at(self.now + length, "end", None)

    def _look(self) -> None:
        """The leader's look at the streams, and its heartbeat, which tells of the look before."""
        state = ModelState(
            CARD,
            1,
            self.slots,
            self.slots - self.running,
            0.0,
            waiting={"standard": len(self.queue)} if self.queue else {},
            waiting_age_s=LOOK_S,
            taken={"standard": self.taken},
        )
        for door in self.doors:
            door.leader_heard(Leader("s", 1, self.looked_depth, [state]), self.now)
        self.looked_depth = len(self.queue) + self.running
        if self._events:
            self._at(self.now + LOOK_S, "look", None)

    def _beat(self) -> None:
        for door in self.doors:
            for number in range(self.edges):
                door.edge_heard(EdgeBeat(f"e{number}", []), self.now)
        if len(self._events) > 1:
            self._at(self.now + 1.0, "beat", None)
