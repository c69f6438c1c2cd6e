"""Bodies of the Messages API, and the chats that are made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import message_create_params
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edge.anthropic.chat import BILLING_BLOCK, NOT_PASSED_ON, read_count, read_message
from edge.dialect import Asked
from edge.errors import Problem
from edge.images_data import ImageRules
from edge.images_walk import remotes_in
from edge.openai_bodies import ChatBody

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PNG_URI = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {"name": "weather", "description": "of a city", "input_schema": {"type": "object", "x": 1.50}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ærø", "big": 2**70}}
NASTY = 'a "quoted" \\ \u2028 \x00 漢字 🎉 </s>'

wanted = TypeAdapter(message_create_params.MessageCreateParams)


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": HELLO, **fields}


def read(body: Any, reading: Any = read_message) -> Any:
    asked = reading(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert isinstance(asked, Asked), asked
    return json.loads(asked.raw)


def fault(body: Any, reading: Any = read_message) -> Problem:
    problem = reading(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert isinstance(problem, Problem), problem
    assert problem.reason == "bad_request"
    return problem


def said(*turns: tuple[str, Any]) -> list[Any]:
    return [{"role": role, "content": content} for role, content in turns]


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image", "source": source}


def result(content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


SHOWN_CALL = {
    "id": "toolu_1",
    "type": "function",
    "function": {"name": "weather", "arguments": f'{{"city":"\\u00c6r\\u00f8","big":{2**70}}}'},
}
FUNCTION = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "x": 1.5},
        "description": "of a city",
    },
}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a text": ({}, {"messages": said(("user", "hello"))}),
    "a nasty text": (
        {"messages": said(("user", [text(NASTY)]))},
        {"messages": said(("user", NASTY))},
    ),
    "an empty text": ({"messages": said(("user", ""))}, {"messages": said(("user", ""))}),
    "several texts keep their bounds": (
        {"messages": said(("user", [text("a"), text("b")]))},
        {"messages": said(("user", [text("a"), text("b")]))},
    ),
    "a system text": (
        {"system": "be brief"},
        {"messages": said(("system", "be brief"), ("user", "hello"))},
    ),
    "system blocks, one of them for accounting": (
        {"system": [text(f"{BILLING_BLOCK}: x; cch=1"), text("a") | {"cache_control": None}, text("b")]},
        {"messages": said(("system", "a\nb"), ("user", "hello"))},
    ),
    "an empty system text": ({"system": ""}, {"messages": said(("user", "hello"))}),
    "a system turn": (
        {"messages": said(("user", "a"), ("system", [text("psst")]), ("user", "b"))},
        {"messages": said(("user", "a"), ("system", "psst"), ("user", "b"))},
    ),
    "turns of one side are one": (
        {
            "messages": said(
                ("user", "a"), ("user", [text("b")]), ("assistant", "c"), ("assistant", "d"), ("user", "e")
            )
        },
        {"messages": said(("user", [text("a"), text("b")]), ("assistant", "cd"), ("user", "e"))},
    ),
    "images": (
        {
            "messages": said(
                ("user", [image(PNG), text("what?"), image({"type": "url", "url": "https://x.test/a"})])
            )
        },
        {"messages": said(("user", [image_part(PNG_URI), text("what?"), image_part("https://x.test/a")]))},
    ),
    "an image alone": (
        {"messages": said(("user", [image(PNG)]))},
        {"messages": said(("user", [image_part(PNG_URI)]))},
    ),
    "thoughts, text and a call": (
        {
            "messages": said(
                ("user", "a"),
                (
                    "assistant",
                    [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "?"},
                        text("so"),
                        CALL,
                    ],
                ),
                ("user", [result("sunny")]),
            )
        },
        {
            "messages": [
                *said(("user", "a")),
                {
                    "role": "assistant",
                    "content": "so",
                    "reasoning_content": "hm",
                    "tool_calls": [SHOWN_CALL],
                },
                {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"},
            ]
        },
    ),
    "a call alone, as the last turn": (
        {"messages": said(("user", "a"), ("assistant", [CALL]))},
        {
            "messages": [
                *said(("user", "a")),
                {"role": "assistant", "content": None, "tool_calls": [SHOWN_CALL]},
            ]
        },
    ),
    "results come first, their images and the user's own words after them": (
        {
            "messages": said(
                (
                    "user",
                    [
                        text("look"),
                        result([text("one"), image(PNG), text("two")]),
                        result("gone", is_error=True),
                        result(None),
                    ],
                )
            )
        },
        {
            "messages": [
                {"role": "tool", "tool_call_id": "toolu_1", "content": "one\ntwo"},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: gone"},
                {"role": "tool", "tool_call_id": "toolu_1", "content": ""},
                {"role": "user", "content": [image_part(PNG_URI), text("look")]},
            ]
        },
    ),
    "the beginning of the answer": (
        {"messages": said(("user", "a"), ("assistant", "The best is ("))},
        {
            "messages": said(("user", "a"), ("assistant", "The best is (")),
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "an empty beginning of the answer": (
        {"messages": said(("user", "a"), ("assistant", ""))},
        {"messages": said(("user", "a"), ("assistant", ""))},
    ),
    "tools": ({"tools": [WEATHER]}, {"messages": HELLO, "tools": [FUNCTION]}),
    "no tools": ({"tools": [], "tool_choice": {"type": "auto"}}, {"messages": HELLO}),
    "tools if it likes": (
        {"tools": [WEATHER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"messages": HELLO, "tools": [FUNCTION], "tool_choice": "auto", "parallel_tool_calls": False},
    ),
    "any tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": False}},
        {"messages": HELLO, "tools": [FUNCTION], "tool_choice": "required"},
    ),
    "one tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}},
        {
            "messages": HELLO,
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
    ),
    "none of the tools": (
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"messages": HELLO, "tools": [FUNCTION], "tool_choice": "none"},
    ),
    "thinking": (
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": True}},
    ),
    "no thinking": (
        {"thinking": {"type": "disabled"}},
        {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}},
    ),
    "thinking as it likes": ({"thinking": {"type": "adaptive"}}, {"messages": HELLO}),
    "thinking as the client knows its template": (
        {"thinking": {"type": "enabled", "budget_tokens": 9}, "chat_template_kwargs": {"reason": 1}},
        {"messages": HELLO, "chat_template_kwargs": {"reason": 1}},
    ),
    "the highest effort, and a format": (
        {
            "output_config": {
                "effort": "max",
                "format": {"type": "json_schema", "schema": {"type": "object"}},
            }
        },
        {
            "messages": HELLO,
            "reasoning_effort": "xhigh",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
            },
        },
    ),
}

SAMPLING = {
    "stream": True,
    "stop_sequences": ["\n\n", "END"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "metadata": {"user_id": "u1"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_body_says_the_same_as_a_chat(case: str) -> None:
    fields, chat = CASES[case]
    body = body_of(**fields)
    assert read(body) == {"model": "m", "max_tokens": 9, **chat}
    assert read(body, read_count) == {"model": "m", "max_tokens": 1, **chat}


def test_the_numbers_of_a_message() -> None:
    body = body_of(**SAMPLING)
    wanted.validate_python(body)
    assert read(body) == {
        "model": "m",
        "max_tokens": 9,
        "messages": HELLO,
        "stream": True,
        "stop": ["\n\n", "END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "user": "u1",
    }
    assert read(body, read_count) == {"model": "m", "max_tokens": 1, "messages": HELLO}
    assert read(body_of(stop_sequences=[], top_k=None, system=None)) == {
        "model": "m",
        "max_tokens": 9,
        "messages": HELLO,
    }


def test_the_edge_decides_from_the_chat() -> None:
    asked = read_message(json.dumps(body_of(**SAMPLING)).encode())
    assert isinstance(asked, Asked)
    assert isinstance(asked.body, ChatBody)
    assert (asked.body.tokens_max, asked.body.streams, asked.body.choices, asked.body.model) == (
        9,
        True,
        1,
        "m",
    )


def test_what_is_not_the_apis_goes_on_as_it_came() -> None:
    raw = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}],"min_p":1e-02,"new":{"a":[1.50]}}'
    asked = read_message(raw)
    assert isinstance(asked, Asked)
    assert b'"min_p":1e-02,"new":{"a":[1.50]}' in asked.raw


@pytest.mark.parametrize("name", NOT_PASSED_ON)
def test_what_no_engine_is_to_see_does_not_go_on(name: str) -> None:
    assert read(body_of(**{name: 7})) == read(body_of())


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
        ({"messages": said(("assistant", [image(PNG)]))}, "messages.0.content.0.type: "),
        ({"messages": said(("user", "x"), ("user", [text("a"), text(7)]))}, "messages.1.content.1.text: "),  # type: ignore[arg-type]
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
        ({"system": [image(PNG)]}, "system.0.type: "),
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


def test_images_are_checked_wherever_a_message_has_them() -> None:
    rules = ImageRules(1, 100, 100)
    remote = image({"type": "url", "url": "http://169.254.169.254/secret"})
    for content in ([remote], [result([remote])]):
        asked = read_message(json.dumps(body_of(messages=said(("user", content)))).encode())
        assert isinstance(asked, Asked)
        assert isinstance(asked.body, ChatBody)
        found = remotes_in(asked.body.messages, rules)
        assert isinstance(found, Problem)
        assert found.reason == "invalid_image"


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
