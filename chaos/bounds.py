"""I14: bounds that all edges share hold, and nothing is counted any more when all is over.

What direct publishers queue is not the edges' to count, so their letters are left out. A bound is given up on purpose
where an edge dies or is silent for long, and a rate where the counters cannot be asked, so after such a disturbance
nothing is checked.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

import msgspec

from chaos.broker import FakeBroker
from chaos.ledger import Ledger, Violated
from chaos.loop import VirtualLoop
from chaos.plan import Shape
from chaos.processes import Machine, Process
from chaos.watcher import Watcher
from infra.settings import Settings
from schemas import streams

LETTER = "letter"
"""What the rids of direct publishers begin with."""

STORED_LATER_S = 0.1
"""How far apart a request's count and its place in the queue can be at most, while nothing is disturbed."""

COUNTS = streams.counts_stream().name

_counts = msgspec.json.Decoder(dict[str, int])


class Surroundings(Protocol):
    """What these checks need of their world."""

    loop: VirtualLoop
    broker: FakeBroker
    ledger: Ledger
    watcher: Watcher
    machines: dict[str, Machine]
    lives: dict[str, Process]

    def count_one(self, what: str) -> None: ...


class Bounds:
    """Told of every request that is stored."""

    def __init__(self, world: Surroundings, shape: Shape, settings: Settings, violated: Violated) -> None:
        self._world = world
        self._violated = violated
        self._settings = settings
        self._clocks_agree = not shape.clock_skew_s
        self._most = min(
            [bound for bound in (settings.tenant_queue_max, settings.model_queue_max) if bound], default=inf
        )
        self._stored_at: list[float] = []

    def on_queued(self, rid: str) -> None:
        """A request is in the queue."""
        if rid.startswith(LETTER):
            return
        touched = self._world.watcher.touched
        if not any(machine is not None and machine.startswith("edge") for machine in touched):
            self._check_depth(rid)
        if self._settings.rate_requests_max and self._clocks_agree and not touched:
            self._check_rate(rid)

    def counted(self) -> dict[str, dict[str, int]]:
        """What the bucket still says of edges that live, by what they count."""
        alive = {name for name, process in self._world.lives.items() if process.alive}
        found: dict[str, dict[str, int]] = {}
        for message in self._world.broker.messages(COUNTS):
            told = _counts.decode(message.payload)
            if mine := {edge: count for edge, count in told.items() if edge in alive}:
                found[message.subject] = mine
        return found

    def _check_depth(self, rid: str) -> None:
        most = self._most
        if self._settings.queue_mode == "reject":
            # A worker that has died may be counted for a while together with the one that came after it.
            workers = sum(process.machine.role == "worker" for process in self._world.lives.values())
            most = min(most, workers * self._settings.slots)
        if most == inf:
            return
        queued = [
            log.name[1]
            for log in self._world.ledger.logs.values()
            if log.queued and log.end is None and not log.had_end and not log.name[1].startswith(LETTER)
        ]
        self._world.count_one("bound reached" if len(queued) == most else "bound not reached")
        if len(queued) > most:
            self._violated("I14", f"with {rid} edges have let in {queued}, at most {most} may be there")

    def _check_rate(self, rid: str) -> None:
        """A window slides over two fixed ones, each of which may be full."""
        now, most = self._world.loop.time(), 2 * self._settings.rate_requests_max
        window_s = self._settings.rate_window_s - STORED_LATER_S
        self._stored_at = [*(at for at in self._stored_at if now - at < window_s), now]
        self._world.count_one("rate checked")
        if len(self._stored_at) > most:
            self._violated("I14", f"with {rid} edges have let in more than {most} in {window_s:g} s")
