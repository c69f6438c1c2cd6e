"""One Idempotency-Key is one run: retries attach or replay, whichever edge they meet and whatever died meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import httpx
import pytest

from bench.system import System
from bench.transcript import expected
from tests.acceptance.conftest import StartSystem
from tests.acceptance.raw_client import PATHS, body_of, post
from tests.acceptance.tap import assert_clean, output_logs

TOKENS = 100
RACERS = 8
DUPLICATE_WINDOW_S = 120


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(edges=2, workers=2, itl_ms=10, ttft_ms=5)


def whole(system: System, key: str, prompt: str, tokens: int = TOKENS) -> tuple[str, str]:
    """Rid and text of a request with `key`, read to its end."""
    with post(system.url, body_of(prompt, tokens), idempotency_key=key) as (answer, found):
        assert answer.status_code == 200, answer.read()
        return answer.headers["x-request-id"], "".join(event.text for event in found)


def test_a_retry_attaches_to_the_run_and_later_replays_it(system: System) -> None:
    with post(system.url, body_of("retry", TOKENS), idempotency_key="retry") as (answer, found):
        rid = answer.headers["x-request-id"]
        first = list(islice(found, 10))
    with post(system.url, body_of("retry", TOKENS), idempotency_key="retry", last_event_id=first[-1].id) as (
        answer,
        found,
    ):
        assert answer.headers["x-request-id"] == rid
        rest = list(found)
    assert "".join(event.text for event in first + rest) == expected("retry", TOKENS)
    assert whole(system, "retry", "retry") == (rid, expected("retry", TOKENS)), "it replays what has finished"
    assert assert_clean(system.nats_url, [rid])[rid].causes == ["first"]


def test_edges_that_race_with_one_key_run_it_once(system: System) -> None:
    logs_before = set(output_logs(system.nats_url))
    start = threading.Barrier(RACERS)

    def race(_number: int) -> tuple[str, str]:
        start.wait(10)
        return whole(system, "race", "race")

    with ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(race, range(RACERS)))
    assert len({rid for rid, _ in answers}) == 1
    assert {text for _, text in answers} == {expected("race", TOKENS)}
    logs = assert_clean(system.nats_url, [answers[0][0]])
    assert set(logs) - logs_before == {answers[0][0]}
    assert logs[answers[0][0]].causes == ["first"]


def test_another_body_under_the_same_key_is_422_and_not_worth_a_retry(system: System) -> None:
    rid, _ = whole(system, "body", "one body", 5)
    answer = httpx.post(
        system.url + PATHS["chat"], json=body_of("another body", 5), headers={"idempotency-key": "body"}
    )
    assert answer.status_code == 422
    assert answer.headers["x-should-retry"] == "false"
    assert whole(system, "body", "one body", 5)[0] == rid, "and the first one is untouched"


def test_after_a_run_that_failed_the_key_begins_anew(system: System) -> None:
    body = body_of("fails", 5, penstock_fault={"raise_at_token": 0})
    rids = []
    for _ in range(2):
        with post(system.url, body, idempotency_key="fails") as (answer, found):
            rids.append(answer.headers["x-request-id"])
            ends = [event.error for event in found]
        assert answer.status_code == 502 or ends[-1] == "poison"
    assert rids[0] != rids[1]


def test_a_key_holds_across_a_kill_of_the_broker(system: System) -> None:
    rid, text = whole(system, "broker", "broker", 20)
    (victim,) = system.processes("broker")
    system.kill(victim)
    system.wait_replaced(victim)
    assert whole(system, "broker", "broker", 20) == (rid, text)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_key_holds_past_the_duplicate_window(start_system: StartSystem) -> None:
    """A run that lasts longer than the broker remembers message ids, and a retry after that."""
    system = start_system(itl_ms=1000, ttft_ms=5)
    seconds = DUPLICATE_WINDOW_S + 10
    with post(system.url, body_of("long", seconds), idempotency_key="long") as (answer, found):
        rid = answer.headers["x-request-id"]
        first = list(islice(found, seconds - 3))
        with post(system.url, body_of("long", seconds), idempotency_key="long") as (again, twin):
            assert again.headers["x-request-id"] == rid
            assert "".join(event.text for event in twin) == expected("long", seconds)
        assert "".join(event.text for event in [*first, *found]) == expected("long", seconds)
    assert list(output_logs(system.nats_url)) == [rid]
