"""The official OpenAI client for Python, with the responses API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openai import OpenAI

from tests.clients.calling import MODEL, PROMPT, TOKENS, WEATHER, Piece, main

TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}]


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=30)


def create(url: str) -> None:
    answer = client(url).responses.create(model=MODEL, input=PROMPT, max_output_tokens=TOKENS)
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens == TOKENS
    events = list(
        client(url).responses.create(model=MODEL, input=PROMPT, max_output_tokens=TOKENS, stream=True)
    )
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert client(url).responses.retrieve(answer.id).output_text == answer.output_text


def conversation(url: str) -> None:
    first = client(url).responses.create(model=MODEL, input=PROMPT, max_output_tokens=TOKENS)
    second = client(url).responses.create(
        model=MODEL, input="And lakes?", previous_response_id=first.id, max_output_tokens=TOKENS
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert len(client(url).responses.input_items.list(second.id).data) >= 1


def background(url: str) -> None:
    answer = client(url).responses.create(
        model=MODEL, input=PROMPT, max_output_tokens=TOKENS, background=True
    )
    assert answer.status in ("queued", "in_progress")
    stream = client(url).responses.retrieve(answer.id, stream=True)
    assert [event.type for event in stream][-1] == "response.incomplete"
    assert client(url).responses.retrieve(answer.id).status == "incomplete"
    long = client(url).responses.create(model=MODEL, input=PROMPT, max_output_tokens=4000, background=True)
    assert client(url).responses.cancel(long.id).status == "cancelled"


def tools(url: str) -> None:
    answer = client(url).responses.create(model=MODEL, input=PROMPT, tools=TOOLS, tool_choice="required")
    call = answer.output[-1]
    assert call.type == "function_call"
    assert call.name == "weather"
    result: list[Any] = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    again = client(url).responses.create(
        model=MODEL, previous_response_id=answer.id, input=result, max_output_tokens=TOKENS
    )
    assert again.output_text


def stream_helper(url: str) -> None:
    # The client takes an answer that met its limit for an error.
    with client(url).responses.stream(model=MODEL, input=PROMPT) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert "".join(deltas) == final.output_text


def resume(url: str) -> None:
    body: dict[str, Any] = {"model": MODEL, "input": PROMPT, "max_output_tokens": 100, "background": True}
    before = []
    with client(url).responses.create(**body, stream=True) as events:
        for event in events:
            before.append(event)
            if len(before) == 20:
                break
    first: Any = before[0]
    rid = first.response.id
    after = client(url).responses.retrieve(rid, stream=True, starting_after=before[-1].sequence_number)
    both = [*before, *after]
    assert [event.sequence_number for event in both] == list(range(len(both)))
    text = "".join(event.delta for event in both if event.type == "response.output_text.delta")
    assert text == client(url).responses.retrieve(rid).output_text


def stream(
    url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Piece]:
    rid = ""
    for event in client(url).responses.create(
        model=MODEL,
        input=prompt,
        max_output_tokens=tokens,
        stream=True,
        extra_headers=headers,
        extra_body=fields,
    ):
        if event.type == "response.created":
            rid = event.response.id.removeprefix("resp_")
        if event.type == "response.output_text.delta":
            yield rid, event.delta


CALLS = [create, conversation, background, tools, stream_helper, resume]

if __name__ == "__main__":
    main(CALLS, stream)
