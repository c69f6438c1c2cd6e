"""What is explored: each scope combines the faults that may meet, with as few of each as show what they do."""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import NamedTuple

from tests.model.explore import explore
from tests.model.protocol import Protocol
from tests.model.records import Log
from tests.model.scope import Scope
from tests.model.state import Budget

STATES_MAX = 200_000
"""Far above what any scope has: a model that grows without bound fails instead of filling the memory."""

SCOPES = {
    "crash, redelivery, loss": Scope(Budget(crashes=1, redeliveries=1, losses=1)),
    "two takers": Scope(Budget(crashes=1, offers=1, losses=1)),
    "two schedulers": Scope(Budget(redeliveries=1, offers=1, expiries=1), tokens=1),
    "cancel": Scope(Budget(crashes=1, losses=1), closers=("canceller",)),
    "cancel, redelivery": Scope(Budget(redeliveries=1, losses=1), tokens=1, closers=("canceller",)),
    "cancel, hand-off": Scope(Budget(crashes=1, handoffs=1, losses=1), tokens=1, closers=("canceller",)),
    "four ENDs": Scope(Budget(redeliveries=1, expiries=1), tokens=1, closers=("canceller", "queue")),
    "four ENDs, loss": Scope(Budget(losses=1, expiries=1), tokens=1, closers=("canceller", "queue")),
    "too late": Scope(Budget(redeliveries=1, losses=1, expiries=1), tokens=1),
    "hand-off": Scope(Budget(crashes=1, redeliveries=1, handoffs=1), tokens=1),
    "resumed by oneself": Scope(Budget(redeliveries=1, handoffs=1)),
    "poison": Scope(Budget(redeliveries=1), tokens=1, is_poison=True, strikes_max=2, harms_max=3),
    "poison, loss": Scope(Budget(crashes=1, losses=1), tokens=1, is_poison=True, strikes_max=2, harms_max=3),
    "too many attempts": Scope(Budget(crashes=1, handoffs=3), tokens=1, attempts_max=2),
    "the log is lost": Scope(Budget(redeliveries=1, wipes=1)),
    "the log is lost, cancel": Scope(Budget(crashes=1, wipes=1), tokens=1, closers=("canceller",)),
    "retention": Scope(Budget(redeliveries=1, losses=1, removals=1, retries=1), tokens=1),
    "retention, streamed": Scope(Budget(crashes=1, removals=1), closers=("canceller",)),
}


class Explored(NamedTuple):
    """What is kept of an exploration: a state less is memory less for all other tests."""

    summary: str
    problem: str | None
    logs: frozenset[Log]
    """The finished ones."""


@cache
def explored(scope: str) -> Explored:
    """The unbroken protocol, explored once."""
    began = perf_counter()
    found = explore(Protocol(SCOPES[scope]), states_max=STATES_MAX)
    logs = frozenset(state.log for state in found.states if state.log.end is not None)
    return Explored(
        f"{found} in {perf_counter() - began:.1f} s, {len(logs)} finished logs", found.problem, logs
    )
