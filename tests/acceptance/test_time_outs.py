"""Time-outs of a request: in the queue, and as a whole. What is over is over: it never runs later."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, client, expected, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean, output_logs

QUEUE_TIMEOUT_S = 1.5
TAKEN_S = 2 * QUEUE_TIMEOUT_S
"""The slot is: whoever comes within the first half of it must time out, also on a machine that pauses."""
REQUEST_TIMEOUT_S = 4.5
TRIES = 3
ITL_MS = 20


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    """One slot, so that the second request waits."""
    return start_system(
        slots=1,
        itl_ms=ITL_MS,
        ttft_ms=5,
        queue_timeout_s=QUEUE_TIMEOUT_S,
        request_timeout_s=REQUEST_TIMEOUT_S,
    )


@pytest.mark.parametrize("streams", [True, False])
def test_a_request_that_waited_too_long_is_503_and_never_runs(system: System, streams: bool) -> None:
    logs_before = set(output_logs(system.nats_url))
    flows: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        tokens = int(TAKEN_S * 1000 / ITL_MS)
        running = pool.submit(stream, system.url, "first", tokens, lambda rid, _: flows.append(rid))
        system.wait_until(lambda: flows, "the slot is taken")
        started = time.monotonic()
        with client(system.url) as official, pytest.raises(openai.APIStatusError) as refused:
            official.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "late"}], max_tokens=5, stream=streams
            )
        waited_s = time.monotonic() - started
        assert not running.done(), "it is told while it still waits"
        assert_whole(running.result(60), "first", tokens)
    assert refused.value.status_code == 503
    assert refused.value.code == "queue_timeout"
    assert float(refused.value.response.headers["retry-after"]) > 0
    assert waited_s >= QUEUE_TIMEOUT_S
    # The slot has been free since: this one runs, the other one never does.
    after = stream(system.url, "after", 5)
    assert_whole(after, "after", 5)
    logs = assert_clean(system.nats_url, [flows[0], after.rid])
    (late,) = set(logs) - logs_before - {flows[0], after.rid}
    assert logs[late].status == "expired"
    assert logs[late].ends[0]["reason"] == "queue_timeout"
    assert not logs[late].leases
    assert late == refused.value.response.headers["x-request-id"]


def test_a_request_that_takes_too_long_is_cut_off_and_its_slot_is_free(system: System) -> None:
    for _ in range(TRIES):
        took_s = cut_off_after_s(system)
        assert took_s >= REQUEST_TIMEOUT_S
        if took_s < REQUEST_TIMEOUT_S + 1:
            break
    assert took_s < REQUEST_TIMEOUT_S + 1
    after = stream(system.url, "after the long one", 5)
    assert_whole(after, "after the long one", 5)
    logs = assert_clean(system.nats_url, [after.rid])
    expired = [log for log in logs.values() if log.status == "expired" and log.ids]
    assert expired
    assert {log.ends[0]["reason"] for log in expired} == {"request_timeout"}


def cut_off_after_s(system: System) -> float:
    """How long a request ran that would run for ten times the time-out."""
    tokens = int(10 * REQUEST_TIMEOUT_S * 1000 / ITL_MS)
    pieces: list[str] = []
    started = time.monotonic()
    with client(system.url) as official:
        chunks = official.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "long"}], max_tokens=tokens, stream=True
        )
        with pytest.raises(openai.APIError) as ended:
            pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert ended.value.code == "request_timeout"
    took_s = time.monotonic() - started
    assert expected("long", tokens).startswith("".join(pieces))
    assert "".join(pieces), "what was made in time was streamed"
    return took_s
