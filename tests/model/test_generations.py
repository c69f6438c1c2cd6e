"""An idempotency key is one lineage of runs: at most one of them runs or has the answer, whoever asks and when."""

from __future__ import annotations

from time import perf_counter
from typing import get_args

import pytest

from tests.model.explore import explore
from tests.model.generations import GENERATIONS, Client, Generation, Key, Mutation, State

STATES_MAX = 200_000


def asked_with(*bodies: int, failures: int = 0, lapses: int = 1, losses: int = 0, ageings: int = 0) -> State:
    """One key, used in requests with these bodies."""
    nothing = (Generation(),) * GENERATIONS
    return State(nothing, tuple(Client(body) for body in bodies), failures, lapses, losses, ageings)


SCOPES = {
    "two edges race": asked_with(0, 0, failures=1, losses=1),
    "retries": asked_with(0, 0, 0, failures=2),
    "another body": asked_with(0, 0, 1, failures=1),
    "retention": asked_with(0, 0, 0, failures=1, ageings=2),
}

HARM: dict[Mutation, tuple[str, str]] = {
    "each retry has a rid of its own": ("two edges race", "I9: two runs"),
    "the first generation without a log is taken": ("retention", "I9: two runs"),
    "a generation that runs is followed by another": ("two edges race", "I9: two runs"),
    "a generation that ended ok is followed by another": ("two edges race", "I9: two runs"),
    "a run that ended not ok is replayed": ("two edges race", "I9: a retry"),
    "generations are read from a replica that lags": ("two edges race", "I9: a retry"),
    "a subject takes two messages": ("two edges race", "I9: two messages"),
    "bodies are not compared": ("another body", "I11"),
    "bodies are not compared after an accepted publish": ("another body", "I11"),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_one_key_is_one_lineage(scope: str) -> None:
    began = perf_counter()
    found = explore(Key(SCOPES[scope]), states_max=STATES_MAX)
    print(f"\n{scope}: {found} in {perf_counter() - began:.1f} s")
    assert found.problem is None, found


def test_every_rule_is_broken_once() -> None:
    assert set(HARM) == set(get_args(Mutation)) - {""}


@pytest.mark.parametrize("mutation", HARM)
def test_a_broken_rule_does_harm(mutation: Mutation) -> None:
    scope, harm = HARM[mutation]
    found = explore(Key(SCOPES[scope], mutation), states_max=STATES_MAX)
    print(f"\n{mutation}: {found}")
    assert found.problem is not None
    assert found.problem.startswith(harm), found
