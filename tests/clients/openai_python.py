"""The official OpenAI client for Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
from openai import OpenAI

from tests.clients.calling import MODEL, PROMPT, TOKENS, WEATHER, Piece, main

MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=30)


def chat(url: str) -> None:
    answer = client(url).chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=TOKENS)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    assert answer._request_id


def chat_stream(url: str) -> None:
    whole = client(url).chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=TOKENS)
    options: Any = {"include_usage": True}
    chunks = list(
        client(url).chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=TOKENS, stream=True, stream_options=options
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == TOKENS


def chat_stream_helper(url: str) -> None:
    whole = client(url).chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=TOKENS)
    # The client takes an answer that met its limit for an error.
    word = (whole.choices[0].message.content or "").split()[2]
    with client(url).chat.completions.stream(model=MODEL, messages=MESSAGES, stop=word) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].finish_reason == "stop"


def chat_tools(url: str) -> None:
    answer = client(url).chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required", max_tokens=200
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    turn: list[Any] = [
        *MESSAGES,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": calls[0].id, "content": "rain"},
    ]
    again = client(url).chat.completions.create(model=MODEL, messages=turn, max_tokens=TOKENS)
    assert again.choices[0].message.content


def chat_choices_and_logprobs(url: str) -> None:
    answer = client(url).chat.completions.create(
        model=MODEL, messages=MESSAGES, n=2, logprobs=True, top_logprobs=2, max_tokens=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4


def chat_image(url: str) -> None:
    content: list[Any] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    messages: list[Any] = [{"role": "user", "content": content}]
    answer = client(url).chat.completions.create(model=MODEL, messages=messages, max_tokens=4)
    assert answer.choices[0].message.content


def completions(url: str) -> None:
    answer = client(url).completions.create(model=MODEL, prompt=PROMPT, max_tokens=TOKENS)
    assert answer.choices[0].text
    chunks = client(url).completions.create(model=MODEL, prompt=PROMPT, max_tokens=TOKENS, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def completions_of_several_prompts(url: str) -> None:
    prompts = ["one", "two", "three"]
    answer = client(url).completions.create(model=MODEL, prompt=prompts, max_tokens=6)
    alone = [client(url).completions.create(model=MODEL, prompt=one, max_tokens=6) for one in prompts]
    assert [choice.text for choice in answer.choices] == [one.choices[0].text for one in alone]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def embeddings(url: str) -> None:
    answer = client(url).embeddings.create(model=MODEL, input=["one", "two"])
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 0


def models(url: str) -> None:
    assert [model.id for model in client(url).models.list()] == [MODEL]
    assert client(url).models.retrieve(MODEL).id == MODEL


def errors(url: str) -> None:
    asked: list[tuple[type[Exception], dict[str, Any]]] = [
        (openai.NotFoundError, {"model": "nobody", "messages": MESSAGES}),
        (openai.BadRequestError, {"model": MODEL, "messages": []}),
        (openai.BadRequestError, {"model": MODEL, "messages": MESSAGES, "max_tokens": 10**9}),
        (openai.BadRequestError, {"model": MODEL, "messages": MESSAGES, "temperature": 9}),
    ]
    for kind, fields in asked:
        try:
            client(url).chat.completions.create(**fields)
        except kind:
            continue
        raise AssertionError(f"no {kind.__name__} for {fields}")


def stream(
    url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Piece]:
    for chunk in client(url).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=tokens,
        stream=True,
        extra_headers=headers,
        extra_body=fields,
    ):
        yield chunk.id.removeprefix("chatcmpl-"), chunk.choices[0].delta.content or ""


CALLS = [
    chat,
    chat_stream,
    chat_stream_helper,
    chat_tools,
    chat_choices_and_logprobs,
    chat_image,
    completions,
    completions_of_several_prompts,
    embeddings,
    models,
    errors,
]

if __name__ == "__main__":
    main(CALLS, stream)
