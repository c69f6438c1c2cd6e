"""Runs many worlds, on as many cores as there are, and adds up what they went through."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from chaos.plan import plan_of
from chaos.world import Result, World

CHECKED_EVERY = 8
"""Of so many seeds, one checks every state machine after each of its events. That costs half as much again."""

CHUNK = 20
"""Seeds a worker takes at a time: a second's work, so that all end at about the same time."""

COLLECT_EVERY = 25
"""Worlds between two collections of what their cycles left behind: about 20 MB."""

FAILURES_KEPT_MAX = 100


class Failure(msgspec.Struct, frozen=True):
    """A broken promise, and how to see it happen again: `python -m chaos --seed <seed> --story`."""

    seed: int
    invariant: str
    what: str


class Summary(msgspec.Struct):
    """What became of many worlds. `exercised`: how often what happened in them, by steps, records and outcomes."""

    first: int
    last: int
    seeds: int = 0
    wall_s: float = 0.0
    virtual_s: float = 0.0
    failed: int = 0
    failures: list[Failure] = []
    exercised: dict[str, int] = {}

    @property
    def seeds_per_s(self) -> float:
        """Speed, all cores together."""
        return self.seeds / self.wall_s if self.wall_s else 0.0


def run_seed(
    seed: int, *, dropped: Iterable[int] = (), with_story: bool = False, checked: bool | None = None
) -> Result:
    """One world, without the steps of these numbers."""
    if checked is None:
        checked = with_story or seed % CHECKED_EVERY == 0
    return World(plan_of(seed).without(set(dropped)), with_story=with_story, checked=checked).run()


def run_seeds(first: int, last: int, *, jobs: int) -> Summary:
    """All worlds from `first` to `last`, both included."""
    summary = Summary(first, last)
    count: Counter[str] = Counter()
    began = time.perf_counter()
    for seed, violation, exercised, virtual_s in _results(range(first, last + 1), jobs):
        summary.seeds += 1
        summary.virtual_s += virtual_s
        count.update(exercised)
        if violation is not None:
            summary.failed += 1
            if len(summary.failures) < FAILURES_KEPT_MAX:
                summary.failures.append(Failure(seed, *violation))
    summary.wall_s = time.perf_counter() - began
    summary.exercised = dict(sorted(count.items()))
    return summary


_Short = tuple[int, tuple[str, str] | None, Counter[str], float]


def _results(seeds: range, jobs: int) -> Iterator[_Short]:
    if jobs == 1:
        with _own_collections():
            yield from map(_short, seeds)
        return
    # Spawned, not forked: a child must not depend on what its parent has done before.
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_begin_worker) as pool:
        yield from pool.imap_unordered(_short, seeds, chunksize=min(CHUNK, max(1, len(seeds) // (4 * jobs))))


def _short(seed: int) -> _Short:
    result = run_seed(seed)
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return result.seed, result.violation, result.exercised, result.virtual_s


def _begin_worker() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()


@contextmanager
def _own_collections() -> Iterator[None]:
    """The collector runs between worlds, not in them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def as_json(summary: Summary) -> dict[str, Any]:
    """For the record."""
    fields: dict[str, Any] = msgspec.to_builtins(summary)
    return fields | {"seeds_per_s": round(summary.seeds_per_s, 2)}
