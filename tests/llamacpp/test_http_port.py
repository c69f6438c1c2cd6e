"""The engine against the HTTP server that the library brings along: same requests, same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import xllamacpp

from schemas.choices import Choice
from tests.llamacpp.running import CHAT, running
from tests.llamacpp.test_continuation import KINDS

BODIES = {"greedy": CHAT, **{kind: body for kind, body in KINDS.items() if kind != "sampled, no seed"}}


@pytest.fixture
async def http(model: Path) -> AsyncIterator[httpx.AsyncClient]:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = 2
    params.n_ctx = 2 * 8192
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = 0
    server = xllamacpp.Server(params)
    async with httpx.AsyncClient(base_url=server.listening_address, timeout=30) as client:
        yield client


@pytest.mark.parametrize("kind", BODIES)
async def test_same_text_finish_and_usage(kind: str, model: Path, http: httpx.AsyncClient) -> None:
    body = BODIES[kind]
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    response = await http.post(path, json=body)
    answer = response.raise_for_status().json()
    async with running(model) as engine:
        mine = await engine.ask(body)
    # Choices that ended in another order come in that order.
    theirs = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    assert [shown(choice) for choice in mine.choices] == [told(choice) for choice in theirs]
    assert mine.finished.finish_reasons == [choice["finish_reason"] for choice in theirs]
    if not isinstance(body.get("prompt"), list):  # of several prompts that port counts one
        assert mine.finished.usage.prompt_tokens == answer["usage"]["prompt_tokens"]
    if len(theirs) == 1:  # and of several choices
        assert mine.finished.usage.completion_tokens == answer["usage"]["completion_tokens"]


async def test_that_port_of_an_engine_is_nobody_s(model: Path) -> None:
    async with running(model) as engine:
        address = engine.engine._server.listening_address
        assert address.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"):
                assert (await client.post(path, json=CHAT)).status_code == 401, path
            for path in ("/metrics", "/props", "/slots"):
                assert (await client.get(path)).status_code in (401, 501), path


def shown(choice: Choice) -> tuple[Any, ...]:
    tokens = [logprob.token for logprob in choice.logprobs]
    return choice.text, [(call.name, call.arguments) for call in choice.tools], tokens


def told(choice: dict[str, Any]) -> tuple[Any, ...]:
    message = choice.get("message", {"content": choice.get("text")})
    calls = [call["function"] for call in message.get("tool_calls", [])]
    logprobs = (choice.get("logprobs") or {}).get("content") or []
    # A character that the limit cuts in two: no stream of llama.cpp has it, a whole answer shows a mark.
    text = (message["content"] or "").removesuffix("\N{REPLACEMENT CHARACTER}")
    return (
        text,
        [(call["name"], call["arguments"]) for call in calls],
        [logprob["token"] for logprob in logprobs],
    )
