"""The protocol of one request holds in every reachable state, and each of its rules is needed.

`pytest tests/model -s` prints how many states were explored and, for each broken rule, a shortest way to harm.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, get_args

import pytest

from edge.relay import Output, Relay
from schemas.output import End, Tok
from tests.model.explore import explore
from tests.model.protocol import Protocol
from tests.model.reading import Reader, as_read
from tests.model.records import Log, end_of
from tests.model.scope import Mutation, Scope
from tests.model.state import Budget

STATES_MAX = 500_000
"""Far above what any scope has: a model that grows without bound fails instead of filling the memory."""

SCOPES = {
    "crash, redelivery, loss": Scope(Budget(crashes=1, redeliveries=1, losses=1)),
    "two takers": Scope(Budget(crashes=1, offers=1, losses=1)),
    "cancel": Scope(Budget(crashes=1, losses=1), is_cancelled=True),
    "cancel, redelivery": Scope(Budget(redeliveries=1, losses=1), tokens=1, is_cancelled=True),
    "hand-off": Scope(Budget(crashes=1, redeliveries=1, handoffs=1), tokens=1),
    "too late": Scope(Budget(redeliveries=1, losses=1, expiries=1), tokens=1),
    "poison": Scope(Budget(redeliveries=1), is_poison=True, strikes_max=2, harms_max=4),
    "poison, loss": Scope(Budget(losses=1), is_poison=True, strikes_max=2, harms_max=4),
}

HARM: dict[Mutation, tuple[str, str]] = {
    "a lease is stored without CAS": ("crash, redelivery, loss", "I5"),
    "a tok is stored without a fence": ("crash, redelivery, loss", "I7"),
    "END is stored without CAS": ("crash, redelivery, loss", "I3"),
    "ack before the PubAck of END": ("crash, redelivery, loss", "I1"),
    "the log is read before the lease": ("crash, redelivery, loss", "I5"),
    "two appends in flight": ("crash, redelivery, loss", "I4"),
    "other bytes on a retry": ("crash, redelivery, loss", "I4"),
    "END before the last append is acknowledged": ("crash, redelivery, loss", "I4"),
    "hand-off before the last append is acknowledged": ("hand-off", "I4"),
    "the message is settled before END on a cancel": ("cancel", "I1"),
    "ack when fenced": ("crash, redelivery, loss", "I1"),
    "a lease over END": ("crash, redelivery, loss", "I3"),
    "the END of a canceller carries n": ("cancel", "I4"),
    "a re-lease keeps own tokens although the log differs": ("crash, redelivery, loss", "I"),
    "a lease over another record keeps the cause of its delivery": ("hand-off", "I10"),
    "strikes are not folded": ("poison", "I10"),
    "every lease without a token is a strike": ("hand-off", "I10"),
    "signs of progress after being fenced": ("two takers", "stuck"),
    "END found at a delivery is not acknowledged": ("cancel", "stuck"),
}
"""Where each broken rule shows, and as what."""


class Explored(NamedTuple):
    """What is kept of an exploration: `logs` are the finished ones, as a reader sees them."""

    summary: str
    problem: str | None
    logs: frozenset[Log]


@cache
def explored(scope: str) -> Explored:
    """The unbroken protocol, explored once."""
    found = explore(Protocol(SCOPES[scope]), states_max=STATES_MAX)
    logs = frozenset(as_read(state.log) for state in found.states if end_of(state.log) is not None)
    return Explored(str(found), found.problem, logs)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_protocol_holds(scope: str) -> None:
    found = explored(scope)
    print(f"\n{scope}: {found.summary}, {len(found.logs)} finished logs")
    assert found.problem is None, found.summary
    assert found.logs, "a request that never ends proves nothing"


def test_every_rule_is_broken_once() -> None:
    assert set(HARM) == set(get_args(Mutation)) - {""}


@pytest.mark.parametrize("mutation", HARM)
def test_a_broken_rule_does_harm(mutation: Mutation) -> None:
    scope, harm = HARM[mutation]
    found = explore(Protocol(SCOPES[scope], mutation), states_max=STATES_MAX)
    print(f"\n{mutation}: {found}")
    assert found.problem is not None
    assert found.problem.startswith(harm), found


class ClosesAtAnyEnd(Relay):
    """Takes an END that carries no n for the last word, without a look at the log."""

    def _proves_itself(self, end: End) -> bool:
        return end.n is None or super()._proves_itself(end)


class TakesWhatComes(Relay):
    """Does not look at offsets and leases."""

    def live_tok(self, tok: Tok, now: float) -> list[Output]:
        return [] if self.over or self.paused else [self._fold_live(tok, now)]


class NeverAsks(Relay):
    """Leaves silence be."""

    def tick(self, now: float) -> list[Output]:
        return []


def read_all(relay: type[Relay]) -> str | None:
    """Every reading of every finished log; returns the first problem."""
    logs = frozenset[Log]().union(*(explored(scope).logs for scope in SCOPES))
    states = 0
    # In an order of their own, so that a failure is the same one each time; the short ones first.
    for log in sorted(logs, key=lambda log: (len(log), repr(log))):
        found = explore(Reader(log, relay), states_max=STATES_MAX)
        states += len(found.states)
        if found.problem is not None:
            print(f"\n{relay.__name__}: {log}: {found}")
            return found.problem
    print(f"\n{relay.__name__}: {states} states of {len(logs)} logs: no counterexample")
    return None


def test_readers_see_the_text() -> None:
    assert read_all(Relay) is None


@pytest.mark.parametrize(
    ("relay", "harm"), [(ClosesAtAnyEnd, "I6"), (TakesWhatComes, "I6"), (NeverAsks, "stuck")]
)
def test_a_reader_that_breaks_a_rule_does_harm(relay: type[Relay], harm: str) -> None:
    assert str(read_all(relay)).startswith(harm)
