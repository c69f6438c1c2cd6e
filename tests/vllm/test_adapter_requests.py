"""What clients may ask of vLLM's adapter, what they are told when it cannot be done, and how requests are cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.vllm.adapter_under_test import CHAT, Adapter, prefixes, running
from workers.engine_page import Measured
from workers.engines.base import EngineFailed, EngineOutput, Prefix

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
]

CANCELS = 5
CANCEL_S_MAX = 0.1
"""Within this a cancelled request has to be gone, in vLLM's own count too: the fastest of them, the others measure
what else the machine does."""

LONG = CHAT | {"max_tokens": 900, "temperature": 0, "ignore_eos": True}
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwC"
    "AAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
TOOL = {"type": "function", "function": {"name": "flow", "parameters": {"type": "object", "properties": {}}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapter(tiny_model: Path) -> AsyncIterator[Adapter]:
    """One slot: what is not freed keeps the next one waiting."""
    async with running(tiny_model, max_num_seqs=1) as started:
        yield started


async def test_tells_what_it_is(adapter: Adapter) -> None:
    can = adapter.can
    assert (can.engine, can.context_tokens_max, can.slots, can.adapters) == ("vllm", 1024, 1, [])
    assert can.max_tokens_default == 1024
    assert len(can.revision) == len(can.tokenizer) == 16
    assert can.revision != can.tokenizer


async def test_chat(adapter: Adapter) -> None:
    answer = await adapter.answer(CHAT | {"temperature": 0, "ignore_eos": True})
    assert len(answer.choices[0].ids) == 24
    assert answer.choices[0].text
    assert answer.finish_reasons == ["length"]
    assert answer.usage.completion_tokens == 24


async def test_same_without_streaming_fields(adapter: Adapter) -> None:
    """A client that reads no stream gets its answer of the same log."""
    plain = CHAT | {"temperature": 0, "stream": False}
    asked = CHAT | {"temperature": 0, "stream": True, "stream_options": {"include_usage": False}}
    assert await adapter.answer(plain) == await adapter.answer(asked)


async def test_several_choices_each_have_tokens_of_their_own(adapter: Adapter) -> None:
    answer = await adapter.answer(CHAT | {"n": 2, "seed": 1, "ignore_eos": True})
    first, second = answer.choices
    assert len(first.ids) == len(second.ids) == 24
    assert first.ids != second.ids
    assert answer.finish_reasons == ["length", "length"]


async def test_logprobs_are_of_the_tokens(adapter: Adapter) -> None:
    choice = (await adapter.answer(CHAT | {"logprobs": True, "top_logprobs": 2, "seed": 1})).choices[0]
    assert len(choice.logprobs) == len(choice.ids)


async def test_completion_with_token_ids_as_prompt(adapter: Adapter) -> None:
    answer = await adapter.answer({"prompt": [300, 301, 302], "max_tokens": 5, "temperature": 0})
    assert answer.usage.prompt_tokens == 3


async def test_json_schema(adapter: Adapter) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
    asked = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = await adapter.answer(CHAT | {"max_tokens": 60, "response_format": asked, "temperature": 0})
    if answer.finish_reasons == ["stop"]:
        assert msgspec.json.decode(answer.choices[0].text)["a"] == "x"
    else:  # a random model may fill it with white space
        assert answer.choices[0].text.lstrip()[:1] in ("", "{")


async def test_named_tool(adapter: Adapter) -> None:
    choice = {"type": "function", "function": {"name": "flow"}}
    answer = await adapter.answer(CHAT | {"tools": [TOOL], "tool_choice": choice, "temperature": 0})
    assert answer.choices[0].calls[0][0] == "flow"


async def test_stop_string_is_told(adapter: Adapter) -> None:
    text = (await adapter.answer(CHAT | {"temperature": 0})).choices[0].text
    answer = await adapter.answer(CHAT | {"temperature": 0, "stop": [text[3:6]]})
    assert answer.choices[0].text == text[: text.index(text[3:6])]
    assert answer.finish_reasons == ["stop"]
    assert answer.stop_reasons == [text[3:6]]


async def test_min_tokens_keep_it_going(adapter: Adapter) -> None:
    ends = CHAT | {"temperature": 0, "logit_bias": {"2": 100}}
    assert (await adapter.answer(ends)).usage.completion_tokens == 1
    assert (await adapter.answer(ends | {"min_tokens": 9})).usage.completion_tokens == 10


async def test_seed_comes_from_the_rid(adapter: Adapter) -> None:
    once, again, other = [
        await adapter.answer(CHAT | {"temperature": 1}, rid=rid) for rid in ("rid-a", "rid-a", "rid-b")
    ]
    assert once == again
    assert once != other


async def test_given_seed_counts_more_than_the_rid(adapter: Adapter) -> None:
    once, again = [await adapter.answer(CHAT | {"seed": 5}, rid=rid) for rid in ("rid-a", "rid-b")]
    assert once == again


async def test_limit_of_the_edge_counts_where_the_body_names_none(adapter: Adapter) -> None:
    asked = {name: value for name, value in CHAT.items() if name != "max_tokens"} | {"ignore_eos": True}
    assert (await adapter.answer(asked, limit=7)).usage.completion_tokens == 7
    assert (await adapter.answer(CHAT | {"ignore_eos": True}, limit=7)).usage.completion_tokens == 24


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ({"messages": "no list"}, "bad_request", "messages"),
        (CHAT | {"temperature": -3}, "bad_request", "temperature"),
        (CHAT | {"max_tokens": "many"}, "bad_request", "max_tokens"),
        (CHAT | {"response_format": {"type": "json_schema"}}, "bad_request", "json_schema"),
        (CHAT | {"use_beam_search": True, "n": 2}, "bad_request", "beam"),
        (CHAT | {"model": "another"}, "model_not_found", "another"),
        (CHAT | {"max_tokens": 5000}, "context_length", "5000"),
        ({"prompt": "long " * 2000}, "context_length", "context length"),
        ({"prompt": ["one", 2]}, "bad_request", "prompt"),
        ({"input": "a text"}, "bad_request", "embeddings"),
        ({"nothing": 1}, "bad_request", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]},
            "bad_request",
            "multimodal",
        ),
    ],
)
async def test_refused(body: dict[str, Any], reason: str, words: str, adapter: Adapter) -> None:
    failed = await adapter.failure(body)
    assert failed.reason == reason
    assert words in failed.error


async def test_log_of_another_model_is_not_gone_on_from(adapter: Adapter) -> None:
    """What the log has was forced, and its text is not what these tokens make."""
    body = CHAT | {"temperature": 0, "presence_penalty": 0.5}
    cut = prefixes(await adapter.events(body))[4]
    cut.choices[0].pieces = ["Something else that nobody said"]
    failed = await adapter.failure(body, cut)
    assert failed.reason == "not_continuable"
    assert "differently" in failed.error
    await until_idle(adapter)


async def test_a_client_cannot_force_tokens(adapter: Adapter) -> None:
    forced = {"penstock": {"seed": 0, "prefixes": [[5, 5, 5]]}}
    body = CHAT | {"temperature": 0}
    with_own = await adapter.events(body | {"vllm_xargs": {"other": 1, "penstock_seed": 1}})
    assert not isinstance(with_own[-1], EngineFailed)
    assert isinstance((await adapter.events(body | {"vllm_xargs": forced}))[-1], EngineFailed)


async def test_cancel_frees_the_slot_at_once(adapter: Adapter) -> None:
    took_s = []
    for _ in range(CANCELS):
        key = adapter.submit(LONG)
        assert isinstance(await adapter.next(key), EngineOutput)
        waiting = adapter.submit(CHAT | {"temperature": 0})
        cancelled_at = time.monotonic()
        adapter.engine.cancel(key)
        assert adapter.engine.load().running == 1
        assert isinstance(await adapter.next(waiting), EngineOutput)
        took_s.append(time.monotonic() - cancelled_at)
        while isinstance(await adapter.next(waiting), EngineOutput):
            continue
        while not adapter.nothing_came(key):  # made before it was cancelled
            assert isinstance(await adapter.next(key), EngineOutput)
        assert adapter.engine.load().running == 0
    assert min(took_s) < 1.0, "the next one did not wait for the end of a long answer"


async def test_cancelled_request_is_gone_in_vllm_too(adapter: Adapter) -> None:
    took_s = []
    for _ in range(CANCELS):
        key = adapter.submit(LONG)
        await adapter.next(key)
        adapter.engine.cancel(key)
        cancelled_at = time.monotonic()
        await until_idle(adapter)
        took_s.append(time.monotonic() - cancelled_at)
    assert min(took_s) < CANCEL_S_MAX, took_s


async def test_cancel_before_it_has_begun(adapter: Adapter) -> None:
    key = adapter.submit(CHAT)
    adapter.engine.cancel(key)
    adapter.engine.cancel(key)
    await adapter.answer(CHAT | {"temperature": 0})
    assert adapter.nothing_came(key)


async def test_steps_are_counted(adapter: Adapter) -> None:
    before = adapter.engine.load()
    await adapter.answer(CHAT | {"temperature": 0, "ignore_eos": True})
    after = adapter.engine.load()
    assert after.steps >= before.steps + 24
    assert after.last_step_at > before.last_step_at


async def test_empty_prefix_is_a_start(adapter: Adapter) -> None:
    body = CHAT | {"temperature": 0}
    assert (await adapter.events(body, Prefix([], [], [])))[-1] is not None


async def until_idle(adapter: Adapter) -> None:
    """By vLLM's own count."""
    vllm = adapter.engine._started.engine.output_processor  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        while vllm.get_num_unfinished_requests():
            await asyncio.sleep(0.001)


async def test_metrics_are_vllms(adapter: Adapter) -> None:
    await adapter.answer(CHAT)
    assert isinstance(adapter.engine, Measured)
    said = {family.name: family.samples for family in await adapter.engine.metrics()}
    assert all(name.startswith("vllm:") for name in said)
    generated = [
        one.value for one in said["vllm:generation_tokens"] if one.name == "vllm:generation_tokens_total"
    ]
    assert sum(generated) >= CHAT["max_tokens"]
