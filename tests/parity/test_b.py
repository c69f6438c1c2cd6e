"""Rows B1 to B15: a gateway before vLLM with a bounded queue."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import openai
import pytest

from bench.system import System
from bench.transcript import MODEL, client, expected
from infra.settings import SettingsError, explain, load_settings
from schemas.errors import ERRORS
from schemas.output import End, Lease
from tests.acceptance.tap import output_records
from tests.parity.asking import CHAT, chat_body, free_slots, get, occupied, post, scraped, stream, user
from tests.parity.conftest import QUEUE_TIMEOUT_S, REQUEST_TIMEOUT_S, TRIES, Lone

CODES = {200, 429}


def test_b1_chat_completions(roomy: System) -> None:
    asked = {"model": MODEL, "messages": user("b1"), "max_tokens": 60}
    with client(roomy.url) as official:
        whole = official.chat.completions.create(**asked)  # type: ignore[call-overload]
        assert whole.choices[0].message.content == expected("b1", 60)
        took_s = []
        for _ in range(TRIES):
            at, pieces = [], []
            for chunk in official.chat.completions.create(**asked, stream=True):  # type: ignore[call-overload]
                if chunk.choices and chunk.choices[0].delta.content:
                    at.append(time.monotonic())
                    pieces.append(chunk.choices[0].delta.content)
            assert "".join(pieces) == expected("b1", 60)
            took_s.append(at[-1] - at[0])
    assert max(took_s) > 0.1, "60 tokens of 5 ms: the first has left long before the last is made"
    unnamed = post(roomy, CHAT, {"messages": user("b1"), "max_tokens": 3}).json()
    assert unnamed["model"] == MODEL, "the model that is there is the default"


def test_b2_models(roomy: System) -> None:
    with client(roomy.url) as official:
        assert [model.id for model in official.models.list()] == [MODEL]


def test_b3_health(lone: Lone) -> None:
    """The engine is there and has a model: ok. It has gone: 503. Before the first has loaded: `starting`, in
    tests/unit/edge/test_registry.py."""
    system = lone.system
    system.wait_until(lambda: get(system, "/health").status_code == 200, "the engine is there")
    assert get(system, "/health").json()["models"][0]["id"] == MODEL
    lone.end_worker(kill=True)
    system.wait_until(lambda: get(system, "/health").status_code == 503, "it has gone", 8)
    assert get(system, "/health").json()["status"] == "down"
    lone.start_worker()
    system.wait_until(lambda: get(system, "/health").json()["status"] == "ok", "it is back")


def test_b4_no_engine(lone: Lone) -> None:
    lone.end_worker(kill=False)
    lone.system.wait_until(lambda: get(lone.system, "/health").status_code == 503, "it has gone", 8)
    took_s = []
    for _ in range(TRIES):
        begun = time.monotonic()
        refused = post(lone.system, CHAT, chat_body("b4", 5))
        took_s.append(time.monotonic() - begun)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_workers")
        assert int(refused.headers["retry-after"]) >= 1
    assert min(took_s) < 1, "it does not hang"
    lone.start_worker()
    lone.system.wait_until(lambda: get(lone.system, "/health").status_code == 200, "it is back")


def test_b5_metrics_on_gateway_and_engine(roomy: System, worker_metrics_port: int) -> None:
    post(roomy, CHAT, chat_body("b5", 5))
    assert scraped(get(roomy, "/metrics").text)['penstock_output_tokens_total{model="penstock-sim"}'] >= 5
    pages = [httpx.get(f"http://127.0.0.1:{worker_metrics_port + n}/metrics").text for n in range(2)]
    assert sum(scraped(page)["penstock_worker_tokens_total"] for page in pages) >= 5


def running_at_once(system: System) -> int:
    """The most requests that were between their lease and their END, in the order of the log."""
    running: set[str] = set()
    most = 0
    for record in output_records(system.nats_url):
        told = json.loads(record.payload)
        if told.get("t") == "lease":
            running.add(record.subject)
        elif told.get("t") == "end":
            running.discard(record.subject)
        most = max(most, len(running))
    return most


def test_b6_max_active(tight: System) -> None:
    """MAX_ACTIVE is 1 on each of two workers; ten times as many come."""
    assert (Lease.__struct_config__.tag, End.__struct_config__.tag) == ("lease", "end")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: post(tight, CHAT, chat_body(f"b6 {n}", 8)).status_code, range(20)))
    assert tight.log_path.read_text().count("takes MAX_ACTIVE as slots") == 1, "`up` says so, once"
    # Who could not be taken in time may be told so at once.
    assert set(answers) <= {200, 503}
    assert answers.count(200) >= 4
    assert running_at_once(tight) == 2


def overload(system: System, offered: int) -> tuple[Counter[int], int]:
    """How many were answered how, and the deepest the queue was seen; what was accepted is whole."""

    def ask(number: int) -> int:
        answer = post(system, CHAT, chat_body(f"over {number}", 40))
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["message"]["content"] == expected(f"over {number}", 40)
        else:
            assert (answer.json()["error"]["code"], int(answer.headers["retry-after"]) > 0) == (
                "queue_full",
                True,
            )
        return answer.status_code

    deepest = 0
    with ThreadPoolExecutor(offered) as pool:
        asked: list[Future[int]] = [pool.submit(ask, number) for number in range(offered)]
        while not all(future.done() for future in asked):
            stats = get(system, "/v1/queue/stats").json()
            deepest = max(deepest, stats["pending_requests"] + stats["processing_requests"])
    return Counter(future.result() for future in asked), deepest


def test_b7_queue_mode_queue(pair: System) -> None:
    """It is the default; what finds no free slot waits and is run."""
    assert load_settings().queue_mode == "queue"
    pair.wait_until(lambda: free_slots(pair) == 2, "nothing runs", 10)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: post(pair, CHAT, chat_body(f"b7 {n}", 40)).status_code, range(6)))
    assert answers == [200] * 6


def test_b8_queue_mode_reject(rejecting: System) -> None:
    """An idle system accepts; a busy one says 429, and at once."""
    rejecting.wait_until(lambda: free_slots(rejecting) == 1, "it is idle")
    assert post(rejecting, CHAT, chat_body("b8", 3)).status_code == 200
    rejecting.wait_until(lambda: free_slots(rejecting) == 1, "it is idle again")
    took_s = []
    with occupied(rejecting, 1), httpx.Client(base_url=rejecting.url, timeout=60) as http:
        rejecting.wait_until(lambda: free_slots(rejecting) == 0, "it is busy", 10)
        for _ in range(5):
            begun = time.monotonic()
            refused = http.post(CHAT, json=chat_body("b8", 3))
            took_s.append(time.monotonic() - begun)
            assert (refused.status_code, refused.json().get("error", {}).get("code")) == (429, "no_slot")
            assert int(refused.headers["retry-after"]) >= 1
    assert min(took_s) < 0.05


def test_b9_queue_max(pair: System) -> None:
    """The queue holds six, waiting and running together: no more is ever seen, and each that comes is told."""
    counts, deepest = overload(pair, 60)
    assert set(counts) == CODES
    assert counts.total() == 60
    assert deepest <= 6


def test_b10_queue_timeout(tight: System) -> None:
    for _ in range(TRIES):
        tight.wait_until(lambda: free_slots(tight) == 2, "nothing runs", 10)
        with occupied(tight, 2):
            begun = time.monotonic()
            late = post(tight, CHAT, chat_body("b10 late", 1))
            waited_s = time.monotonic() - begun
        assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
        assert int(late.headers["retry-after"]) >= 1
        assert waited_s > QUEUE_TIMEOUT_S - 0.3
        if waited_s < QUEUE_TIMEOUT_S + 0.3 + 0.5:
            break
    assert waited_s < QUEUE_TIMEOUT_S + 0.3 + 0.5, "a broker's and a leader's steps beside the tenth"
    rid = late.json()["error"]["request_id"]
    assert get(tight, f"/v1/requests/{rid}").json()["attempts"] == 0, "nobody ran it, then or later"


def test_b11_retry_after(tight: System) -> None:
    """Every row of 429 and 503 has it, and what is answered shows it."""
    assert all(row.retry_after for row in ERRORS.values() if row.status in (429, 503))
    tight.wait_until(lambda: free_slots(tight) == 2, "nothing runs", 10)
    with occupied(tight, 2):
        late = post(tight, CHAT, chat_body("b11", 1), x_penstock_deadline="0.5")
    assert late.status_code == 503
    assert int(late.headers["retry-after-ms"]) > 0


def test_b12_request_timeout(tight: System) -> None:
    begun = time.monotonic()
    slow = post(tight, CHAT, chat_body("b12", 3000))
    assert (slow.status_code, slow.json()["error"]["code"]) == (504, "request_timeout")
    assert REQUEST_TIMEOUT_S - 0.4 < time.monotonic() - begun < REQUEST_TIMEOUT_S + 2
    tight.wait_until(lambda: free_slots(tight) == 2, "its slot is free", 5)


def test_b13_configuration(clean_settings: pytest.MonkeyPatch) -> None:
    clean_settings.setenv("VLLM_BASE_URL", "http://vllm:8000")
    clean_settings.setenv("MODEL_NAME", "Qwen/Qwen2.5-14B-Instruct-AWQ")
    clean_settings.setenv("MAX_ACTIVE", "2")
    settings = load_settings()
    assert (settings.upstream, settings.model, settings.slots) == (
        "http://vllm:8000/v1",
        "Qwen/Qwen2.5-14B-Instruct-AWQ",
        2,
    )
    sources = {line.name: line.source for line in explain()}
    assert (sources["upstream"], sources["model"], sources["slots"]) == (
        "VLLM_BASE_URL",
        "MODEL_NAME",
        "MAX_ACTIVE",
    )
    clean_settings.setenv("MAX_ACTIVE", "many")
    with pytest.raises(SettingsError, match="MAX_ACTIVE='many'"):
        load_settings()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_b14_final_frame(roomy: System, path: str) -> None:
    asked = {"prompt": "b14"} if path != CHAT else {"messages": user("b14")}
    body = {"model": MODEL, "max_tokens": 80, "stream": True, "stream_options": {"include_usage": True}}
    begun = time.monotonic()
    _, events = stream(roomy, path, body | asked)
    took_ms = (time.monotonic() - begun) * 1e3
    last = events[-1].data
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 80)
    stats = last["stats"]
    assert stats["completion_tokens"] == 80, "exact"
    assert 80 * 5 * 0.9 < stats["total_ms"] <= took_ms
    assert 0 < stats["first_token_ms"] < stats["total_ms"]
    assert stats["tokens_per_second"] == pytest.approx(80 / stats["total_ms"] * 1e3, rel=1e-3)
    assert "stats" not in stream(roomy, path, {**body, **asked, "stream_options": {}})[1][-1].data
    try:
        with client(roomy.url) as official:
            list(official.chat.completions.create(**(body | {"messages": user("b14")})))  # type: ignore[call-overload]
    except openai.APIError as error:
        raise AssertionError("the official client reads it, too") from error


def test_b15_ttft_and_throughput(roomy: System) -> None:
    """What the metrics say of one stream is what its client sees."""
    ttft, rate = "penstock_time_to_first_token_seconds", "penstock_output_tokens_total"
    count, total = f"{ttft}_count", f"{ttft}_sum"
    label = '{model="penstock-sim"}'
    later_s = []
    with httpx.Client(base_url=roomy.url) as http:
        for _ in range(5):
            before = scraped(get(roomy, "/metrics").text)
            begun, first = time.monotonic(), 0.0
            with http.stream("POST", CHAT, json=chat_body("b15", 50, stream=True)) as answer:
                for line in answer.iter_lines():
                    if '"content":"' in line and "assistant" not in line:
                        first = first or time.monotonic() - begun
            after = scraped(get(roomy, "/metrics").text)
            grown = {
                name: after[name + label] - before.get(name + label, 0.0) for name in (count, total, rate)
            }
            assert (grown[count], grown[rate]) == (1, 50)
            later_s.append(first - grown[total])
    # By a client's clock it is later by the way there and back, and by all that a busy machine adds.
    assert 0 <= min(later_s) < 0.1
