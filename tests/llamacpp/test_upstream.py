"""Penstock in front of llama.cpp's own HTTP server: the same answers, with workers that die and clients that leave."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from bench.system import System
from infra.ports import free_port
from schemas.requests import RequestMeta
from workers.engines.base import EngineEvent, EngineFinished, EngineRequest
from workers.engines.upstream import OpenAIEngine, OpenAIOptions

SERVE = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_parallel = int(sys.argv[3])
params.n_ctx, params.n_gpu_layers = 8192 * params.n_parallel, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.embedding = sys.argv[4] == "embeds"
server = xllamacpp.Server(params)
threading.Event().wait()
"""
START_S = 60.0
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Tell me about rivers"}]}
LONG = ASK | {"max_tokens": 6000, "extra_body": {"ignore_eos": True}}


class LlamaServer:
    """The server in a process of its own."""

    def __init__(self, model: Path, log: Path, *, parallel: int, embeds: bool = False) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        kind = "embeds" if embeds else "speaks"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(model), str(port), str(parallel), kind],
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + START_S
        while not self._serves():
            assert self._process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()

    def _serves(self) -> bool:
        try:
            return httpx.get(self.url.removesuffix("/v1") + "/health").is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    server = LlamaServer(model, tmp_path_factory.mktemp("server") / "log", parallel=4)
    yield server
    server.close()


@pytest.fixture(scope="module")
def system(server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    store = tmp_path_factory.mktemp("store")
    system = System(store, engine="openai", upstream=server.url, model="tiny", workers=2)
    yield system
    assert system.stop() == 0


@pytest.fixture(scope="module")
def direct(server: LlamaServer) -> Iterator[openai.OpenAI]:
    """A client of the server itself."""
    with client_of(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def ours(system: System) -> Iterator[openai.OpenAI]:
    """A client of Penstock."""
    with client_of(f"{system.url}/v1") as client:
        yield client


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)


def streamed(client: openai.OpenAI, **fields: Any) -> tuple[str, str, Any]:
    """Text, finish reason and usage."""
    text, finish, usage = "", "", None
    for chunk in client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **fields
    ):
        text += said(chunk)
        finish = (chunk.choices[0].finish_reason or finish) if chunk.choices else finish
        usage = chunk.usage or usage
    assert usage is not None
    return text, finish, (usage.prompt_tokens, usage.completion_tokens)


def said(chunk: ChatCompletionChunk) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "max_tokens": 60},
        {"temperature": 1.0, "seed": 5, "max_tokens": 60},
        {"temperature": 0, "max_tokens": 60, "stop": ["er"]},
        {"temperature": 0, "max_tokens": 60, "frequency_penalty": 1.5, "logit_bias": {"5": -100}},
    ],
)
def test_the_same_as_without_penstock_between(
    direct: openai.OpenAI, ours: openai.OpenAI, fields: dict[str, Any]
) -> None:
    expected = streamed(direct, **ASK, **fields)
    assert expected[0]
    assert streamed(ours, **ASK, **fields) == expected
    whole = ours.chat.completions.create(**ASK, **fields)
    assert whole.usage is not None
    usage = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason, usage) == expected


def test_completions(direct: openai.OpenAI, ours: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "The river", "max_tokens": 40, "temperature": 0}
    expected, told = [client.completions.create(**fields).choices[0] for client in (direct, ours)]
    assert expected.text
    assert (told.text, told.finish_reason) == (expected.text, expected.finish_reason)


def test_a_request_the_server_refuses(ours: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"(?i)grammar|schema"):
        ours.chat.completions.create(**ASK, extra_body={"grammar": "root ::= ("})


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 11}])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_a_worker_killed_in_mid_stream(
    system: System, direct: openai.OpenAI, ours: openai.OpenAI, sampling: dict[str, Any], share: float
) -> None:
    fields = LONG | sampling
    uncut = streamed(direct, **fields)
    system.wait_ready("worker", 2)
    text, finish, usage, killed = "", "", None, False
    stream = ours.chat.completions.create(stream=True, stream_options={"include_usage": True}, **fields)
    for chunk in stream:
        text += said(chunk)
        finish = (chunk.choices[0].finish_reason or finish) if chunk.choices else finish
        usage = chunk.usage or usage
        if text and not killed and len(text) >= share * len(uncut[0]):
            assert not finish, "killed too late"
            # Nobody outside knows which of them runs it.
            for process in system.processes("worker"):
                system.kill(process)
            killed = True
    assert killed
    assert usage is not None
    assert (text, finish, (usage.prompt_tokens, usage.completion_tokens)) == uncut


def test_a_client_that_leaves_frees_the_only_slot(model: Path, tmp_path: Path) -> None:
    server = LlamaServer(model, tmp_path / "log", parallel=1)
    try:
        system = System(tmp_path / "store", engine="openai", upstream=server.url, model="tiny")
        try:
            with client_of(server.url) as direct, client_of(f"{system.url}/v1") as ours:
                took = [_until_free(direct, ours) for _ in range(9)]
            print(f"free again after {took} s")
            assert statistics.median(took) < 0.5, took
        finally:
            code = system.stop()
        assert code == 0
    finally:
        server.close()


def _until_free(direct: openai.OpenAI, ours: openai.OpenAI) -> float:
    """Seconds from a client's leaving until the server has answered somebody else."""
    endless = ASK | {"max_tokens": 8000, "temperature": 0, "extra_body": {"ignore_eos": True}}
    stream = ours.chat.completions.create(stream=True, **endless)
    for number, _ in enumerate(stream):
        if number == 20:
            break
    left_at = time.monotonic()
    stream.close()
    direct.chat.completions.create(**ASK, max_tokens=1, temperature=0)
    return time.monotonic() - left_at


async def test_embeddings(embedder: Path, tmp_path: Path) -> None:
    server = LlamaServer(embedder, tmp_path / "log", parallel=1, embeds=True)
    told: asyncio.Queue[EngineEvent] = asyncio.Queue()
    engine = OpenAIEngine(OpenAIOptions(server.url, "tiny", "", "", parallel=1, max_tokens_default=0))
    try:
        can = await engine.start(told.put_nowait)
        assert can.context_tokens_max < 1 << 20, "the server tells it"
        engine.submit(EngineRequest("t.r1", 1, b'{"input":["water","gate"]}', RequestMeta()))
        finished = await asyncio.wait_for(told.get(), 60)
        assert isinstance(finished, EngineFinished)
        assert finished.result is not None
        result = json.loads(bytes(finished.result))
        with client_of(server.url) as client:
            direct = client.embeddings.create(model="tiny", input=["water", "gate"])
        assert [row["embedding"] for row in result["data"]] == [row.embedding for row in direct.data]
        assert finished.usage.prompt_tokens == direct.usage.prompt_tokens > 0
    finally:
        await engine.stop()
        server.close()
