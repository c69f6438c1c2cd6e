"""The official `openai` package against `penstock up`, with nothing changed but the address."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from bench.system import System
from bench.transcript import MODEL, assert_whole, client, expected, stream
from tests.acceptance.conftest import StartSystem
from workers.engines.simulator import reference_text


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(itl_ms=2, ttft_ms=5, edges=2, workers=2)


@pytest.fixture(scope="module")
def sync(system: System) -> OpenAI:
    return client(system.url)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_chat_streams(system: System) -> None:
    assert_whole(stream(system.url, "stream me", 50), "stream me", 50)


def test_chat_completes(sync: OpenAI) -> None:
    answer = sync.chat.completions.create(model=MODEL, messages=ask("complete me"), max_tokens=20)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == expected("complete me", 20)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20
    assert answer._request_id
    assert answer.id == f"chatcmpl-{answer._request_id}"


def test_completions_stream_and_complete(sync: OpenAI) -> None:
    whole = sync.completions.create(model=MODEL, prompt="legacy", max_tokens=12)
    assert whole.choices[0].text == reference_text("legacy", 0, 12)
    chunks = sync.completions.create(model=MODEL, prompt="legacy", max_tokens=12, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text


async def test_the_async_client_streams_many_at_once(system: System) -> None:
    async with AsyncOpenAI(base_url=f"{system.url}/v1", api_key="unused", max_retries=0) as remote:

        async def one(number: int) -> str:
            chunks = await remote.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"prompt {number}"}],
                max_tokens=30,
                stream=True,
            )
            return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])

        texts = await asyncio.gather(*(one(number) for number in range(40)))
    assert texts == [expected(f"prompt {number}", 30) for number in range(40)]


def test_seed_stop_and_natural_end(sync: OpenAI) -> None:
    seeded = sync.chat.completions.create(model=MODEL, messages=ask("x"), max_tokens=10, seed=7)  # type: ignore[arg-type]
    assert seeded.choices[0].message.content == expected("x", 10, seed=7)
    assert expected("x", 10, seed=7) != expected("x", 10)
    stop = expected("x", 30)[-12:-6]
    stopped = sync.chat.completions.create(model=MODEL, messages=ask("x"), max_tokens=40, stop=[stop])  # type: ignore[arg-type]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == expected("x", 40).partition(stop)[0]
    natural = sync.chat.completions.create(model=MODEL, messages=ask("x"))  # type: ignore[arg-type]
    assert natural.choices[0].finish_reason == "stop"


def test_models_are_listed(sync: OpenAI) -> None:
    assert [model.id for model in sync.models.list()] == [MODEL]
    assert sync.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        sync.models.retrieve("nothing")


def test_mistakes_are_errors_the_client_knows(sync: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        sync.chat.completions.create(model="nothing", messages=ask("x"))  # type: ignore[arg-type]
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_many:
        sync.chat.completions.create(model=MODEL, messages=ask("x"), n=129)  # type: ignore[arg-type]
    assert too_many.value.param == "n"
    with pytest.raises(openai.BadRequestError):
        sync.chat.completions.create(model=MODEL, messages=ask("x"), max_tokens=10_000_000)  # type: ignore[arg-type]


def test_an_engine_that_raises_every_time_ends_with_an_error(sync: OpenAI) -> None:
    fault = {"penstock_fault": {"raise_at_token": 3}}
    with pytest.raises(openai.APIError) as failed:
        list(
            sync.chat.completions.create(
                model=MODEL,
                messages=ask("boom"),  # type: ignore[arg-type]
                max_tokens=10,
                stream=True,
                extra_body=fault,
            )
        )
    assert failed.value.code == "poison"


def test_the_raw_stream_is_what_clients_expect(system: System) -> None:
    body = {"model": MODEL, "messages": ask("raw"), "max_tokens": 5, "stream": True}
    with httpx.stream("POST", f"{system.url}/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == response.headers["request-id"]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    first, *_, last = (json.loads(one) for one in data[:-1])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "length"
    ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    assert ids[0] == "0-0"
    assert ids[-1] == "6-0"
    offsets = [tuple(map(int, one.split("-"))) for one in ids]
    assert offsets == sorted(set(offsets)), "ids grow and never repeat"


def test_health_tells_what_is_there(system: System) -> None:
    assert httpx.get(f"{system.url}/livez").status_code == 200
    assert httpx.get(f"{system.url}/readyz").status_code == 200
    health = httpx.get(f"{system.url}/health").json()
    assert health["status"] == "ok"
    assert [(m["id"], m["workers"]) for m in health["models"]] == [(MODEL, 2)]
    assert "penstock_requests_total" in httpx.get(f"{system.url}/metrics").text
