"""Bodies of the Messages API, and the chats that are made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import message_create_params
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


@pytest.mark.parametrize("name", [name for name in NOT_PASSED_ON if name != "thread"])
def test_what_no_engine_is_to_see_does_not_go_on(name: str) -> None:
    assert read(body_of(**{name: 7})) == read(body_of())


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
