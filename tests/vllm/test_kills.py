"""kill -9 of the worker while it streams: another one goes on, and the client cannot tell from what it gets."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import pytest

from bench.continuation import EVERY, FEW, HEAD, SOME, TRIES_MAX, Kill, case_of, kill_throughout, row
from bench.under_load import kill_under_load
from tests.vllm.conftest import Pair

pytestmark = pytest.mark.timeout(600)

GAP_S_MAX = 10.0
"""Of the median: some measure the start of a vLLM, which is half a minute of work for every core."""

ROUNDS = 3
"""Of kills, if one measured that, or all came after the end of the answer."""


@pytest.mark.parametrize(("name", "positions"), [(EVERY, 3), *((name, 1) for name in SOME + FEW)])
def test_answer_is_the_same(name: str, positions: int, reasoning_pair: Pair, tiny_model: Path) -> None:
    """Wherever the cut falls: a second kill to hit a position exactly costs another start of vLLM."""
    assert_exact(name, positions, 1, reasoning_pair, tiny_model)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "positions"), [(EVERY, 40), *((name, 10) for name in SOME + FEW)])
def test_answer_is_the_same_wherever_it_is_cut(
    name: str, positions: int, reasoning_pair: Pair, tiny_model: Path
) -> None:
    assert_exact(name, positions, TRIES_MAX, reasoning_pair, tiny_model)


def test_sixteen_streams_at_once(reasoning_pair: Pair, tiny_model: Path) -> None:
    """Batch mates move roundings, so an answer may go on in another way; none ends with an error or loses a token."""
    streams = kill_under_load(reasoning_pair.system, str(tiny_model))
    print(f"{sum(one.is_same for one in streams)} of {len(streams)} as if nothing had happened")
    assert all(one.is_whole for one in streams)
    assert any(one.was_continued for one in streams)


def assert_exact(name: str, positions: int, tries: int, pair: Pair, model: Path) -> None:
    kills: list[Kill] = []
    for _ in range(ROUNDS):
        kills += asyncio.run(kill_throughout(pair.system, str(model), case_of(name), positions, tries))
        if kills and gap_of(kills) < GAP_S_MAX:
            break
    assert kills, "the answer was over before every kill"
    print(row(name, kills))
    assert not [kill for kill in kills if kill.wrong], HEAD
    assert gap_of(kills) < GAP_S_MAX


def gap_of(kills: list[Kill]) -> float:
    return statistics.median(kill.gap_s for kill in kills)
