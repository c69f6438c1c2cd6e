"""The bytes of both dialects against the types of the official client."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from edge.openai_chat import ChatShape
from edge.openai_completions import CompletionShape
from edge.openai_embeddings import EmbeddingShape
from edge.openai_shape import UNLIKELY
from edge.relay import Tokens
from schemas.choices import Choice, add_deltas
from schemas.output import Delta, End, TokenLogprob, ToolPiece, Usage

RID = "a" * 26
MODEL = 'Qwen/"quoted" 100%d'
NASTY = 'line\nbreak "quoted" \\ \u2028 \x00 — 漢字 🎉 data: [DONE]\n\n'
END = End(status="ok", n=3, usage=Usage(7, 3), finish_reasons=["length"])


LIKELY = TokenLogprob("a", -0.5, [97], [TokenLogprob("a", -0.5, [97]), TokenLogprob("b", -1.5, [98])])
UNTOLD = TokenLogprob("é", None)


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


def deltas_of(data: bytes) -> list[dict[str, Any]]:
    """The choices of a stream's events, as they are."""
    return [json.loads(text)["choices"][0] for _, text in events(data) if text != "[DONE]"]


def test_reasoning_is_told_apart_from_text() -> None:
    first, second = deltas_of(chat().tokens(Tokens(2, [Delta("", reasoning="hm"), Delta("so")])))
    assert first["delta"] == {"reasoning": "hm"}
    assert second["delta"] == {"content": "so"}


def test_a_call_comes_in_pieces() -> None:
    pieces = [
        ToolPiece(0, "call_1", "weather", ""),
        ToolPiece(0, "", "", '{"city'),
        ToolPiece(1, "call_2", "time", "{}"),
    ]
    shown = deltas_of(chat().tokens(Tokens(3, [Delta("", tools=[piece]) for piece in pieces])))
    assert [choice["delta"]["tool_calls"] for choice in shown] == [
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"city'}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}],
    ]
    assert all("content" not in choice["delta"] for choice in shown)


def test_logprobs_of_a_chat() -> None:
    [(_, chunk)] = chunks(chat().tokens(Tokens(2, [Delta("aé", logprobs=[LIKELY, UNTOLD])])))
    told = chunk.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    first, second = told.content
    assert (first.token, first.logprob, first.bytes) == ("a", -0.5, [97])
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("a", -0.5), ("b", -1.5)]
    assert (second.token, second.logprob, second.bytes, second.top_logprobs) == ("é", UNLIKELY, None, [])
    [held_back] = deltas_of(chat().tokens(Tokens(2, [Delta("", logprobs=[LIKELY])])))
    assert held_back["delta"] == {"content": ""}


def test_each_further_choice_says_its_role_once() -> None:
    shape = chat()
    data = shape.opening() + shape.tokens(Tokens(2, [Delta("a"), Delta("b", 2)]))
    data += shape.tokens(Tokens(4, [Delta("c", 2), Delta("", 0, "d")]))
    data += shape.ending(End(status="ok", finish_reasons=["stop", "length", "stop"]), 4)
    said = [(choice["index"], choice["delta"]) for choice in deltas_of(data)]
    assert said == [
        (0, {"role": "assistant", "content": ""}),
        (0, {"content": "a"}),
        (2, {"role": "assistant", "content": "b"}),
        (2, {"content": "c"}),
        (0, {"reasoning": "d"}),
        (0, {}),
        (1, {"role": "assistant", "content": ""}),
        (2, {}),
    ]
    assert [name for name, _ in events(data)] == [
        "0-0",
        "2-0",
        "2-1",
        "4-0",
        "4-1",
        "5-0",
        "5-1",
        "5-2",
        None,
    ]


@pytest.mark.parametrize("shape", [chat(), completion()])
def test_a_choice_that_met_a_stop_says_which(shape: ChatShape | CompletionShape) -> None:
    end = End(status="ok", finish_reasons=["stop", "stop", "length"], stop_reasons=["END", 151645, None])
    shown = [
        {key: choice[key] for key in choice if key.endswith("reason")}
        for choice in deltas_of(shape.ending(end, 3))
    ]
    assert shown == [
        {"finish_reason": "stop", "stop_reason": "END"},
        {"finish_reason": "stop", "stop_reason": 151645},
        {"finish_reason": "length"},
    ]
    whole = json.loads(shape.whole([], end, 3))["choices"]
    assert [choice.get("stop_reason") for choice in whole] == ["END", 151645, None]


@pytest.mark.parametrize("shape", [chat(include_usage=True), completion(include_usage=True)])
def test_details_of_usage_are_shown_when_told(shape: ChatShape | CompletionShape) -> None:
    plain, detailed = Usage(7, 3), Usage(7, 3, cached_tokens=4, reasoning_tokens=0)
    for usage in (plain, detailed):
        end = End(status="ok", usage=usage)
        streamed = json.loads(events(shape.ending(end, 3))[-2][1])["usage"]
        assert streamed == json.loads(shape.whole([], end, 3))["usage"]
        details = {key: streamed[key] for key in streamed if key.endswith("details")}
        assert details == (
            {}
            if usage is plain
            else {
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 0},
            }
        )


def test_a_whole_chat_with_everything() -> None:
    choices: list[Choice] = []
    add_deltas(
        choices,
        [
            Delta("", 0, "think"),
            Delta("", 0, "ing", logprobs=[LIKELY]),
            Delta("", 0, tools=[ToolPiece(0, "call_1", "weather", '{"a"')]),
            Delta("", 0, tools=[ToolPiece(0, "", "", ":1}")]),
            Delta("text", 1),
            Delta("", 2, "only thought"),
        ],
    )
    end = End(status="ok", finish_reasons=["tool_calls", "stop", "length", "stop"])
    data = chat().whole(choices, end, 6)
    answer = ChatCompletion.model_validate_json(data)
    called, said, thought, silent = json.loads(data)["choices"]
    assert called["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning": "thinking",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
        ],
    }
    assert answer.choices[0].logprobs is not None
    assert said["message"] == {"role": "assistant", "content": "text"}
    assert thought["message"] == {"role": "assistant", "content": None, "reasoning": "only thought"}
    assert silent["message"] == {"role": "assistant", "content": ""}
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.finish_reason for choice in answer.choices] == ["tool_calls", "stop", "length", "stop"]


def test_logprobs_of_a_completion_count_their_offsets_where_none_are_told() -> None:
    shape = completion()
    data = shape.tokens(Tokens(2, [Delta("aé", logprobs=[LIKELY, UNTOLD])]))
    data += shape.tokens(Tokens(4, [Delta("a", logprobs=[LIKELY]), Delta("a", 1, logprobs=[LIKELY])]))
    first, second, other = (choice["logprobs"] for choice in deltas_of(data))
    assert first == {
        "text_offset": [0, 1],
        "token_logprobs": [-0.5, None],
        "tokens": ["a", "é"],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, None],
    }
    assert (second["text_offset"], other["text_offset"]) == ([2], [0]), "each choice counts its own"
    told = TokenLogprob("a", -0.5, text_offset=40)
    [shown] = deltas_of(completion().tokens(Tokens(2, [Delta("aa", logprobs=[told, LIKELY])])))
    assert shown["logprobs"]["text_offset"] == [40, 41], "what the engine tells holds"


def test_a_whole_completion_with_logprobs_of_two_choices() -> None:
    choices = [Choice(["aa"], logprobs=[LIKELY, LIKELY]), Choice(["a"], logprobs=[LIKELY])]
    answer = Completion.model_validate_json(completion().whole(choices, END, 3))
    assert len(answer.choices) == 1, "an END says how many there are"
    end = End(status="ok", finish_reasons=["stop", "stop"])
    answer = Completion.model_validate_json(completion().whole(choices, end, 3))
    told = [choice.logprobs for choice in answer.choices]
    assert [one.text_offset for one in told if one is not None] == [[0, 1], [0]]


def test_embeddings_are_the_engines_answer_under_the_clients_name() -> None:
    told = {
        "id": "embd-1",
        "object": "list",
        "model": "path/of/the/engine",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1e-7]}],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    end = End(status="ok", n=0, result=msgspec.Raw(json.dumps(told, indent=2).replace("\n", "\n\n").encode()))
    shape = EmbeddingShape(RID, MODEL, 1_700_000_000, include_usage=False)
    data = shape.whole([], end, 0)
    assert json.loads(data) == told | {"model": MODEL}
    CreateEmbeddingResponse.model_validate_json(data)
    assert shape.opening() + shape.tokens(Tokens(1, [Delta("x")])) == b""
    [(name, answer), (_, done)] = events(shape.ending(end, 0))
    assert (name, json.loads(answer), done) == ("1-0", json.loads(data), "[DONE]")
    unnamed = EmbeddingShape(RID, "", 0, include_usage=False)
    assert json.loads(unnamed.whole([], end, 0)) == told, "nobody knows another name"
    assert json.loads(shape.whole([], End(status="ok"), 0))["data"] == []
