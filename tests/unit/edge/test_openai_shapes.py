"""The bytes of both dialects against the types of the official client."""

from __future__ import annotations

import json
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from edge.openai_chat import ChatShape
from edge.openai_completions import CompletionShape
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import Delta, End, Usage

RID = "a" * 26
MODEL = 'Qwen/"quoted" 100%d'
NASTY = 'line\nbreak "quoted" \\ \u2028 \x00 — 漢字 🎉 data: [DONE]\n\n'
END = End(status="ok", n=3, usage=Usage(7, 3), finish_reasons=["length"])


def chat(*, include_usage: bool = False) -> ChatShape:
    return ChatShape(RID, MODEL, 1_700_000_000, include_usage=include_usage)


def completion(*, include_usage: bool = False) -> CompletionShape:
    return CompletionShape(RID, MODEL, 1_700_000_000, include_usage=include_usage)


def events(data: bytes) -> list[tuple[str | None, str]]:
    """(id, data) of each server-sent event; every line must be one of the two fields."""
    assert data.endswith(b"\n\n")
    found: list[tuple[str | None, str]] = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(fields) <= {"id", "data"}
        found.append((fields.get("id"), fields["data"]))
    return found


def chunks(data: bytes) -> list[tuple[str | None, ChatCompletionChunk]]:
    return [
        (name, ChatCompletionChunk.model_validate_json(text))
        for name, text in events(data)
        if text != "[DONE]"
    ]


def test_a_chat_opens_with_its_role() -> None:
    [(name, chunk)] = chunks(chat().opening())
    assert name == "0-0"
    assert (chunk.id, chunk.model, chunk.created) == (f"chatcmpl-{RID}", MODEL, 1_700_000_000)
    assert chunk.object == "chat.completion.chunk"
    assert (chunk.choices[0].delta.role, chunk.choices[0].delta.content) == ("assistant", "")
    assert chunk.choices[0].finish_reason is None


def test_each_delta_is_an_event_of_its_own() -> None:
    found = chunks(chat().tokens(Tokens(5, [Delta(NASTY), Delta("b", choice=1)])))
    assert [name for name, _ in found] == ["5-0", "5-1"]
    assert [chunk.choices[0].delta.content for _, chunk in found] == [NASTY, "b"]
    assert [chunk.choices[0].index for _, chunk in found] == [0, 1]


def test_a_record_without_text_makes_no_event() -> None:
    assert chat().tokens(Tokens(5, [])) == completion().tokens(Tokens(5, [])) == b""


def test_a_chat_ends_with_finish_usage_and_done() -> None:
    data = chat(include_usage=True).ending(END, 3)
    (first, finish), (second, usage) = chunks(data)
    assert (first, second) == ("4-0", "4-1")
    assert finish.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage is not None
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens, usage.usage.total_tokens) == (7, 3, 10)
    assert events(data)[-1] == (None, "[DONE]")


def test_usage_comes_only_when_asked_for() -> None:
    assert [text for _, text in events(chat().ending(END, 3))][1:] == ["[DONE]"]


def test_a_whole_chat() -> None:
    answer = ChatCompletion.model_validate_json(chat().whole([Choice([NASTY])], END, 3))
    assert answer.choices[0].message.content == NASTY
    assert (answer.choices[0].finish_reason, answer.id, answer.model) == ("length", f"chatcmpl-{RID}", MODEL)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10


def test_a_chat_without_text_is_an_empty_text() -> None:
    answer = ChatCompletion.model_validate_json(chat().whole([], End(status="ok", n=0), 0))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "stop")


def test_a_completion_stream() -> None:
    shape = completion(include_usage=True)
    data = shape.opening() + shape.tokens(Tokens(3, [Delta(NASTY)])) + shape.ending(END, 3)
    found = events(data)
    assert [name for name, _ in found] == ["3-0", "4-0", "4-1", None]
    bodies: list[dict[str, Any]] = [json.loads(text) for _, text in found[:-1]]
    assert bodies[0]["choices"] == [{"index": 0, "text": NASTY, "logprobs": None, "finish_reason": None}]
    # The package's type wants a finish reason even in a chunk that has none, so only the later ones can be held to it.
    finish, usage = (Completion.model_validate(body) for body in bodies[1:])
    assert (finish.choices[0].text, finish.choices[0].finish_reason) == ("", "length")
    assert (finish.id, finish.object, finish.model) == (f"cmpl-{RID}", "text_completion", MODEL)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 10


def test_a_whole_completion() -> None:
    answer = Completion.model_validate_json(completion().whole([Choice([NASTY])], END, 3))
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (NASTY, "length")
    assert (answer.id, answer.model) == (f"cmpl-{RID}", MODEL)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
