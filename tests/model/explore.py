"""Breadth-first exploration of every state that a model can reach.

The search stops at the first violation, which is then one of the shortest there are. When there is none, liveness is
checked: from every state, a state that is done must be reachable by steps that are no faults. That says that the system
can always recover without outside help, not that it does so under any order of steps.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """One thing that can happen. A fault may happen, but nothing may depend on it."""

    label: str
    after: S
    is_fault: bool = False


class Model(Protocol[S]):
    """What can happen, what must never happen, and what must stay possible."""

    @property
    def initial(self) -> S:
        """Where everything begins."""
        ...

    def steps(self, state: S) -> Iterable[Step[S]]:
        """All that can happen next."""
        ...

    def violation(self, state: S) -> str | None:
        """What is wrong with a state, if anything."""
        ...

    def is_done(self, state: S) -> bool:
        """Whether nothing is left to happen."""
        ...


@dataclass(frozen=True)
class Exploration(Generic[S]):
    """What was found. `states` in the order of their distance from the initial one."""

    states: list[S]
    problem: str | None
    trace: list[str]
    """The steps that lead to the problem, with what each has changed."""

    def __str__(self) -> str:
        lines = [f"{len(self.states)} states: {self.problem or 'no counterexample'}", *self.trace]
        return "\n    ".join(lines)


def explore(model: Model[S], *, states_max: int) -> Exploration[S]:
    """Explores `model`; more than `states_max` states are an error of the model or of its bounds."""
    with _no_garbage_collection():
        return _Search(model, states_max).run()


class _Search(Generic[S]):
    """`origins[i]`: the state that state i was first reached from. All steps that are no faults lead from a state of
    `sources` to that of `targets` in the same place."""

    def __init__(self, model: Model[S], states_max: int) -> None:
        self._model = model
        self._states_max = states_max
        self._states: list[S] = [model.initial]
        self._numbers: dict[S, int] = {model.initial: 0}
        self._origins = array("l", [-1])
        self._sources = array("l")
        self._targets = array("l")

    def run(self) -> Exploration[S]:
        model, states, numbers = self._model, self._states, self._numbers
        # The list grows while it is walked through: it is the queue of the search.
        for source, before in enumerate(states):
            for _, after, is_fault in model.steps(before):
                size = len(states)
                target = numbers.setdefault(after, size)
                if target == size:
                    assert target < self._states_max, f"more than {self._states_max} states"
                    states.append(after)
                    self._origins.append(source)
                    problem = model.violation(after)
                    if problem is not None:
                        return Exploration(states, problem, self._trace(target))
                if not is_fault:
                    self._sources.append(source)
                    self._targets.append(target)
        stuck = self._first_stuck()
        if stuck is not None:
            return Exploration(states, "stuck: it can never be done any more", self._trace(stuck))
        return Exploration(states, None, [])

    def _trace(self, number: int) -> list[str]:
        """Labels are not kept: the steps are taken once more."""
        trace = []
        while number:
            origin = self._origins[number]
            before, after = self._states[origin], self._states[number]
            label = next(step.label for step in self._model.steps(before) if step.after == after)
            trace.append(f"{label}: {_changes(before, after)}")
            number = origin
        return trace[::-1]

    def _first_stuck(self) -> int | None:
        """The first state from which no done state can be reached without faults."""
        sources_of: dict[int, list[int]] = {}
        for source, target in zip(self._sources, self._targets, strict=True):
            sources_of.setdefault(target, []).append(source)
        is_live = bytearray(self._model.is_done(state) for state in self._states)
        fresh = [number for number, live in enumerate(is_live) if live]
        while fresh:
            for source in sources_of.get(fresh.pop(), ()):
                if not is_live[source]:
                    is_live[source] = True
                    fresh.append(source)
        number = is_live.find(0)
        return None if number < 0 else number


def _changes(before: Hashable, after: Hashable) -> str:
    names: tuple[str, ...] = getattr(after, "_fields", ())
    changes = [
        f"{name}={getattr(after, name)!r}" for name in names if getattr(before, name) != getattr(after, name)
    ]
    return ", ".join(changes)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of tuples without a cycle among them: looking for cycles would take most of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
