"""A request that was cut anywhere goes on as if nothing had happened: text, reasoning, calls, logprobs, usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.vllm.adapter_under_test import CHAT, Adapter, answer_of, fold_of, prefixes, running
from workers.engines.base import Prefix

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
]

CUTS_MAX = 6

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["xx", "yy"]}, "b": {"enum": [1, 22, 333]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "flow", "parameters": SCHEMA}}]
CALL = r'<tool_call>\n\{"name": "flow", "arguments": \{"a": "(xx|yy)", "b": [0-9]{1,12}\}\}\n</tool_call>'

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy with a bias": {"temperature": 0, "logit_bias": {"300": 5.0}, "top_k": 7},
    "greedy, repetition penalty": {"temperature": 0, "repetition_penalty": 1.3},
    "seeded": {"temperature": 1, "seed": 4},
    "sampled, no seed": {"temperature": 1, "top_p": 0.9, "top_k": 50},
    "penalties": {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 1.0},
    "min_tokens": {"temperature": 0, "min_tokens": 12, "logit_bias": {"2": 60}},
    "bad words": {"temperature": 0, "bad_words": ["a", "e"]},
    "logprobs": {"temperature": 1, "seed": 5, "logprobs": True, "top_logprobs": 2},
    "greedy logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 1},
    "json_schema": {
        "temperature": 1,
        "seed": 8,
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    },
    "regex": {"temperature": 1, "structured_outputs": {"regex": "[a-f]{3}-[0-9]{8}é+-ende"}},
    "named tool": {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "flow"}},
        "seed": 3,
    },
    "required tool": {"tools": TOOLS, "tool_choice": "required", "seed": 6, "max_tokens": 80},
    "tool call of its own": {
        "tools": TOOLS,
        "seed": 7,
        "max_tokens": 80,
        "structured_outputs": {"regex": CALL},
        "skip_special_tokens": False,
    },
    "reasoning": {
        "temperature": 1,
        "seed": 9,
        "max_tokens": 60,
        "chat_template_kwargs": {"enable_thinking": True},
        "structured_outputs": {"regex": "<think>[a-f ]{10,20}</think>[0-9]{10}"},
        "skip_special_tokens": False,
    },
    "stop string": {"temperature": 1, "seed": 4},
    "n = 3": {"temperature": 1, "n": 3, "seed": 11, "max_tokens": 10},
    "n = 2, no seed, logprobs": {"temperature": 1, "n": 2, "max_tokens": 10, "logprobs": True},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapter(tiny_model: Path) -> AsyncIterator[Adapter]:
    """One engine for all of this."""
    async with running(tiny_model) as started:
        yield started


@pytest.mark.parametrize("kind", KINDS)
async def test_chat(kind: str, adapter: Adapter) -> None:
    body = CHAT | KINDS[kind]
    if kind == "stop string":  # one that the answer has, late and across tokens
        text = (await adapter.answer(body)).choices[0].text
        body["stop"] = [text[-12:-4]]
        assert text.index(text[-12:-4]) > len(text) // 2
    await assert_exact(adapter, body, cuts_max=100 if kind == "greedy" else CUTS_MAX)


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0},
        {"logprobs": 2},
        {"n": 2, "seed": 5},
        {"prompt": ["Many rivers", "A lake"], "temperature": 0},
        {"prompt": ["Many rivers", "A lake", "Many rivers"], "temperature": 1},
        {"prompt": [[5, 6, 7], [8, 9]], "temperature": 1, "n": 2, "seed": 5, "stop": ["e"]},
        {"prompt": [5, 6, 7], "temperature": 0},
    ],
)
async def test_completion(more: dict[str, Any], adapter: Adapter) -> None:
    await assert_exact(adapter, {"prompt": "Many rivers", "max_tokens": 20, **more})


async def assert_exact(adapter: Adapter, body: dict[str, Any], *, cuts_max: int = CUTS_MAX) -> None:
    """Cuts the request after events all along, the first and the last but one included."""
    whole = await adapter.events(body, rid="therid")
    expected = answer_of(fold_of(Prefix([], [], [])), whole)
    cuts = prefixes(whole)
    assert len(cuts) > 3, "there is something to cut"
    step = max(1, len(cuts) // cuts_max)
    for cut in [*cuts[::step], cuts[-1]]:
        rest = await adapter.events(body, cut, rid="therid")
        assert answer_of(fold_of(cut), rest) == expected, f"cut after {len(cut.ids)} tokens"


async def test_long_prompts_with_seeds_at_once(adapter: Adapter) -> None:
    """Together they are more than a step takes: prefilled in chunks on a CPU, they would end vLLM."""
    # Each its own from the first word on, or it would be in vLLM's cache.
    body = {"max_tokens": 8, "temperature": 1, "ignore_eos": True}
    prompts = [f"{seed} rivers " * 100 for seed in range(8)]
    requests = [body | {"prompt": prompt, "seed": seed} for seed, prompt in enumerate(prompts)]
    answers = await asyncio.gather(*[adapter.answer(request) for request in requests])
    assert all(500 < answer.usage.prompt_tokens < 1000 for answer in answers), "one fits a step, two do not"
    assert [answer.usage.completion_tokens for answer in answers] == [8] * 8
