"""Anthropic's official client and a real engine: what a message says there, and what its prompt is counted as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import Message

from bench.system import System
from tests.llamacpp.test_continuation import TOOL
from tests.llamacpp.tiny_gguf import CALL, END

MODEL = "tiny-llama"
FUNCTION: Any = TOOL["function"]
FLOW: Any = {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anthropic]:
    store = tmp_path_factory.mktemp("store")
    system = System(store, engine="llamacpp", model=model, threads=1, ctx_size=1024, workers=1)
    with Anthropic(base_url=system.url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client
    assert system.stop() == 0


def ask(*turns: tuple[str, Any], max_tokens: int = 40, seed: int = 1, **fields: Any) -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in turns or [("user", "Hello river")]]
    extra = {"temperature": 0, "seed": seed, **fields.pop("extra_body", {})}
    return {"model": MODEL, "max_tokens": max_tokens, "messages": messages, "extra_body": extra, **fields}


def streamed(client: Anthropic, body: dict[str, Any]) -> Message:
    with client.messages.stream(**body) as stream:
        return stream.get_final_message()


def content(message: Message) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


def prompt_tokens(message: Message) -> int:
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_whole_and_streamed_and_counted(client: Anthropic) -> None:
    body = ask(system="the quiet gate")
    whole, pieces = client.messages.create(**body), streamed(client, body)
    assert content(whole) == content(pieces)
    assert content(whole)[0]["text"]
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 40)
    count = client.messages.count_tokens(model=MODEL, messages=body["messages"], system="the quiet gate")
    assert count.input_tokens == prompt_tokens(whole) == prompt_tokens(pieces) > 5


def test_a_call_and_its_result(client: Anthropic) -> None:
    bias = {str(CALL): 37, str(END): 100}
    body = ask(
        tools=[FLOW],
        tool_choice={"type": "any"},
        max_tokens=120,
        extra_body={"temperature": 1, "logit_bias": bias},
    )
    whole = client.messages.create(**body)
    call = whole.content[-1]
    assert call.type == "tool_use"
    assert (whole.stop_reason, call.name) == ("tool_use", "flow")
    assert call.input["where"] in ("river", "gate")
    [again] = [block for block in streamed(client, body).content if block.type == "tool_use"]
    assert (again.name, again.input) == (call.name, call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "it flows", "is_error": True}
    turns = (("user", "Hello river"), ("assistant", whole.content), ("user", [result]))
    answer = client.messages.create(**ask(*turns, tools=[FLOW]))
    count = client.messages.count_tokens(model=MODEL, messages=ask(*turns)["messages"], tools=[FLOW])
    assert count.input_tokens == prompt_tokens(answer) > prompt_tokens(whole)


def test_the_beginning_of_an_answer_is_gone_on_with(client: Anthropic) -> None:
    plain = client.messages.create(**ask())
    begun = client.messages.create(**ask(("user", "Hello river"), ("assistant", "the slow water")))
    assert prompt_tokens(begun) > prompt_tokens(plain)
    assert content(begun) != content(plain)


@pytest.mark.parametrize("type_", ["enabled", "disabled", "adaptive"])
def test_thinking_is_harmless_where_a_template_knows_none(client: Anthropic, type_: str) -> None:
    thinking = {"type": type_} | ({"budget_tokens": 1024} if type_ == "enabled" else {})
    thoughts = {"type": "thinking", "thinking": "hm", "signature": "s"}
    turns = (("user", "a"), ("assistant", [thoughts, {"type": "text", "text": "b"}]), ("user", "c"))
    assert content(client.messages.create(**ask(*turns, thinking=thinking))) == content(
        client.messages.create(**ask(("user", "a"), ("assistant", "b"), ("user", "c")))
    )


def test_what_the_engine_refuses_is_in_anthropics_shape(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**ask(("user", "river " * 2000)))
    assert (refused.value.type, bool(refused.value.api_message)) == ("invalid_request_error", True)
