"""The queue of tokens behind the log."""

from __future__ import annotations

import pytest

from schemas.log import Fold
from schemas.output import Delta
from workers.tokens import Tokens


def _tokens() -> Tokens:
    """Three chunks of two tokens; the first is in the log."""
    tokens = Tokens(Fold())
    for i in range(0, 6, 2):
        tokens.push([i, i + 1], [Delta(f"{i}-{i + 1}.")])
    assert tokens.take(1).ids == [0, 1]
    tokens.stored()
    return tokens


def _log(n: int) -> Fold:
    log = Fold()
    for i in range(0, n, 2):
        log.add(i, [i, i + 1], [Delta(f"{i}-{i + 1}.")])
    return log


@pytest.mark.parametrize(("logged", "left"), [(0, 6), (2, 4), (4, 2), (6, 0)])
def test_rebase_keeps_what_follows_the_log(logged: int, left: int) -> None:
    tokens = _tokens()
    tokens.take(1)
    assert tokens.rebase(_log(logged))
    assert tokens.off == logged
    assert len(tokens.rest().ids) == left
    assert tokens.made == 6
    assert tokens.whole().texts == ["0-1.2-3.4-5."]
    tokens.check()


def test_rebase_refuses_a_log_that_is_longer_or_cut_inside_a_chunk_or_different() -> None:
    inside = _log(2)
    inside.add(2, [2], [Delta("2-")])
    different = _log(2)
    different.add(2, [2, 3], [Delta("2_3.")])
    for log in (_log(8), inside, different):
        tokens = _tokens()
        assert not tokens.rebase(log)
        assert (tokens.off, tokens.made) == (2, 6)


def test_fit_is_true_for_a_single_chunk_of_any_size() -> None:
    tokens = Tokens(Fold())
    tokens.push([1], [Delta("x" * 1000)])
    assert tokens.fit(10)
    tokens.push([2], [])
    assert not tokens.fit(10)
