"""A request that is cut after any piece of its output and goes on in a fresh engine ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.choices import Choice
from schemas.log import Fold
from schemas.output import Delta
from tests.llamacpp.running import CHAT, Answer, Running, running
from tests.llamacpp.tiny_gguf import CALL, END, build

SAMPLED = {**CHAT, "temperature": 1.0}
SCHEMA = {
    "type": "object",
    "properties": {
        "where": {"enum": ["the river", "the stone"]},
        "flows": {"type": "boolean"},
        "name": {"type": "string", "maxLength": 12},
    },
    "required": ["where", "flows", "name"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "flow",
        "parameters": {
            "type": "object",
            "properties": {"where": {"enum": ["river", "gate"]}, "n": {"enum": [1, 2]}},
            "required": ["where", "n"],
            "additionalProperties": False,
        },
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "sampled, seed": {**SAMPLED, "seed": 5},
    "sampled, no seed": SAMPLED,
    "top_p, top_k, min_p": {**SAMPLED, "seed": 6, "top_p": 0.9, "top_k": 30, "min_p": 0.01},
    "penalties": {
        **SAMPLED,
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repeat_penalty": 1.2,
    },
    "dry, mirostat": {**SAMPLED, "seed": 8, "dry_multiplier": 0.8, "mirostat": 2},
    "json_schema, greedy": {
        **CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "json_schema, seed": {
        **SAMPLED,
        "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "grammar": {**SAMPLED, "seed": 10, "grammar": 'root ::= ("river " | "stone ")+', "max_tokens": 40},
    "tool call": {
        **SAMPLED,
        "seed": 1,
        "max_tokens": 120,
        "tools": [TOOL],
        "tool_choice": "required",
        "logit_bias": [[CALL, 37], [END, 100]],
    },
    "stop string": {**CHAT, "max_tokens": 400, "stop": ["false E", "river and", "🌂 f th"]},
    "natural end": {**SAMPLED, "seed": 9, "max_tokens": 400, "logit_bias": [[END, 26.0]]},
    "logprobs": {**CHAT, "logprobs": True, "top_logprobs": 2},
    "n=2": {**SAMPLED, "seed": 4, "n": 2, "max_tokens": 40},
    "completion": {"prompt": "Hello river", "max_tokens": 60, "temperature": 0},
    "two prompts": {"prompt": ["Hello river", "A stone"], "max_tokens": 40, "temperature": 0},
    "two prompts, n=2": {
        "prompt": ["Hello", "A stone"],
        "max_tokens": 20,
        "seed": 2,
        "temperature": 1,
        "n": 2,
    },
    "tokens": {"prompt": [72, 101, 108], "max_tokens": 40, "seed": 2, "temperature": 1},
    "completion, logprobs": {"prompt": "Hello", "max_tokens": 40, "seed": 1, "logprobs": 2},
}


@pytest.fixture
async def engines(model: Path) -> AsyncIterator[tuple[Running, Running]]:
    """One whose requests are not cut, one that goes on with those that are."""
    async with running(model) as whole, running(model) as another:
        yield whole, another


async def test_greedy_text_of_many_bytes_at_every_piece(engines: tuple[Running, Running]) -> None:
    whole = await engines[0].ask(CHAT)
    assert sum(len(letter.encode()) > 1 for letter in whole.text) >= 10
    assert len(whole.outputs) >= 40
    for cut in range(1, len(whole.outputs) + 1):
        await assert_goes_on(engines[1], CHAT, whole, cut)


@pytest.mark.parametrize("kind", KINDS)
async def test_ten_cuts_of(kind: str, engines: tuple[Running, Running]) -> None:
    body = KINDS[kind]
    whole = await engines[0].ask(body)
    assert_is_what_it_is_for(kind, whole)
    count = len(whole.outputs)
    for cut in sorted({1 + index * count // 10 for index in range(10)}):
        await assert_goes_on(engines[1], body, whole, cut)


async def test_text_stands_where_roundings_have_moved(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forty random layers make the smallest difference a large one: a cached prompt is enough to say something else."""
    deep = build(tmp_path / "deep.gguf", layers=40)
    body, moved = {**CHAT, "max_tokens": 600}, 0
    async with running(deep) as whole, running(deep) as another:
        await whole.ask(body)
        from_cache = await whole.ask(body)
        uncached = (await another.ask({**body, "seed": 1})).text
        for cut in range(50, len(from_cache.outputs), len(from_cache.outputs) // 8):
            log = log_of(from_cache, cut)
            moved += not uncached.startswith(log.texts[0])
            answer = await another.ask(body, log=log)
            assert answer.outputs
            assert answer.finished.finish_reasons == ["length"]
            assert answer.finished.usage.completion_tokens == 600
    with capsys.disabled():
        print(f"\n{moved} of 8 prefixes had to be forced")
    assert moved


@pytest.mark.parametrize("text", ["Niagara", 'a "b" \\ c\n\td', "é水🎉", "]* root ::= x"])
async def test_any_text_can_be_forced(text: str, engines: tuple[Running, Running]) -> None:
    log = Fold()
    log.add(0, [0], [Delta(text)], [])
    answer = await engines[1].ask(CHAT, log=log)
    assert answer.finished.usage.completion_tokens == 80
    assert answer.text
    # Made to say it, the model goes on as after a prompt that ends with it.
    prompt = "<|im_start|>user\nHello river<|im_end|>\n<|im_start|>assistant\n" + text
    after = await engines[0].ask({"prompt": prompt, "temperature": 0, "max_tokens": 20})
    assert answer.text.startswith(after.text)


@pytest.mark.parametrize(
    ("kind", "delta"),
    [
        ("json_schema, greedy", Delta('{"where": "sea')),
        ("tool call", Delta("Niagara")),
        ("n=2", Delta("Niagara")),
        ("grammar", Delta("Niagara")),
        ("top_p, top_k, min_p", Delta("a \N{REPLACEMENT CHARACTER}")),
    ],
)
async def test_what_cannot_be_forced_is_told(
    kind: str, delta: Delta, engines: tuple[Running, Running]
) -> None:
    log = Fold()
    log.add(0, [0], [delta], [])
    answer = await engines[1].ask(KINDS[kind], log=log)
    assert answer.failed.reason == "not_continuable"
    assert not answer.outputs


def log_of(answer: Answer, outputs: int) -> Fold:
    log = Fold()
    for output in answer.outputs[:outputs]:
        log.add(len(log.ids), output.ids, output.deltas, output.of)
    return log


async def assert_goes_on(engine: Running, body: dict[str, Any], whole: Answer, cut: int) -> None:
    """What was put out before the cut and what comes after it are what the whole answer is, usage included."""
    log = log_of(whole, cut)
    answer = await engine.ask(body, log=log)
    end = answer.finished
    for output in answer.outputs:
        log.add(len(log.ids), output.ids, output.deltas, output.of)
    log.add(len(log.ids), end.ids, end.deltas, end.of)
    assert [told(choice) for choice in log.choices] == [told(choice) for choice in whole.choices], cut
    assert end.finish_reasons == whole.finished.finish_reasons
    assert end.usage.prompt_tokens == whole.finished.usage.prompt_tokens
    assert end.usage.completion_tokens == whole.finished.usage.completion_tokens


def told(choice: Choice) -> tuple[Any, ...]:
    """All that a client is shown, but the ids of calls, which are random. Logprobs may move in their last bits."""
    return (
        choice.text,
        choice.reasoning,
        [(call.name, call.arguments) for call in choice.tools],
        [(logprob.token, round(logprob.logprob or 0, 3)) for logprob in choice.logprobs],
    )


def assert_is_what_it_is_for(kind: str, whole: Answer) -> None:
    """A case that does not show what it is for would prove nothing."""
    reasons, choices = whole.finished.finish_reasons, whole.choices
    match kind:
        case "tool call":
            assert reasons == ["tool_calls"]
            assert msgspec.json.decode(choices[0].tools[0].arguments)["where"] in ("river", "gate")
        case "stop string" | "natural end":
            assert reasons == ["stop"]
        case "json_schema, greedy" | "json_schema, seed":
            assert msgspec.json.decode(whole.text).keys() == {"where", "flows", "name"}
        case "logprobs" | "completion, logprobs":
            assert len(choices[0].logprobs[0].top) == 2
        case "two prompts" | "two prompts, n=2":
            texts = [choice.text for choice in choices]
            assert len(set(texts)) == len(texts) == (2 if kind == "two prompts" else 4)
        case "n=2":
            assert len(choices) == 2
            assert choices[0].text != choices[1].text
        case _:
            assert whole.text
