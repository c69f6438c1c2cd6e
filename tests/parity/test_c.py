"""Rows C1 to C9: an inference server of one process."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bench.system import REPOSITORY, System
from bench.transcript import MODEL, client
from infra.settings import load_settings
from tests.parity.asking import (
    CHAT,
    chat_body,
    completed,
    events_of,
    free_slots,
    get,
    occupied,
    post,
    stream,
    user,
)
from tests.parity.conftest import TRIES, Lone
from workers.engines.vllm_start import words_of

GENERATE = "/generate"


def test_c1_generate(roomy: System) -> None:
    ttft_ms = []
    for _ in range(5):
        begun = time.monotonic()
        answer = post(roomy, GENERATE, {"prompt": "a river"})
        took_ms = (time.monotonic() - begun) * 1e3
        told = answer.json()
        assert (answer.status_code, told["text"]) == (200, completed("a river", told["completion_tokens"]))
        assert 0 < told["completion_tokens"] <= 100, "the default limit"
        assert told["prompt_tokens"] > 0
        assert 20 <= told["ttft_ms"] <= told["total_time_ms"] <= took_ms
        ttft_ms.append(told["ttft_ms"])
    assert min(ttft_ms) < 20 + 150, "the engine's 20 ms, not when the answer was read"
    for bad in ({}, {"prompt": 1}, {"prompt": "x", "temperature": 3}, {"prompt": "x", "max_tokens": 0}):
        refused = post(roomy, GENERATE, bad)
        assert (refused.status_code, type(refused.json()["detail"])) == (422, list)


def test_c2_streaming(roomy: System) -> None:
    body = {"prompt": "on and on", "max_tokens": 40, "stream": True}
    later_ms, counts = [], []
    with httpx.Client(base_url=roomy.url) as http:
        for _ in range(5):
            begun, first, events = time.monotonic(), 0.0, []
            with http.stream("POST", GENERATE, json=body) as answer:
                for event in events_of(answer):
                    first = first or time.monotonic() - begun
                    events.append(event.data)
            assert answer.headers["content-type"].startswith("text/event-stream")
            *pieces, last = events
            counts.append(len(pieces))
            text = "".join(piece["text"] for piece in pieces)
            assert text == completed("on and on", 40), "deltas, not cumulative"
            assert (last["text"], last["completion_tokens"], last["finish_reason"]) == ("", 40, "length")
            later_ms.append(first * 1e3 - last["ttft_ms"])
    assert max(counts) > 10, "on a busy machine tokens travel together"
    # By a client's clock it is later by the way there and back, and by all that a busy machine adds.
    assert 0 <= min(later_ms) < 100, "the client's clock agrees"


def test_c3_health(lone: Lone) -> None:
    system = lone.system

    def told() -> tuple[object, ...]:
        health = get(system, "/health").json()
        return health["status"], health["model"], health["active_requests"], health["queue_depth"]

    system.wait_until(lambda: told() == ("ok", MODEL, 0, 0), "nothing runs", 20)
    with ThreadPoolExecutor(2) as pool:
        with occupied(system, 2):
            waiting = [pool.submit(post, system, CHAT, chat_body(f"c3 {n}", 2)) for n in range(2)]
            system.wait_until(lambda: told() == ("ok", MODEL, 2, 2), "two run and two wait", 10)
        assert {future.result().status_code for future in waiting} == {200}


def test_c4_metrics(roomy: System) -> None:
    as_json = {"accept": "application/json"}
    before = get(roomy, "/metrics", **as_json).json()
    _, events = stream(roomy, GENERATE, {"prompt": "c4", "max_tokens": 30, "stream": True})
    post(roomy, GENERATE, {"prompt": "c4", "max_tokens": 30})
    assert post(roomy, GENERATE, {"prompt": 4}).status_code == 422
    after = get(roomy, "/metrics", **as_json).json()
    assert set(after) == {
        "request_count",
        "active_requests",
        "queue_depth",
        "total_tokens_generated",
        "error_count",
        "ttft_ms",
        "total_time_ms",
        "tokens_per_second",
    }
    grown = {name: after[name] - before[name] for name in after if isinstance(after[name], int)}
    assert grown["request_count"] == 3
    assert grown["error_count"] == 1
    assert grown["total_tokens_generated"] == 60, "of the stream and of the whole one"
    assert after["active_requests"] == 0
    # What waits is told by the leader's heartbeat.
    roomy.wait_until(
        lambda: get(roomy, "/metrics", **as_json).json()["queue_depth"] == 0, "nothing waits", 10
    )
    for spread in (after["ttft_ms"], after["total_time_ms"]):
        assert set(spread) == {"avg", "p50", "p95", "p99"}
        assert 0 < spread["p50"] <= spread["p95"] <= spread["p99"]
    assert events[-1].data["total_time_ms"] > 0
    assert after["tokens_per_second"] > 0
    assert get(roomy, "/metrics").text.startswith("# HELP"), "and Prometheus gets what it reads"


def test_c5_models(roomy: System) -> None:
    listed = get(roomy, "/models").json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", [MODEL])
    assert listed == get(roomy, "/v1/models").json()


def test_c6_openai_compatible(roomy: System) -> None:
    with client(roomy.url) as official:
        chat = official.chat.completions.create(model=MODEL, messages=user("c6"), max_tokens=4)  # type: ignore[arg-type]
        text = official.completions.create(model=MODEL, prompt="c6", max_tokens=4)
        vectors = official.embeddings.create(model=MODEL, input="c6")
    assert chat.usage is not None
    assert (chat.usage.completion_tokens, text.choices[0].text) == (4, completed("c6", 4))
    assert vectors.data[0].embedding


@pytest.mark.parametrize("how", ["streamed", "whole", "queued"])
def test_c7_cancellation(tight: System, how: str) -> None:
    """A client that leaves frees what it had within a second, whatever it was waiting for."""
    freed_s = []
    for _ in range(TRIES):
        freed_s.append(freed_after_s(tight, how))
        # The heartbeat that tells of it comes every half second.
        if freed_s[-1] < 1 + 0.5 + 0.5:
            break
    assert min(freed_s) < 1 + 0.5 + 0.5


def freed_after_s(tight: System, how: str) -> float:
    """From the moment at which a client leaves until both slots are free and nothing waits."""
    tight.wait_until(lambda: free_slots(tight) == 2, "nothing runs", 10)
    long = {"prompt": "c7", "max_tokens": 3000}
    if how == "streamed":
        with httpx.stream("POST", tight.url + GENERATE, json=long | {"stream": True}) as answer:
            next(answer.iter_lines())
            left_at = time.monotonic()
    elif how == "whole":
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(tight.url + GENERATE, json=long, timeout=0.3)
        left_at = time.monotonic()
    else:
        with occupied(tight, 2), pytest.raises(httpx.ReadTimeout):
            httpx.post(tight.url + GENERATE, json=long, timeout=0.2)
        left_at = time.monotonic()
    idle = {"pending_requests": 0, "processing_requests": 0}
    tight.wait_until(
        lambda: get(tight, "/v1/queue/stats").json().items() >= idle.items() and free_slots(tight) == 2,
        "all is free again",
        10,
    )
    return time.monotonic() - left_at


def test_c8_backpressure(rejecting: System) -> None:
    """It holds for streams: of eight that come to one slot, all but those that find it free are 429."""
    rejecting.wait_until(lambda: free_slots(rejecting) == 1, "it is idle", 10)
    with occupied(rejecting, 1):
        rejecting.wait_until(lambda: free_slots(rejecting) == 0, "it is busy", 10)
        with ThreadPoolExecutor(8) as pool:
            body = {"prompt": "c8", "max_tokens": 5, "stream": True}
            answers = list(pool.map(lambda _: post(rejecting, GENERATE, body).status_code, range(8)))
    assert answers == [429] * 8


def test_c9_command_line(clean_settings: pytest.MonkeyPatch) -> None:
    flags = {
        "--host": "127.0.0.1",
        "--port": "8001",
        "--model": "Qwen/Qwen2.5-1.5B-Instruct",
        "--max-model-len": "1024",
        "--max-num-seqs": "8",
        "--max-concurrent-requests": "16",
        "--dtype": "bfloat16",
        "--quantization": "awq",
    }
    words = [word for flag in flags.items() for word in flag]
    shown = subprocess.run(
        [sys.executable, "-m", "infra.cli", "config", "show", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    given = {
        line.split()[0]: line.split()[1] for line in shown.splitlines() if line.rstrip().endswith("line")
    }
    assert sorted(given.values()) == sorted(flags.values())
    assert given["slots"] == "16"
    words = [sys.executable, "-m", "infra.cli", "up", "--help"]
    helps = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert all(flag in helps for flag in flags)
    for name, value in (
        ("MODEL_NAME", "org/model"),
        ("MAX_MODEL_LEN", "1024"),
        ("MAX_NUM_SEQS", "8"),
        ("DTYPE", "half"),
        ("QUANTIZATION", "awq"),
        ("MAX_CONCURRENT_REQUESTS", "16"),
    ):
        clean_settings.setenv(name, value)
    settings = load_settings()
    assert settings.slots == 16
    arguments = words_of(settings).arguments
    said = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert (said["--model"], said["--max-model-len"], said["--max-num-seqs"]) == ("org/model", "1024", "8")
    assert (said["--dtype"], said["--quantization"]) == ("half", "awq")
