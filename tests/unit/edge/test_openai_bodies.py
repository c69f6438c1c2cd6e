"""What the edge accepts of a client's body, and how it refuses the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.errors import Problem
from edge.openai_bodies import (
    INPUTS_MAX,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    decode_chat,
    decode_completion,
    decode_embedding,
)
from schemas.requests import CHOICES_MAX

MESSAGES = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatBody | Problem:
    return decode_chat(json.dumps({"messages": MESSAGES, **fields}).encode())


def test_a_chat_with_all_fields() -> None:
    body = chat(
        model="m",
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=5,
        max_completion_tokens=7,
        n=CHOICES_MAX,
        seed=-3,
        stop=["a", "b"],
        temperature=0.5,
    )
    assert isinstance(body, ChatBody)
    assert (body.model, body.streams, body.include_usage, body.tokens_max) == ("m", True, True, 7)
    assert body.choices == CHOICES_MAX


def test_null_is_as_good_as_absent() -> None:
    body = chat(
        model=None, stream=None, stream_options=None, max_tokens=None, n=None, stop=None, temperature=None
    )
    assert isinstance(body, ChatBody)
    assert (body.model, body.streams, body.include_usage, body.tokens_max) == (None, False, False, None)
    assert body.choices == 1


def test_unknown_fields_are_accepted_whatever_they_hold() -> None:
    parts = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}], "name": 3}]
    body = chat(
        messages=parts,
        tools=[{"type": "function"}],
        tool_choice="required",
        response_format={"type": "json_object"},
        logprobs=True,
        reasoning_effort="low",
        top_k=40,
    )
    assert isinstance(body, ChatBody)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1 << 40}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"n": CHOICES_MAX + 1}, "n"),
        ({"n": 0}, "n"),
        ({"n": "two"}, "n"),
        ({"seed": "x"}, "seed"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    problem = chat(**fields)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", param)


def test_a_missing_required_field_is_named() -> None:
    for problem, param in ((decode_chat(b"{}"), "messages"), (decode_completion(b"{}"), "prompt")):
        assert isinstance(problem, Problem)
        assert (problem.reason, problem.param) == ("bad_request", param)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"not json",
        b'{"model":"\xff","messages":[{"role":"user"}]}',
        b'{"messages":[{"role":"user"}],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["empty", "cut", "list", "null", "text", "not utf-8", "deep"],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    problem = decode_chat(data)
    assert isinstance(problem, Problem)
    assert problem.row.status == 400


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("hello", 1),
        ("", 1),
        (["hello"], 1),
        (["a", "b"], 2),
        ([1, 2], 1),
        ([[1, 2]], 1),
        ([[1], [2], [3]], 3),
    ],
)
def test_each_prompt_has_its_choices(prompt: Any, count: int) -> None:
    body = decode_completion(json.dumps({"prompt": prompt, "n": 2}).encode())
    assert isinstance(body, CompletionBody)
    assert body.choices == 2 * count


def test_more_choices_than_a_request_may_have_are_refused() -> None:
    assert isinstance(decode_completion(json.dumps({"prompt": ["a"] * 64, "n": 2}).encode()), CompletionBody)
    problem = decode_completion(json.dumps({"prompt": ["a"] * 65, "n": 2}).encode())
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", "prompt")


@pytest.mark.parametrize(
    "prompt", [[], 7, None, {"text": "a"}, ["a", ""], ["a", 1], [[1], []], [[1], "a"], [True], [1.5]]
)
def test_any_other_prompt_is_refused(prompt: Any) -> None:
    problem = decode_completion(json.dumps({"prompt": prompt}).encode())
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", "prompt")


@pytest.mark.parametrize(
    "given", ["hello", ["a", "b"], [1, 2], [[1, 2], [3]], ["x"] * INPUTS_MAX, [7] * (INPUTS_MAX + 1)]
)
def test_one_text_and_several_are_embedded(given: Any) -> None:
    body = decode_embedding(json.dumps({"input": given, "dimensions": 8, "user": "u"}).encode())
    assert isinstance(body, EmbeddingBody)
    assert (body.tokens_max, body.choices, body.streams, body.include_usage) == (1, 1, False, False)


@pytest.mark.parametrize(
    "given",
    [
        "",
        [],
        [""],
        ["a", ""],
        [[]],
        [[1], []],
        ["a", 1],
        [1, [2]],
        [["a"]],
        [1.5],
        [True],
        [None],
        7,
        {"text": "a"},
    ],
    ids=str,
)
def test_any_other_input_is_refused(given: Any) -> None:
    problem = decode_embedding(json.dumps({"input": given}).encode())
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", "input")


def test_the_texts_of_one_request_are_bounded() -> None:
    problem = decode_embedding(json.dumps({"input": ["x"] * (INPUTS_MAX + 1)}).encode())
    assert isinstance(problem, Problem)
    assert problem.param == "input"


@pytest.mark.parametrize("fields", [{"encoding_format": "hex"}, {"dimensions": 0}, {"model": 3}])
def test_a_wrong_field_of_embeddings_is_named(fields: dict[str, Any]) -> None:
    problem = decode_embedding(json.dumps({"input": "a", **fields}).encode())
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", *fields)


def test_what_would_make_it_another_kind_of_request_is_refused() -> None:
    for problem, param in (
        (decode_embedding(b'{"input": "a", "messages": []}'), "messages"),
        (decode_embedding(b'{"input": "a", "prompt": "b"}'), "prompt"),
        (decode_completion(b'{"prompt": "a", "messages": [{"role": "user"}]}'), "messages"),
    ):
        assert isinstance(problem, Problem)
        assert (problem.reason, problem.param) == ("bad_request", param)
