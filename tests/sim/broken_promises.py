"""Defects that each break one promise which the known flaws leave alone: so that no check is one that cannot fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edge.counts import service as counts
from edge.counts.leftover import Leftovers
from edge.counts.service import SharedCounts
from edge.errors import Problem
from edge.lookup import Found
from edge.publisher import Publisher
from edge.relay import Output, Relay
from infra.bus import Bus
from infra.counters import Counters
from infra.kv import KeyValue
from schemas import subjects
from schemas.output import Tok
from tests.sim.flaws import replaced
from workers import run
from workers.engines.base import EngineRequest
from workers.service import WorkerService


@contextmanager
def every_live_record_is_passed_on() -> Iterator[None]:
    """I6: an edge that does not look at offsets repeats what it has read from the log already."""

    def live_tok(self: Relay, tok: Tok, now: float) -> list[Output]:
        return [] if self._over else [self._fold_live(tok, now)]

    with replaced((Relay, "live_tok", live_tok)):
        yield


@contextmanager
def an_attempt_begins_from_nothing() -> Iterator[None]:
    """I8: a worker that takes over does not tell its engine what is in the log."""

    def without_prefix(*fields: Any) -> EngineRequest:
        return EngineRequest(*fields[:4])

    with replaced((run, "EngineRequest", without_prefix)):
        yield


@contextmanager
def refused_and_stored() -> Iterator[None]:
    """I9: a client is told to try again later although its request is in the queue."""
    publish = Publisher.publish

    async def refuse(self: Publisher, *arguments: Any) -> Problem | Found | None:
        return await publish(self, *arguments) or Problem("queue_full", "the queue is full: try again later")

    with replaced((Publisher, "publish", refuse)):
        yield


@contextmanager
def everybody_reads_everything() -> Iterator[None]:
    """I11: an edge listens to the output of all tenants at once."""
    with replaced((subjects, "live", lambda _tenant, _rid: subjects.LIVE_ALL)):
        yield


@contextmanager
def calls_are_never_forgotten() -> Iterator[None]:
    """I12: who waits for a reply that does not come is kept for ever."""
    with replaced((Bus, "forget", lambda *_: None)):
        yield


@contextmanager
def a_count_is_kept() -> Iterator[None]:
    """I12: an edge never gives back what it has counted."""
    with replaced((SharedCounts, "leave", lambda *_: None)):
        yield


@contextmanager
def counts_without_a_condition() -> Iterator[None]:
    """I14: an edge writes its count over those that others have written since it read."""

    class Careless(KeyValue):
        async def update(self, key: str, value: bytes, revision: int) -> int | None:
            return await self.put(key, value)

    with replaced((counts, "KeyValue", Careless)):
        yield


@contextmanager
def who_leaves_counts_no_more() -> Iterator[None]:
    """I14: a request whose reader left runs on, and its place is given to another one."""

    def forget(
        _self: Leftovers, _tenant: str, _rid: str, _timeout_s: float, over: Callable[[], None]
    ) -> None:
        over()

    with replaced((Leftovers, "watch", forget)):
        yield


@contextmanager
def rates_that_never_add_up() -> Iterator[None]:
    """I14: a rate counts every request as if it were the first one."""

    async def first(self: Counters, subject: str, amount: int) -> int:
        await add(self, subject, amount)
        return amount

    add = Counters.add
    with replaced((Counters, "add", first)):
        yield


@contextmanager
def cancels_are_not_heard() -> Iterator[None]:
    """I13: a worker finds out that a request is cancelled when it appends the next time."""
    with replaced((WorkerService, "_on_cancel", lambda *_: None)):
        yield
