"""What messages of Anthropic's API become is a chat that vLLM takes, and means what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from edge.anthropic.chat import read_count, read_message
from edge.dialect import Asked
from tests.vllm.adapter_under_test import Adapter, running

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
]

FLOW = {"name": "flow", "description": "a river's", "input_schema": {"type": "object", "properties": {}}}
CALLED: list[Any] = [
    {"role": "user", "content": "tell me"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "well"},
            {"type": "tool_use", "id": "toolu_1", "name": "flow", "input": {"where": "here"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "slow", "is_error": True},
            {"type": "text", "text": "of"},
            {"type": "text", "text": "rivers"},
        ],
    },
]
CASES: dict[str, dict[str, Any]] = {
    "system": {"system": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
    "a conversation": {"messages": CALLED, "tools": [FLOW]},
    "no tool": {"tools": [FLOW], "tool_choice": {"type": "none"}},
    "one at a time": {"tools": [FLOW], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "no thinking": {"thinking": {"type": "disabled"}},
    "effort": {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}},
    "sampling": {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "metadata": {"user_id": "u"}, "min_p": 0.1},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapter(tiny_model: Path) -> AsyncIterator[Adapter]:
    async with running(tiny_model, max_num_seqs=1) as started:
        yield started


def chat_of(reading: Any = read_message, **fields: Any) -> dict[str, Any]:
    """The engine serves one model, and is told no name here."""
    body = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "tell me of rivers"}]}
    asked = reading(msgspec.json.encode({**body, "temperature": 0, "seed": 1, "ignore_eos": True, **fields}))
    assert isinstance(asked, Asked), asked
    chat: dict[str, Any] = msgspec.json.decode(asked.raw)
    del chat["model"]
    return chat


@pytest.mark.parametrize("case", CASES)
async def test_each_is_taken_and_counted_alike(adapter: Adapter, case: str) -> None:
    answer = await adapter.answer(chat_of(**CASES[case]))
    assert len(answer.choices[0].ids) == 8
    counted = await adapter.answer(chat_of(read_count, **CASES[case]))
    assert counted.usage.prompt_tokens == answer.usage.prompt_tokens
    assert counted.usage.completion_tokens == 1


async def test_the_beginning_of_an_answer_is_gone_on_with(adapter: Adapter) -> None:
    turns: list[Any] = [{"role": "user", "content": "tell me of rivers"}]
    plain = await adapter.answer(chat_of(messages=turns))
    begun = await adapter.answer(
        chat_of(messages=[*turns, {"role": "assistant", "content": "They flow and flow"}])
    )
    closed = await adapter.answer(
        chat_of(
            messages=[*turns, {"role": "assistant", "content": "They flow and flow"}],
            continue_final_message=False,
            add_generation_prompt=True,
        )
    )
    prompts = [answer.usage.prompt_tokens for answer in (plain, begun, closed)]
    assert prompts[0] < prompts[1] < prompts[2], "no turn is closed, and none is opened anew"


async def test_a_stop_sequence_is_told(adapter: Adapter) -> None:
    whole = (await adapter.answer(chat_of(max_tokens=24))).choices[0].text
    stop = whole[len(whole) // 2 :][:3]
    answer = await adapter.answer(chat_of(max_tokens=24, stop_sequences=["never in it", stop]))
    assert (answer.finish_reasons, answer.stop_reasons) == (["stop"], [stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]


async def test_any_tool_is_called(adapter: Adapter) -> None:
    tool = FLOW | {"input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    body = chat_of(max_tokens=64, tools=[tool], tool_choice={"type": "any"}, ignore_eos=False)
    answer = await adapter.answer(body)
    assert [call[0] for call in answer.choices[0].calls] == ["flow"], answer
