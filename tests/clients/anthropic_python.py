"""The official Anthropic client for Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
from anthropic import Anthropic

from tests.clients.calling import MODEL, PROMPT, TOKENS, WEATHER, Piece, main

MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
TOOLS: list[Any] = [{"name": "weather", "description": "The weather", "input_schema": WEATHER}]


def client(url: str) -> Anthropic:
    return Anthropic(base_url=url, api_key="unused", max_retries=0, timeout=30)


def messages(url: str) -> None:
    answer = client(url).messages.create(
        model=MODEL, messages=MESSAGES, max_tokens=TOKENS, system="Be brief."
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == TOKENS
    assert answer._request_id


def messages_stream(url: str) -> None:
    whole = client(url).messages.create(model=MODEL, messages=MESSAGES, max_tokens=TOKENS)
    with client(url).messages.stream(model=MODEL, messages=MESSAGES, max_tokens=TOKENS) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text"
    assert text == whole.content[0].text
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == TOKENS
    assert final.usage.input_tokens == whole.usage.input_tokens


def messages_tools(url: str) -> None:
    choice: Any = {"type": "any"}
    answer = client(url).messages.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=200
    )
    assert answer.stop_reason == "tool_use"
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "weather"
    turn: list[Any] = [
        *MESSAGES,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
    ]
    again = client(url).messages.create(model=MODEL, messages=turn, max_tokens=TOKENS, tools=TOOLS)
    assert again.content


def count_tokens(url: str) -> None:
    counted = client(url).messages.count_tokens(model=MODEL, messages=MESSAGES)
    answer = client(url).messages.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    assert counted.input_tokens == answer.usage.input_tokens > 0


def models(url: str) -> None:
    assert [model.id for model in client(url).models.list()] == [MODEL]
    assert client(url).models.retrieve(MODEL).id == MODEL


def errors(url: str) -> None:
    asked: list[tuple[type[Exception], dict[str, Any]]] = [
        (anthropic.NotFoundError, {"model": "nobody", "messages": MESSAGES, "max_tokens": 1}),
        (anthropic.BadRequestError, {"model": MODEL, "messages": MESSAGES, "max_tokens": 0}),
        (anthropic.BadRequestError, {"model": MODEL, "messages": [], "max_tokens": 1}),
    ]
    for kind, fields in asked:
        told: Exception | None = None
        try:
            client(url).messages.create(**fields)
        except kind as error:
            told = error
        assert isinstance(told, anthropic.APIStatusError), f"no {kind.__name__} for {fields}"
        assert isinstance(told.body, dict)
        assert told.body["type"] == "error"


def stream(
    url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Piece]:
    rid = ""
    for event in client(url).messages.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=tokens,
        stream=True,
        extra_headers=headers,
        extra_body=fields,
    ):
        if event.type == "message_start":
            rid = event.message.id.removeprefix("msg_")
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            yield rid, event.delta.text


CALLS = [messages, messages_stream, messages_tools, count_tokens, models, errors]

if __name__ == "__main__":
    main(CALLS, stream)
