"""What an answer took, by whoever knows."""

from __future__ import annotations

import json

import pytest

from edge.dialect import Elapsed
from edge.measures import measured
from edge.openai_chat import ChatShape
from edge.recent import Recent, Spread, Took, spread_of
from schemas.output import End, Timings, Usage

TIMED = End(status="ok", timings=Timings(40.0, 100.0))


def test_the_edge_that_saw_it_all_tells() -> None:
    assert measured(TIMED, 10, Elapsed(0.03, 0.2)) == (30.0, 200.0, 50.0)


def test_a_first_token_that_nobody_watched_was_made_as_long_before_the_end_as_the_worker_says() -> None:
    assert measured(TIMED, 10, Elapsed(None, 0.2)) == (140.0, 200.0, 50.0)
    assert measured(TIMED, 10, Elapsed(0.19, 0.2)) == (140.0, 200.0, 50.0), "it was seen late"
    assert measured(TIMED, 10, Elapsed(None, 0.05)) == (0.0, 50.0, 200.0), "clocks may differ"


def test_who_reads_later_is_told_by_the_worker() -> None:
    assert measured(TIMED, 10, None) == (40.0, 100.0, 100.0)
    assert measured(End(status="ok"), 10, None) is None


def test_without_tokens_there_is_no_first_one() -> None:
    assert measured(TIMED, 0, Elapsed(None, 0.2)) == (None, 200.0, 0.0)


@pytest.mark.parametrize(("elapsed", "total_ms"), [(Elapsed(0.03, 0.2), 200.0), (None, 100.0)])
def test_a_streams_usage_chunk_tells_what_it_took(elapsed: Elapsed | None, total_ms: float) -> None:
    end = End(status="ok", usage=Usage(7, 3), timings=TIMED.timings)
    shape = ChatShape("r", "m", 0, include_usage=True)
    chunk = json.loads(shape.ending(end, 3, elapsed).split(b"\n\n")[-3].partition(b"data: ")[2])
    assert (chunk["stats"]["completion_tokens"], chunk["stats"]["total_ms"]) == (3, total_ms)
    untimed = shape.ending(End(status="ok", usage=Usage(7, 3)), 3, None)
    assert b"stats" not in untimed


def test_the_latest_answers_are_kept_and_all_are_counted() -> None:
    recent = Recent(window=10)
    for number in range(100):
        recent.began()
        recent.ended(Took(number + 1.0, 5, 0.1 * number, 1.0 * number), failed=number % 2 == 0)
    recent.refused()
    assert (recent.open, recent.requests, recent.errors, recent.tokens) == (0, 101, 51, 500)
    assert recent.total_s() == Spread(94.5, 94.0, 99.0, 99.0)
    assert recent.first_token_s().p50 == pytest.approx(9.4)
    # 50 tokens from the first arrival among them, at 1, to the last end, at 100.
    assert recent.tokens_per_second() == pytest.approx(50 / 99)


def test_nothing_measured_is_nothing() -> None:
    recent = Recent()
    recent.began()
    recent.ended(Took(1.0, 0, None, 0.0), failed=False)
    assert recent.first_token_s() == Spread(0, 0, 0, 0)
    assert recent.tokens_per_second() == 0
    assert spread_of([3.0]) == Spread(3.0, 3.0, 3.0, 3.0)
