"""A queue of streams: each is told its place and how long it takes, until it runs."""

from __future__ import annotations

import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import pytest

from bench.system import System
from bench.transcript import assert_whole, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.raw_client import PATHS, body_of

TOKENS = 100
ITL_MS = 20
RUN_S = TOKENS * ITL_MS / 1e3
"""Each place lasts two seconds: it is told of within the first of them, or on a busy machine within the second."""
ROUGHLY = 2.5
"""How much longer or shorter than foretold it may be."""
HEAD_WAIT_S = 3.0
"""By then the leader has counted every request, and one has run."""
AT_ONCE_S = 0.3

STREAMS = 8
EDGES = 2


class Told(NamedTuple):
    """What one stream was told: place in the head, (seconds since the begin, place, eta) of each comment."""

    head: int
    comments: list[tuple[float, int, float | None]]
    first_token_s: float
    whole: bool


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(slots=1, itl_ms=ITL_MS, ttft_ms=5, head_wait_s=HEAD_WAIT_S, edges=EDGES)


def watch(system: System, number: int) -> Told:
    time.sleep(number * 0.05)
    began, comments, first_token_s, whole = time.monotonic(), [], 0.0, False
    asked = body_of(f"waits {number}", TOKENS, ignore_eos=True)
    with (
        httpx.Client(timeout=60) as http,
        http.stream("POST", system.url + PATHS["chat"], json=asked) as answer,
    ):
        for line in answer.iter_lines():
            now_s = time.monotonic() - began
            if found := re.fullmatch(r": queued position=(\d+)(?: eta=(\d+))?", line):
                comments.append((now_s, int(found[1]), float(found[2]) if found[2] else None))
            elif not first_token_s and '"content":"' in line and '"content":""' not in line:
                first_token_s = now_s
            whole |= line == "data: [DONE]"
        return Told(int(answer.headers["x-queue-position"]), comments, first_token_s, whole)


def test_places_fall_and_times_come_true(system: System) -> None:
    for number in range(4):
        assert_whole(stream(system.url, f"so fast {number}", TOKENS), f"so fast {number}", TOKENS)
    with ThreadPoolExecutor(STREAMS) as pool:
        told = list(pool.map(lambda number: watch(system, number), range(STREAMS)))
    assert all(one.whole for one in told)
    # A first token takes the head along: then it runs.
    in_time = [one for one in told if one.first_token_s < HEAD_WAIT_S]
    assert in_time
    assert {one.head for one in in_time} == {0}
    assert max(one.head for one in told) >= 4
    for one in told:
        places = [place for _, place, _ in one.comments]
        assert places == sorted(places, reverse=True)
        assert len(one.comments) <= 1 + one.first_token_s, "not more often than once a second"
    # A busy machine's pause may swallow a comment of one or two of them.
    ends = [one.comments[-1][1] for one in told if one.comments]
    assert statistics.median_low(ends) <= 1, "a place lasts for longer than it takes to tell of it"
    last = max(told, key=lambda one: one.first_token_s)
    at_s, _, eta_s = last.comments[0]
    assert eta_s is not None
    assert eta_s / ROUGHLY < last.first_token_s - at_s < eta_s * ROUGHLY


def test_a_deadline_that_cannot_be_made_is_refused_at_once(system: System) -> None:
    with ThreadPoolExecutor(STREAMS) as pool:
        running = [pool.submit(watch, system, number) for number in range(STREAMS)]
        refusals, is_at_once = 0, False
        while not is_at_once:
            assert not all(one.done() for one in running), "the line is long enough for some time"
            answer, took_s = _hurry(system)
            refusals += answer.status_code == 503
            is_at_once = answer.status_code == 503 and took_s < AT_ONCE_S
        assert answer.json()["error"]["code"] == "deadline_unreachable"
        # As long as the line, and then one after the other of those who were refused, whichever edge said so.
        turns = STREAMS + EDGES * refusals
        assert 0 < float(answer.headers["retry-after-ms"]) / 1e3 < ROUGHLY * RUN_S * turns
        assert all(one.result().whole for one in running)


def _hurry(system: System) -> tuple[httpx.Response, float]:
    """The answer to a request that is in a hurry, and how many seconds it took."""
    began = time.monotonic()
    answer = httpx.post(
        system.url + PATHS["chat"],
        json=body_of("hurry", 1) | {"stream": False},
        headers={"x-penstock-deadline": "0.6"},
        timeout=10,
    )
    return answer, time.monotonic() - began
