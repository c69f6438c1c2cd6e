"""What is no body of the Messages API, and what its client is told of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.anthropic.chat import read_count, read_message
from edge.errors import Problem, cut

WEATHER = {"name": "weather", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": said(("user", "hello")), **fields}


def said(*turns: tuple[str, Any]) -> list[Any]:
    return [{"role": role, "content": content} for role, content in turns]


def text(value: Any) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image", "source": source}


def result(content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}


def fault(body: Any, reading: Any = read_message) -> Problem:
    problem = reading(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert isinstance(problem, Problem), problem
    assert problem.reason == "bad_request"
    return problem


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": True}, "max_tokens: "),
        ({"max_tokens": "9"}, "max_tokens: "),
        ({"model": None}, "model: "),
        ({"messages": []}, "messages: "),
        ({"messages": {}}, "messages: "),
        ({"messages": [7]}, "messages.0: "),
        ({"messages": [{"content": "x"}]}, "messages.0.role: field required"),
        ({"messages": said(("tool", "x"))}, "messages.0.role: "),
        ({"messages": [{"role": "user"}]}, "messages.0.content: field required"),
        ({"messages": said(("user", None))}, "messages.0.content: "),
        ({"messages": said(("user", []))}, "messages.0.content: "),
        ({"messages": said(("user", ["x"]))}, "messages.0.content.0: "),
        ({"messages": said(("user", [{"text": "x"}]))}, "messages.0.content.0.type: field required"),
        ({"messages": said(("user", [{"type": "document"}]))}, "messages.0.content.0.type: "),
        ({"messages": said(("user", [CALL]))}, "messages.0.content.0.type: "),
        ({"messages": said(("assistant", [result("x")]))}, "messages.0.content.0.type: "),
        ({"messages": said(("assistant", [IMAGE]))}, "messages.0.content.0.type: "),
        ({"messages": said(("user", "x"), ("user", [text("a"), text(7)]))}, "messages.1.content.1.text: "),
        ({"messages": said(("user", [image({"type": "file"})]))}, "messages.0.content.0.source.type: "),
        (
            {"messages": said(("user", [image({"type": "base64", "data": "AA=="})]))},
            "messages.0.content.0.source.media_type: field required",
        ),
        (
            {"messages": said(("assistant", [CALL | {"input": [1]}]))},
            "messages.0.content.0.input: ",
        ),
        ({"messages": said(("user", [result([CALL])]))}, "messages.0.content.0.content.0.type: "),
        ({"messages": said(("system", ""))}, "messages must not be empty"),
        ({"system": [IMAGE]}, "system.0.type: "),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: field required"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools.0.name: "),
        ({"tools": [WEATHER | {"input_schema": []}]}, "tools.0.input_schema: "),
        ({"tools": [WEATHER, WEATHER | {"type": "bash_20250124"}]}, "tools.1.type: "),
        ({"tool_choice": {"type": "any"}}, "tool_choice: `any` needs tools"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice: `tool` needs tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name: "),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}}, "tool_choice.name: "),
        ({"tools": [WEATHER], "tool_choice": {"type": "required"}}, "tool_choice.type: "),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice: "),
        ({"thinking": {"type": "on"}}, "thinking.type: "),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens: "),
        ({"stop_sequences": "x"}, "stop_sequences: "),
        ({"stop_sequences": ["x", ""]}, "stop_sequences.1: "),
        ({"temperature": 1.5}, "temperature: "),
        ({"temperature": -0.1}, "temperature: "),
        ({"top_p": 2}, "top_p: "),
        ({"top_k": -1}, "top_k: "),
        ({"top_k": 0.5}, "top_k: "),
        ({"stream": "yes"}, "stream: "),
        ({"metadata": {"user_id": 7}}, "metadata.user_id: "),
        ({"output_config": {"effort": "very"}}, "output_config.effort: "),
        ({"seed": "x"}, "$.seed"),
    ],
    ids=str,
)
def test_a_bad_body_is_refused_by_the_name_of_its_field(fields: dict[str, Any], says: str) -> None:
    assert says in fault(body_of(**fields)).message


@pytest.mark.parametrize("reading", [read_message, read_count])
def test_a_part_of_a_conversation_is_not_taken_for_all_of_it(reading: Any) -> None:
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, False):
        problem = reading(json.dumps(body_of(thread=thread)).encode())
        assert isinstance(problem, Problem)
        assert problem.reason == "thread_unsupported"
    assert not isinstance(reading(json.dumps(body_of(thread=None)).encode()), Problem)


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_what_is_required_is_asked_for(name: str) -> None:
    body = {key: value for key, value in body_of().items() if key != name}
    assert fault(body).message == f"{name}: field required"
    if name != "max_tokens":
        assert fault(body, read_count).message == f"{name}: field required"


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"nonsense", b"\xff\xfe", b"[]", b"null", b'"text"'),
        json.dumps(body_of()).encode().replace(b"hello", b"\xff"),
        json.dumps(body_of(extra=7)).encode().replace(b"7", b'"\xff"'),
        json.dumps(body_of(extra=7)).encode().replace(b"7", b'"\\u12"'),
        b"[" * 100_000,
        b'{"model":"m","max_tokens":1,"messages":' + b"[" * 100_000,
        json.dumps(body_of(deep=7)).encode().replace(b"7", b"[" * 100_000 + b"]" * 100_000),
        json.dumps(body_of(tools=[WEATHER | {"input_schema": {"deep": 7}}]))
        .encode()
        .replace(b"7", b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_what_is_no_body_is_refused(raw: bytes) -> None:
    for reading in (read_message, read_count):
        fault(raw, reading)


words = st.text(alphabet='ab"\\\n\x00é🎉', max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=16) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
near_blocks = st.dictionaries(
    st.sampled_from(["type", "text", "source", "input", "content", "id", "name", "tool_use_id"]),
    st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking"]) | json_values,
    max_size=5,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.just("m") | json_values,
            "max_tokens": st.just(5) | json_values,
            "messages": st.lists(
                st.fixed_dictionaries(
                    {
                        "role": st.sampled_from(["user", "assistant", "system"]),
                        "content": words | st.lists(near_blocks, max_size=2),
                    }
                ),
                max_size=3,
            )
            | json_values,
            "system": json_values,
            "tools": json_values,
            "tool_choice": json_values,
            "anything": json_values,
        },
    )
)
def test_whatever_comes_is_a_chat_or_a_problem(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    for reading in (read_message, read_count):
        asked = reading(raw)
        if isinstance(asked, Problem):
            assert asked.reason == "bad_request"
            assert asked.message
        else:
            assert json.loads(asked.raw)["messages"]


def test_a_text_that_looks_like_places_is_not_searched_for_one() -> None:
    # A pattern took 400 s for a megabyte of these, and held up every stream of its edge.
    text = " - at `$" * 20_000 + "\n"
    begun = time.process_time()
    problem = fault({**body_of(), "messages": [{"role": text, "content": "x"}]})
    assert time.process_time() - begun < 1.0
    assert problem.param == "messages.0.role"
    assert problem.message == cut(f"messages.0.role: Invalid value '{text}'")
