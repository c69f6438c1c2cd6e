"""Whoever reads an output log sees its text once, in order and whole, whatever the log went through."""

from __future__ import annotations

from functools import cache
from time import perf_counter

import pytest

from edge.relay import Output, Relay
from schemas.log import Entry
from schemas.output import End, Tok
from tests.model.explore import explore
from tests.model.reading import History, Reader, history_of
from tests.model.scopes import SCOPES, STATES_MAX, explored


class ClosesAtAnyEnd(Relay):
    """Takes an END that carries no n for the last word, without a look at the log."""

    def _proves_itself(self, end: End) -> bool:
        return end.n is None or super()._proves_itself(end)


class TakesEveryEnd(Relay):
    """Takes an END for that of the text so far, whatever its lease."""

    def _proves_itself(self, end: End) -> bool:
        return super()._proves_itself(End(status=end.status, n=end.n, tail=end.tail))


class TakesWhatComes(Relay):
    """Does not look at offsets and leases."""

    def live_tok(self, tok: Tok, now: float) -> list[Output]:
        return [] if self.over or self.paused else [self._fold_live(tok, now)]


class GoesOnAfterALoss(Relay):
    """Drops what it has by offset alone, also where the log was begun again."""

    def stored(self, entry: Entry) -> list[Output]:
        if isinstance(entry.record, Tok):
            self._lease = max(self._lease, entry.record.lease)
        return super().stored(entry)


class NeverAsks(Relay):
    """Leaves silence be."""

    def tick(self, now: float) -> list[Output]:
        return []


@cache
def histories() -> list[History]:
    """All that the protocol can leave behind, the short ones first, in an order that is the same each time."""
    found = {history_of(log) for scope in SCOPES for log in explored(scope).logs}
    return sorted(found, key=lambda history: (len(history.records), repr(history)))


def read_all(relay: type[Relay]) -> str | None:
    """Every reading of every history; returns the first problem."""
    began, states, all_of_them = perf_counter(), 0, histories()
    for history in all_of_them:
        found = explore(Reader(history, relay), states_max=STATES_MAX)
        states += len(found.states)
        if found.problem is not None:
            print(f"\n{relay.__name__}: {history}: {found}")
            return found.problem
    took = f"{perf_counter() - began:.1f} s"
    print(f"\n{relay.__name__}: {states} states of {len(all_of_them)} histories: no counterexample in {took}")
    return None


def test_readers_see_the_text() -> None:
    assert read_all(Relay) is None


@pytest.mark.parametrize(
    ("relay", "harm"),
    [
        (ClosesAtAnyEnd, "I6"),
        (TakesEveryEnd, "I6"),
        (TakesWhatComes, "I6"),
        (GoesOnAfterALoss, "I6"),
        (NeverAsks, "stuck"),
    ],
)
def test_a_reader_that_breaks_a_rule_does_harm(relay: type[Relay], harm: str) -> None:
    assert str(read_all(relay)).startswith(harm)
