"""Choices, calls, reasoning, logprobs and embeddings through the whole system, read by the official client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from bench.system import Process, System
from bench.transcript import MODEL, client, expected
from bench.worker_kill import TRIES, holder_of
from tests.acceptance.conftest import StartSystem
from tests.acceptance.rich import TOOLS, Heard, streamed, whole
from workers.engines.simulator import reference_text

TOKENS = 40


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(itl_ms=5, ttft_ms=5, workers=2)


def test_choices_stream_and_complete(system: System) -> None:
    heard, tokens = streamed(system.url, "two", n=2, max_tokens=TOKENS)
    assert heard == [
        Heard("assistant", expected("two", TOKENS, seed), finish_reason="length") for seed in (0, 1)
    ]
    assert tokens == 2 * TOKENS
    assert whole(system.url, "two", n=2, max_tokens=TOKENS) == (heard, tokens)


def test_reasoning_comes_first_and_is_counted(system: System) -> None:
    heard, _ = streamed(system.url, "think", reasoning_effort="low", max_tokens=20)
    assert whole(system.url, "think", reasoning_effort="low", max_tokens=20)[0] == heard
    [choice] = heard
    assert choice.reasoning == expected("think", 4)
    assert len(choice.content.split()) == 16
    with client(system.url) as official:
        answer = official.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "think"}],
            reasoning_effort="low",
            max_tokens=20,
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "time"}}, "stop")],
    ids=["required", "named"],
)
def test_a_tool_is_called(system: System, choice: Any, reason: str) -> None:
    [heard], tokens = streamed(system.url, "call", tools=TOOLS, tool_choice=choice)
    [(call_id, name, arguments)] = heard.calls
    assert (heard.role, heard.content, heard.finish_reason) == ("assistant", "", reason)
    assert call_id.startswith("call_")
    assert name in ("weather", "time")
    assert choice == "required" or name == "time"
    assert json.loads(arguments).keys() == {"text"}
    assert whole(system.url, "call", tools=TOOLS, tool_choice=choice) == ([heard], tokens)
    with client(system.url) as official:
        answer = official.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "call"}], tools=TOOLS, tool_choice=choice
        )
    assert answer.choices[0].message.content is None


def test_logprobs_of_a_chat(system: System) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 12}
    heard, _ = streamed(system.url, "how likely", **fields)
    assert whole(system.url, "how likely", **fields)[0] == heard
    assert "".join(token for token, _, _ in heard[0].tokens) == heard[0].content
    assert [top for _, _, top in heard[0].tokens] == [2] * 12


def test_logprobs_of_a_completion(system: System) -> None:
    with client(system.url) as official:
        answer = official.completions.create(model=MODEL, prompt="how likely", logprobs=2, max_tokens=12, n=2)
        chunks = list(
            official.completions.create(
                model=MODEL, prompt="how likely", logprobs=2, max_tokens=12, n=2, stream=True
            )
        )
    for choice in answer.choices:
        told = choice.logprobs
        assert told is not None
        assert choice.text == reference_text("how likely", choice.index, 12)
        assert told.tokens is not None
        assert [
            choice.text[at : at + len(token)]
            for at, token in zip(told.text_offset or [], told.tokens, strict=True)
        ] == told.tokens
        pieces = [
            c.choices[0].logprobs
            for c in chunks
            if c.choices[0].index == choice.index and c.choices[0].logprobs
        ]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [one for piece in pieces for one in getattr(piece, name)] == getattr(told, name)


@pytest.mark.parametrize("given", ["one", ["one", "two words"], [1, 2], [[1, 2], [3]]], ids=str)
def test_embeddings(system: System, given: Any) -> None:
    with client(system.url) as official:
        packed = official.embeddings.create(model=MODEL, input=given)
        plain = official.embeddings.create(model=MODEL, input=given, encoding_format="float", dimensions=8)
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert (len(packed.data), len(plain.data), packed.model) == (count, count, MODEL)
    for one in (*packed.data, *plain.data):
        assert sum(number**2 for number in one.embedding) == pytest.approx(1, rel=1e-5)
    assert len(plain.data[0].embedding) == 8
    assert packed.usage.total_tokens == packed.usage.prompt_tokens > 0


def test_embeddings_that_are_read_once_more(system: System) -> None:
    body, key = {"model": MODEL, "input": "again"}, {"idempotency-key": "embed-once"}
    first, second = (httpx.post(f"{system.url}/v1/embeddings", json=body, headers=key) for _ in range(2))
    assert first.status_code == 200
    assert (second.content, second.headers["x-request-id"]) == (first.content, first.headers["x-request-id"])
    page = httpx.get(f"{system.url}/v1/requests/{first.headers['x-request-id']}").json()
    assert (page["status"], page["response"]) == ("completed", first.json())


def test_what_the_engine_refuses_is_a_clear_400(system: System) -> None:
    for fields in ({"tool_choice": "required"}, {"reasoning_effort": "very"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(fields))):
            whole(system.url, "wrong", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reasoning_effort": "high", "logprobs": True, "top_logprobs": 2},
        {"reasoning_effort": "high", "tools": TOOLS, "tool_choice": "required"},
        {"stop": [" of", " a"]},
    ],
    ids=["text", "reasoning and logprobs", "calls", "stop"],
)
def test_a_stream_of_choices_goes_on_when_its_worker_is_killed(
    system: System, fields: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    prompt = f"kill {request.node.name}"
    killed: list[Process] = []

    def kill_once(rid: str, pieces: int) -> None:
        if pieces == 9:
            killed.extend(holder_of(system, rid))
            for worker in killed:
                system.kill(worker)

    for _ in range(TRIES):  # on a busy machine a stream may have ended before its worker is found
        cut = streamed(system.url, prompt, kill_once, n=2, max_tokens=TOKENS, **fields)
        if killed:
            break
    assert killed, "the stream was long enough to be cut"
    system.wait_replaced(killed[0])
    assert cut == whole(system.url, prompt, n=2, max_tokens=TOKENS, **fields)
    assert len(cut[0]) == 2
