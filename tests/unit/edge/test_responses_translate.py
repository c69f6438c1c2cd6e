"""From a response's body to the chat that an engine is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItemList

from edge.errors import Problem
from edge.openai_bodies import ChatBody
from edge.responses.body import decode_response
from edge.responses.items import items_of, messages_of, shown_items
from edge.responses.listing import listed
from edge.responses.record import Record, decode_record, encode_record
from edge.responses.shape import ResponseShape
from edge.responses.translate import Translated, read_response, translate
from tests.unit.edge.responses_reading import assert_whole_object, valid

RID = "abcdefghijklmnopqrstuvwxyz"
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object"},
    "strict": True,
}
OTHER = {"type": "function", "name": "time"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def translated(history: list[dict[str, Any]] | None = None, **fields: Any) -> Translated:
    decoded = decode_response(json.dumps({"model": "m", "input": "hi", **fields}).encode())
    assert not isinstance(decoded, Problem), decoded
    made = translate(*decoded, history or [])
    assert isinstance(made, Translated), made
    return made


def chat_of(history: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    return dict(json.loads(translated(history, **fields).asked.raw))


def problem_in(**fields: Any) -> Problem:
    problem = read_response(json.dumps({"model": "m", "input": "hi", **fields}).encode())
    assert isinstance(problem, Problem), problem
    return problem


def test_a_text_is_a_message_and_no_more() -> None:
    assert chat_of() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_what_was_said_before_stands_between_instructions_and_input() -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    messages = chat_of(history, instructions="be brief")["messages"]
    assert [message["content"] for message in messages] == ["be brief", "a", "b", "hi"]
    assert messages[0]["role"] == "system"


def test_items_become_messages() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "look"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "at"},
                {"type": "input_image", "image_url": PIXEL, "detail": "low"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I call", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c0", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c1", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c0", "output": "rain"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "noon"}]},
    ]
    assert messages_of(items) == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "look"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "at"},
                {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I call",
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
                {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "rain"},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]


def test_fields_take_the_names_of_a_chat() -> None:
    chat = chat_of(
        stream=True,
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        top_logprobs=2,
        top_k=40,
        metadata={"a": "b"},
        user="me",
        store=False,
        truncation="auto",
        include=["reasoning.encrypted_content"],
    )
    del chat["messages"], chat["model"]
    assert chat == {
        "stream": True,
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_object"},
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": 2,
        "top_k": 40,
    }


def test_a_schema_and_a_wish_for_logprobs() -> None:
    chat = chat_of(
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        include=["message.output_text.logprobs"],
    )
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 0)


def test_one_function_or_some_of_them_may_be_chosen() -> None:
    one = chat_of(tools=[TOOL, OTHER], tool_choice={"type": "function", "name": "time"})
    assert one["tool_choice"] == {"type": "function", "function": {"name": "time"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}
    some = chat_of(tools=[TOOL, OTHER], tool_choice=allowed)
    assert some["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in some["tools"]] == ["time"]
    assert "tool_choice" not in chat_of(tool_choice="auto"), "without tools there is nothing to choose"


def test_what_the_edge_decides_from_is_that_of_the_chat() -> None:
    body = translated(stream=True, max_output_tokens=9).asked.body
    assert isinstance(body, ChatBody)
    assert (body.streams, body.tokens_max, body.choices, body.model) == (True, 9, 1, "m")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"type": {"a": 1}}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [OTHER, {"type": "function"}]}, "tools[1]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "time"}, "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "tools": "time"}, "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": []}, "tools": [TOOL]}, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"name": {}}]}, "tools": [TOOL]},
            "tool_choice",
        ),
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_what_cannot_be_done_names_its_field(fields: dict[str, Any], param: str) -> None:
    problem = problem_in(**fields)
    assert problem.reason == "bad_request"
    assert problem.param == param, problem


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"\xff", b'{"input": "\\ud800"}', b'{"input":' + b"[" * 100_000]
)
def test_a_body_that_is_none(body: bytes) -> None:
    problem = read_response(body)
    assert isinstance(problem, Problem)
    assert problem.row.status == 400


def test_an_object_repeats_what_was_asked() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    echo = translated(
        instructions="be brief",
        metadata={"a": "b"},
        tools=[TOOL, OTHER],
        tool_choice={"type": "function", "name": "time"},
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "low"},
        max_output_tokens=9,
        prompt_cache_key="k",
        user="me",
        background=True,
        temperature=0.0,
        store=True,
        service_tier="flex",
    ).echo
    shown = ResponseShape(RID, "m", 1, echo)._object("queued", [])
    assert_whole_object(shown)
    assert shown["instructions"] == "be brief"
    assert shown["metadata"] == {"a": "b"}
    assert shown["tools"][1] == {
        "type": "function",
        "name": "time",
        "description": None,
        "parameters": None,
        "strict": None,
    }
    assert shown["tool_choice"] == {"type": "function", "name": "time"}
    assert shown["text"] == {"format": {**schema, "description": None, "strict": False}, "verbosity": "low"}
    assert shown["reasoning"] == {"effort": "low", "summary": None}
    assert (shown["max_output_tokens"], shown["temperature"], shown["background"]) == (9, 0.0, True)
    assert (shown["prompt_cache_key"], shown["user"], shown["service_tier"]) == ("k", "me", "default")


def test_a_record_is_read_as_it_was_written() -> None:
    made = translated(instructions="be brief", tools=[TOOL])
    record = Record("f" * 32, "m", 5, made.echo, made.items, [{"role": "user", "content": "a"}])
    assert decode_record(encode_record(record)) == record


ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"type": "message", "role": "assistant", "content": "b", "id": None},
    {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "low"}]},
    {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "x", "id": "mine"},
    {"type": "reasoning"},
]


def test_input_items_have_all_fields_of_their_types() -> None:
    shown = shown_items(ITEMS, RID)
    page = {"data": shown, "first_id": shown[0]["id"], "last_id": "x", "has_more": False, "object": "list"}
    valid(ResponseItemList, page)
    ids = [item["id"] for item in shown]
    assert len(set(ids)) == len(ids)
    assert ids[4] == "mine"
    assert shown[0]["content"] == [{"type": "input_text", "text": "a"}]
    assert shown[1]["content"] == [{"type": "output_text", "text": "b", "annotations": []}]
    assert messages_of(shown) == messages_of(ITEMS), "what is shown can be sent again"
    assert items_of("a") == [ITEMS[0]]


def test_a_list_is_read_page_by_page_in_both_orders() -> None:
    items = [{"id": str(number)} for number in range(5)]
    for order, expected in (("asc", ["0", "1", "2", "3", "4"]), ("desc", ["4", "3", "2", "1", "0"])):
        read: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = listed(items, {"order": order, "limit": "2", **after})
            assert not isinstance(page, Problem)
            read += [item["id"] for item in page.data]
            assert (page.first_id, page.last_id) == (page.data[0]["id"], page.data[-1]["id"])
            if not page.has_more:
                break
            after = {"after": str(page.last_id)}
        assert read == expected
    empty = listed([], {})
    assert not isinstance(empty, Problem)
    assert (empty.first_id, empty.has_more) == (None, False)


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "no"}]
)
def test_a_page_that_cannot_be(query: dict[str, str]) -> None:
    problem = listed([{"id": "1"}], query)
    assert isinstance(problem, Problem)
    assert problem.param == next(iter(query))
