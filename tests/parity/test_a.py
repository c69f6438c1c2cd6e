"""Rows A1 to A14: a gateway with a pool of llama.cpp workers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from bench.system import REPOSITORY, System
from bench.transcript import Transcript, assert_whole, expected
from bench.transcript import stream as stream_chat
from edge.compat.predict import PREDICT
from edge.errors import Problem
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers
from infra.settings import load_settings
from scheduler import events
from schemas import subjects
from schemas.ids import ANONYMOUS, RequestId
from schemas.output import Lease, encode
from tests.parity.asking import CHAT, answered, chat_body, get, occupied, post, scraped, user
from tests.parity.conftest import REQUEST_TIMEOUT_S, Lone
from tests.pictures import data_uri, image_part, padded, picture
from tests.unit.scheduler.world import LIMITS, World, offered, one
from workers.engines.vllm_start import words_of

PREDICT_PATH = "/v1/predict"
BAD = [
    {},
    {"messages": []},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "x"}]}]},
    {"messages": user("x"), "temperature": -0.1},
    {"messages": user("x"), "temperature": 2.1},
    {"messages": user("x"), "top_p": 1.1},
    {"messages": user("x"), "n_predict": 0},
    {"messages": user("x"), "n_predict": 2049},
    {"messages": user("x"), "n_predict": "many"},
    {"messages": user("x"), "request_id": "with space"},
]


def test_a1_predict(roomy: System) -> None:
    body = {"messages": user("hello"), "system_prompt": "be brief", "n_predict": 7, "request_id": "mine-1"}
    answer = post(roomy, PREDICT_PATH, body)
    told = answer.json()
    heard = [{"role": "system", "content": "be brief"}, *user("hello")]
    assert (answer.status_code, told.pop("content")) == (200, answered(heard, 7))
    assert told.pop("tokens_evaluated") > 0
    assert told == {"request_id": "mine-1", "tokens_predicted": 7, "stop": True, "stop_type": "limit"}
    default = PREDICT.read(json.dumps({"messages": user("x")}).encode())
    assert not isinstance(default, Problem)
    sent = json.loads(default.raw)
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.7, 0.9, 128)
    for bad in BAD:
        refused = post(roomy, PREDICT_PATH, bad)
        assert refused.status_code == 422, bad
        assert refused.json()["detail"][0]["msg"], bad
    unknown = post(roomy, PREDICT_PATH, {"messages": user("x"), "model": "no/such"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "model_not_found")
    other = post(roomy, PREDICT_PATH, body | {"n_predict": 8})
    assert other.status_code == 422, "a name stands for one request: nobody takes over another's result"


def test_a2_multimodal(roomy: System) -> None:
    image = padded(picture("PNG", 700, 700), 1_500_000)
    messages = [{"role": "user", "content": [{"type": "text", "text": "what?"}, image_part(data_uri(image))]}]
    answer = post(roomy, PREDICT_PATH, {"messages": messages, "n_predict": 5})
    assert answer.json()["content"] == answered(messages, 5), "the engine saw every byte of it"
    messages[0]["content"][1] = image_part("data:image/png;base64,bm90IGFuIGltYWdl")  # type: ignore[index]
    bad = post(roomy, PREDICT_PATH, {"messages": messages})
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_image")


def test_a3_llamacpp_workers(clean_settings: pytest.MonkeyPatch) -> None:
    """Its flags are settings of ours; a model that is a GGUF file runs on llama.cpp. What that generates:
    tests/llamacpp."""
    flags = "--ctx-size=4096 --threads=4 --mlock=on --parallel=8 --flash-attn=on --n-gpu-layers=35 --tensor-split=1,1"
    words = ["config", "show", *flags.split(), "--mmproj=sees.gguf", "--model=gemma.gguf"]
    shown = subprocess.run(
        [sys.executable, "-m", "infra.cli", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    taken = [line.split()[0] for line in shown.splitlines() if line.rstrip().endswith("command line")]
    assert sorted(taken) == sorted(
        [
            "ctx_size",
            "flash_attn",
            "mlock",
            "mmproj",
            "model",
            "n_gpu_layers",
            "parallel",
            "tensor_split",
            "threads",
        ]
    )


def test_a4_gpu(clean_settings: pytest.MonkeyPatch) -> None:
    """The settings reach the engines: vLLM's words here, llama.cpp's parameters in tests/llamacpp/test_params.py."""
    clean_settings.setenv("GPU_LAYERS", "35")
    clean_settings.setenv("GPU_SPLIT", "0.45")
    settings = load_settings({"engine": "llamacpp", "model": "m.gguf"})
    assert (settings.n_gpu_layers, settings.tensor_split) == (35, "0.45")
    words = words_of(load_settings({"gpu_memory_utilization": 0.45, "tensor_parallel_size": 2})).arguments
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.45"
    assert words[words.index("--tensor-parallel-size") + 1] == "2"


def test_a5_batches_leave_when_full_or_old() -> None:
    world = World(replace(LIMITS, batch_window_s=0.5, batch_size_max=4))
    world.lead("m")
    world.pull("w1", free=8)
    for number in range(3):
        assert not offered(world.deliver(number))
    full = world.deliver(3)
    assert offered(full) == [("w1", [0, 1, 2, 3])], "full: at once"
    world.answer(one(events.Offer, full), "accepted")
    world.pull("w1", free=4, work_seq=1)
    world.deliver(4)
    world.wait(0.4)
    world.deliver(5)
    assert offered(world.wait(0.099)) == []
    assert offered(world.wait(0.002)) == [("w1", [4, 5])], "the first one of them has waited long enough"


def test_a6_each_caller_gets_its_own_answer(roomy: System) -> None:
    """One whose engine fails takes none of those along that share a batch with it."""

    def ask(number: int) -> httpx.Response:
        fault = {"penstock_fault": {"raise_at_token": 3}} if number == 5 else {}
        return post(roomy, CHAT, chat_body(f"caller {number}", 20, **fault))

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    assert answers.pop(5).status_code == 502
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [expected(f"caller {number}", 20) for number in range(12) if number != 5]


def test_a7_one_holder(roomy: System) -> None:
    """A lease is a compare-and-set at the broker: of two that want one request, one gets it."""

    async def compete() -> list[bool]:
        bus = await Bus.connect(roomy.nats_url, name="test", fail=print)
        js, subject = JetStream(bus), subjects.output_ctl(ANONYMOUS, RequestId("a7" * 13))
        acks = await asyncio.gather(
            *(
                js.publish(subject, encode(Lease(f"n{n}", f"w{n}", 1, "first")), headers=expect_headers(0))
                for n in range(8)
            )
        )
        await bus.close()
        return [ack.stored for ack in acks]

    assert sorted(asyncio.run(compete())) == [False] * 7 + [True]


def workers_of(lone: Lone) -> int:
    return int(get(lone.system, "/health").json()["workers"]["total"])


def test_a8_discovery(lone: Lone) -> None:
    """A worker that stops in order, and one that is killed, is gone at once; a new one is there without a restart of
    anything."""
    for kill in (False, True):
        lone.system.wait_until(lambda: workers_of(lone) == 1, "the worker is known")
        lone.end_worker(kill=kill)
        lone.system.wait_until(lambda: workers_of(lone) == 0, "it is known to be gone", within_s=8)
        lone.start_worker()
    lone.system.wait_until(lambda: workers_of(lone) == 1, "the new one is known")


def test_a9_queue_stats(tight: System) -> None:
    busy = {
        "pending_requests": 3,
        "processing_requests": 2,
        "idle_workers": 0,
        "busy_workers": 2,
        "total_workers": 2,
    }
    idle = {name: 2 if name in ("idle_workers", "total_workers") else 0 for name in busy}
    stats: list[dict[str, Any]] = []

    def is_told(truth: dict[str, int]) -> bool:
        stats.append(get(tight, "/v1/queue/stats").json())
        return stats[-1] == truth

    tight.wait_until(lambda: is_told(idle), "nothing runs")
    with ThreadPoolExecutor(3) as pool:
        with occupied(tight, 2):
            waiting = [pool.submit(post, tight, CHAT, chat_body(f"a9 {n}", 1)) for n in range(3)]
            tight.wait_until(lambda: is_told(busy), f"two run and three wait: {stats[-3:]}", within_s=20)
            samples = scraped(get(tight, "/metrics").text)
        assert (samples["penstock_queue_depth"], samples["penstock_running_requests"]) == (3, 2)
        assert (samples['penstock_workers{state="busy"}'], samples['penstock_workers{state="idle"}']) == (
            2,
            0,
        )
        assert samples['penstock_slots{model="penstock-sim"}'] == 2
        assert {future.result().status_code for future in waiting} == {200}


def test_a10_health(lone: Lone) -> None:
    lone.system.wait_until(lambda: get(lone.system, "/health").status_code == 200, "it is well")
    well = get(lone.system, "/health").json()
    assert (well["status"], well["workers"]) == ("ok", {"idle": 1, "busy": 0, "total": 1})
    lone.end_worker(kill=True)
    lone.system.wait_until(
        lambda: get(lone.system, "/health").status_code == 503, "the end of it is known", 8
    )
    assert get(lone.system, "/health").json()["detail"] == "no_workers"
    lone.start_worker()
    lone.system.wait_until(lambda: get(lone.system, "/health").status_code == 200, "it is well again")


def test_a11_result(tight: System) -> None:
    body = {"messages": user("later"), "n_predict": 500, "request_id": "come-back"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(tight.url + PREDICT_PATH, json=body, timeout=1)
    pending = get(tight, "/v1/result/come-back")
    assert (pending.status_code, pending.json()) == (202, {"request_id": "come-back", "status": "pending"})
    tight.wait_until(lambda: get(tight, "/v1/result/come-back").status_code == 200, "the result is there", 10)
    result = get(tight, "/v1/result/come-back")
    assert result.json()["content"] == answered(user("later"), 500)
    rid = post(tight, PREDICT_PATH, body).headers["x-request-id"]
    assert get(tight, f"/v1/result/{rid}").content == result.content, "its own id finds it, too"
    assert get(tight, "/v1/result/never").status_code == 404
    tight.wait_until(
        lambda: get(tight, "/v1/result/come-back").status_code == 404, "it is kept for its time", 30
    )


def test_a12_deadline(tight: System) -> None:
    begun = time.monotonic()
    late = post(tight, PREDICT_PATH, {"messages": user("late"), "n_predict": 2048, "request_id": "late"})
    assert (late.status_code, late.json()["code"]) == (408, "request_timeout")
    assert REQUEST_TIMEOUT_S <= time.monotonic() - begun < REQUEST_TIMEOUT_S + 4
    assert get(tight, "/v1/result/late").status_code in (408, 404), "an error is no result"
    tight.wait_until(
        lambda: get(tight, "/v1/queue/stats").json()["idle_workers"] == 2, "expired work does not run", 10
    )


def test_a13_retries_and_dead_letters(roomy: System) -> None:
    """What an engine fails at is tried again at once, a few times, and then kept for a look."""
    begun = time.monotonic()
    poison = post(roomy, CHAT, chat_body("a13", 10, penstock_fault={"raise_at_token": 2}))
    assert (poison.status_code, poison.json()["error"]["code"]) == (502, "poison")
    assert time.monotonic() - begun < 30
    listed = subprocess.run(
        [sys.executable, "-m", "infra.cli", "dead", "list", "--json", "--store", str(roomy.store)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert poison.json()["error"]["request_id"] in listed


def test_a14_any_edge_serves_any_request(pair: System) -> None:
    """An edge is killed under load: the others' streams are whole, and what it was asked is asked again elsewhere."""
    rids: dict[str, int] = {}

    def ask(number: int) -> Transcript | openai.APIError:
        try:
            return stream_chat(pair.url, f"a14 {number}", 120, lambda rid, pieces: rids.update({rid: pieces}))
        except openai.APIError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(4)]
        pair.wait_until(lambda: len(rids) >= 2, "streams flow")
        killed = pair.processes("edge")[0]
        pair.kill(killed)
        results = [future.result() for future in asked]
    for number, result in enumerate(results):
        if isinstance(result, openai.APIError):
            assert_whole(again(pair, f"a14 {number}", 120), f"a14 {number}", 120)
        else:
            assert_whole(result, f"a14 {number}", 120)
    pair.wait_replaced(killed)


def again(system: System, prompt: str, tokens: int) -> Transcript:
    """A retry, while the killed edge's own requests may still fill the queue."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return stream_chat(system.url, prompt, tokens)
        except (openai.RateLimitError, openai.APIConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.1)
