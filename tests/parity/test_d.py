"""Rows D1 to D16: a serving platform with a queue, micro-batches and token events."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import nats
import pytest
from nats.js.api import ConsumerInfo, StreamConfig

from bench.roles import paused
from bench.system import System
from bench.transcript import assert_whole
from bench.transcript import stream as stream_chat
from edge.compat.styles import EVENT_ERRORS
from edge.compat.v1_generate import EVENTS
from edge.errors import Problem
from edge.recent import Recent, Took
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.settings import load_settings
from schemas.errors import ERRORS
from schemas.requests import RequestMeta
from schemas.streams import REQUESTS
from tests.parity.asking import completed, events_of, get, post, scraped, stream
from tests.parity.conftest import StartShared
from tests.unit.scheduler.world import LIMITS, World, offered
from workers.engines.registry import ENGINES

GENERATE = "/v1/generate"
MODEL_LABEL = '{model="penstock-sim"}'


def asking(prompt: str, tokens: int, **fields: object) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": tokens, "stream": True, **fields}


def assert_in_order(events: list[Any], prompt: str, tokens: int, rid: str) -> None:
    """The grammar: `token` events numbered without gap or repeat, then `done`, and the text is the reference."""
    *pieces, done = events
    assert [event.name for event in events] == ["token"] * len(pieces) + ["done"]
    assert [piece.data["index"] for piece in pieces] == list(range(len(pieces)))
    assert "".join(piece.data["token"] for piece in pieces) == completed(prompt, tokens)
    assert done.data == {"request_id": rid, "generated_tokens": tokens, "finish_reason": "length"}
    assert {event.data["request_id"] for event in events} == {rid}


def test_d1_generate(roomy: System) -> None:
    answer = post(roomy, GENERATE, {"prompt": "d1", "max_tokens": 9})
    rid = answer.headers["x-request-id"]
    assert answer.status_code == 200
    assert answer.json() == {
        "request_id": rid,
        "model": "penstock-sim",
        "text": completed("d1", 9),
        "generated_tokens": 9,
    }
    default = EVENTS.read(b'{"prompt":"x"}')
    assert not isinstance(default, Problem)
    assert json.loads(default.raw) == {"prompt": "x", "max_tokens": 64, "temperature": 0.7, "stream": False}
    assert post(roomy, GENERATE, {"prompt": "x", "max_tokens": 1, "model": "mock-v1"}).status_code == 200
    for bad in (
        {},
        {"prompt": ""},
        {"prompt": "x" * 8001},
        {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "max_tokens": 513},
        {"prompt": "x", "temperature": 2.01},
        {"prompt": "x", "unknown": 1},
        {"prompt": "x", "stream": "yes"},
    ):
        refused = post(roomy, GENERATE, bad)
        assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_PAYLOAD"), bad
    assert post(roomy, GENERATE, {"prompt": "x" * 8000, "max_tokens": 512}).status_code == 200


def test_d2_events(roomy: System) -> None:
    """The grammar holds for one stream from its first token to its last, also if its worker is killed in between."""
    for kill in (False, True):
        events = []
        with httpx.stream("POST", roomy.url + GENERATE, json=asking("d2", 200), timeout=60) as answer:
            rid = answer.headers["x-request-id"]
            for event in events_of(answer):
                events.append(event)
                if kill and len(events) == 20:
                    victims = roomy.processes("worker")
                    roomy.kill(victims[0])
        assert_in_order(events, "d2", 200, rid)
    roomy.wait_replaced(victims[0])
    roomy.wait_until(lambda: get(roomy, "/health").json()["workers"]["total"] == 2, "both workers are back")
    fault = asking("d2", 5)
    with httpx.stream("POST", roomy.url + GENERATE, json=fault | {"model": "no/such"}) as refused:
        assert refused.status_code == 404, "an error before the first token is no stream"
    shape = EVENTS.shape("r", "m", 0, include_usage=False)
    [error] = list(events_of(Lines(shape.failing(Problem("request_timeout", "late"), "r"))))  # type: ignore[arg-type]
    assert error.name == "error"
    assert error.data == {"request_id": "r", "code": "INFERENCE_TIMEOUT", "message": "late"}


class Lines:
    """Bytes of a stream, read as an answer is."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def iter_lines(self) -> Iterator[str]:
        yield from self._data.decode().splitlines()


@pytest.fixture(scope="module")
def doomed(start_shared: StartShared) -> System:
    """What is hurt here is nobody else's."""
    return start_shared(itl_ms=10, ttft_ms=5, publish_timeout_s=20)


def test_d3_healthz(doomed: System) -> None:
    assert get(doomed, "/healthz").status_code == 200
    [broker] = doomed.processes("broker")
    said: list[dict[str, Any]] = []

    def is_down() -> bool:
        answer = get(doomed, "/healthz")
        said.append(answer.json())
        return answer.status_code == 503

    with paused(doomed.pid):  # the broker stays away until it was looked at
        doomed.kill(broker)
        doomed.wait_until(is_down, "the edge notices", 10)
    assert said[-1]["code"] == "UNHEALTHY"
    doomed.wait_until(lambda: get(doomed, "/healthz").status_code == 200, "the broker is back", 30)


def test_d4_metrics_of_gateway_and_worker(roomy: System, worker_metrics_port: int) -> None:
    post(roomy, GENERATE, {"prompt": "d4", "max_tokens": 2})
    assert scraped(get(roomy, "/metrics").text)[f"penstock_output_tokens_total{MODEL_LABEL}"] > 0
    for number in range(2):
        page = httpx.get(f"http://127.0.0.1:{worker_metrics_port + number}/metrics")
        assert "penstock_worker_batch_size_count" in scraped(page.text)


def test_d5_api_key(guarded: System) -> None:
    body = {"prompt": "d5", "max_tokens": 2}
    for headers in ({}, {"x_api_key": "wrong"}, {"authorization": "Bearer wrong"}):
        refused = post(guarded, GENERATE, body, **headers)
        assert (refused.status_code, refused.json().get("code")) == (401, "UNAUTHORIZED")
    for headers in ({"x_api_key": "key-one-0123456789"}, {"authorization": "Bearer key-one-0123456789"}):
        assert post(guarded, GENERATE, body, **headers).status_code == 200
    assert get(guarded, "/healthz").status_code == 200, "who watches needs none"
    assert "key-one" not in guarded.log_path.read_text()


def test_d6_rate_limit(guarded: System) -> None:
    """Twelve in a minute, over both edges together; who cannot be counted in time on a busy machine is let in."""
    body = {"prompt": "d6", "max_tokens": 1}

    def uncounted() -> float:
        page = scraped(get(guarded, "/metrics").text)
        return sum(value for name, value in page.items() if name.startswith("penstock_rates_unknown_total"))

    while 60 - time.time() % 60 < 20:  # the next minute's twelve are others
        time.sleep(0.1)
    before = uncounted()
    with ThreadPoolExecutor(8) as pool:
        key = "key-two-0123456789"
        answers = list(pool.map(lambda _: post(guarded, GENERATE, body, x_api_key=key), range(40)))
    counts = Counter(answer.status_code for answer in answers)
    assert counts[200] + counts[429] == 40
    assert counts[200] >= 12
    guarded.wait_until(lambda: uncounted() - before >= counts[200] - 12, "nobody else is let in", 10)
    for refused in answers:
        if refused.status_code == 429:
            assert refused.json()["code"] == "RATE_LIMITED"
            assert int(refused.headers["retry-after"]) >= 1


def test_d7_overload(pair: System) -> None:
    """The bound is the broker's own: however many come at two edges at once, it is never passed."""
    deepest = 0
    over = threading.Event()

    async def watch() -> int:
        bus = await Bus.connect(pair.nats_url, name="test", fail=print)
        js, most = JetStream(bus), 0
        while not over.is_set():
            most = max(most, await js.queue_depth(REQUESTS))
        await bus.close()
        return most

    # Places may still be kept for those who were refused before and were told when to come back.
    first = asking("d7 first", 1, stream=False)
    pair.wait_until(lambda: post(pair, GENERATE, first).status_code == 200, "newcomers are taken", 30)
    with ThreadPoolExecutor(65) as pool:
        watching = pool.submit(lambda: asyncio.run(watch()))
        answers = list(
            pool.map(lambda n: post(pair, GENERATE, asking(f"d7 {n}", 40, stream=False)), range(64))
        )
        over.set()
        deepest = watching.result()
    counts = Counter(answer.status_code for answer in answers)
    assert counts[200]
    assert counts[200] + counts[429] == 64
    assert {answer.json()["code"] for answer in answers if answer.status_code == 429} == {"OVERLOADED"}
    assert 0 < deepest <= 6


def test_d8_queue(roomy: System) -> None:
    """A work queue on disk with explicit acks: what was read is there until it is done."""

    async def ask() -> tuple[StreamConfig, list[ConsumerInfo]]:
        client = await nats.connect(roomy.nats_url)
        js = client.jetstream()
        info, consumers = await js.stream_info(REQUESTS), await js.consumers_info(REQUESTS)
        await client.close()
        return info.config, consumers

    config, consumers = asyncio.run(ask())
    assert (config.retention, config.storage, config.discard) == ("workqueue", "file", "new")
    assert consumers
    assert {(one.config.ack_policy, one.config.max_deliver) for one in consumers} == {("explicit", -1)}


def test_d9_response_channel(roomy: System) -> None:
    """Each request has a subject of its own, listened to before the request is published: no token is ever missing."""

    def ask(number: int) -> None:
        answer, events = stream(roomy, GENERATE, asking(f"d9 {number}", 30))
        assert_in_order(events, f"d9 {number}", 30, answer.headers["x-request-id"])

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(ask, range(60)))


def test_d10_micro_batches() -> None:
    """By model and size, within a window; a full one goes at once, and a lone request waits no longer than that."""
    settings = load_settings({"batch_window_ms": 20, "batch_size_max": 16})
    world = World(replace(LIMITS, batch_window_s=settings.batch_window_ms / 1e3, batch_size_max=3))
    world.lead("m")
    world.pull("w1", free=8)
    world.deliver(1, meta=RequestMeta(max_tokens=64))
    world.deliver(2, meta=RequestMeta(max_tokens=500))
    assert not offered(world.deliver(3, meta=RequestMeta(max_tokens=64)))
    assert sorted(offered(world.wait(0.02))) == [("w1", [1, 3]), ("w1", [2])], "one key, one batch"
    assert offered(world.deliver(4)) == []
    assert offered(world.wait(0.02)) == [("w1", [4])], "alone: after the window"


def test_d11_backends() -> None:
    """One protocol, several engines; the one that needs nothing is what runs where no model is named. What all of them
    must do is tests/vllm, tests/llamacpp and tests/integration/test_upstream_worker.py."""
    assert set(ENGINES) == {"simulator", "vllm", "llamacpp", "openai"}
    engine = ENGINES["simulator"](load_settings({"itl_ms": 20}))
    assert all(hasattr(engine, name) for name in ("start", "submit", "cancel", "load", "wait", "stop"))


def test_d12_timeouts_and_retries(doomed: System, tight: System) -> None:
    """A broker that is gone for a while costs no client its answer; what takes too long is 504, or an error event."""
    flowing: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(stream_chat, doomed.url, "d12", 150, lambda rid, _: flowing.append(rid))
        doomed.wait_until(lambda: flowing, "the stream flows")
        [broker] = doomed.processes("broker")
        doomed.kill(broker)
        meanwhile = pool.submit(post, doomed, GENERATE, asking("d12 meanwhile", 5, stream=False))
        assert_whole(asked.result(), "d12", 150)
        assert meanwhile.result().json()["text"] == completed("d12 meanwhile", 5)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(
            post, tight, GENERATE, asking("late", 512, stream=False), x_penstock_deadline="0.5"
        )
        _, events = stream_until(tight, asking("late", 512))
        late = whole.result()
    assert (late.status_code, late.json()["code"]) == (504, "INFERENCE_TIMEOUT")
    assert (events[-1].name, events[-1].data["code"]) == ("error", "INFERENCE_TIMEOUT")


def stream_until(system: System, body: dict[str, Any]) -> tuple[httpx.Response, list[Any]]:
    """A stream that has a second and a half: it begins by then on a machine that pauses, too, and takes longer."""
    headers = {"x-penstock-deadline": "1.5"}
    with httpx.stream("POST", system.url + GENERATE, json=body, headers=headers, timeout=60) as answer:
        return answer, list(events_of(answer))


def test_d13_error_codes(roomy: System) -> None:
    shown = {
        reason: (EVENT_ERRORS.code(Problem(reason, "")), EVENT_ERRORS.status(Problem(reason, "")))
        for reason in ERRORS
    }
    table = {
        "invalid_api_key": ("UNAUTHORIZED", 401),
        "rate_limited": ("RATE_LIMITED", 429),
        "queue_full": ("OVERLOADED", 429),
        "no_slot": ("OVERLOADED", 429),
        "engine_error": ("WORKER_ERROR", 502),
        "request_timeout": ("INFERENCE_TIMEOUT", 504),
        "queue_timeout": ("INFERENCE_TIMEOUT", 504),
        "internal": ("INTERNAL_ERROR", 500),
        "no_workers": ("UNHEALTHY", 503),
        "broker_away": ("UNHEALTHY", 503),
        "bad_request": ("INVALID_PAYLOAD", 422),
    }
    assert {reason: shown[reason] for reason in table} == table
    assert all(status >= 400 for _, status in shown.values()), "an error is never a 200"
    failures = 'penstock_failures_total{model="unknown"}{reason="bad_request"}'
    requests = 'penstock_requests_total{code="422"}{model="unknown"}'
    before = scraped(get(roomy, "/metrics").text)
    assert post(roomy, GENERATE, {"prompt": ""}).status_code == 422
    after = scraped(get(roomy, "/metrics").text)
    for name in (failures, requests):
        assert after[name] - before.get(name, 0) == 1, "each is counted as what it was"


def test_d14_graceful_shutdown(doomed: System) -> None:
    """SIGTERM under load: no request fails. Nobody needs this system after it."""
    flowing: dict[str, int] = {}
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(stream_chat, doomed.url, f"d14 {n}", 150, lambda rid, n: flowing.update({rid: n}))
            for n in range(8)
        ]
        doomed.wait_until(lambda: len(flowing) == 8, "all streams flow")
        assert doomed.stop() == 0
        for number, future in enumerate(asked):
            assert_whole(future.result(), f"d14 {number}", 150)


def test_d15_json_logs(roomy: System) -> None:
    rid = post(roomy, GENERATE, {"prompt": "d15", "max_tokens": 2}).headers["x-request-id"]
    lines: list[dict[str, Any]] = []

    def is_logged() -> bool:
        text = roomy.log_path.read_text()
        lines[:] = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return any(line.get("rid") == rid for line in lines)

    roomy.wait_until(is_logged, "the request has a line", 5)
    assert all({"timestamp", "level", "role", "logger", "event"} <= set(line) for line in lines)
    [line] = [line for line in lines if line.get("rid") == rid]
    assert (line["outcome"], line["model"]) == ("answered", "penstock-sim")


def test_d16_gateway_metrics(roomy: System) -> None:
    """Its names are in docs/reference_systems.md, each beside ours; the percentiles are exact for what they are of."""
    samples = scraped(get(roomy, "/metrics").text)
    for quantile in ("0.5", "0.95", "0.99"):
        assert samples[f'penstock_request_duration_quantile_seconds{{quantile="{quantile}"}}'] > 0
    recent, values = Recent(), []
    for number in range(1, 3001):
        total_s = 0.05 + (number * 7919 % 3000) / 1000
        values.append(total_s)
        recent.began()
        recent.ended(Took(time.monotonic(), 1, None, total_s), failed=False)
    cuts = statistics.quantiles(values, n=100)
    spread = recent.total_s()
    for found, right in ((spread.p50, cuts[49]), (spread.p95, cuts[94]), (spread.p99, cuts[98])):
        assert found == pytest.approx(right, rel=0.05)
