"""The bytes of a message against the types of the official client, which also puts the events together."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from anthropic._streaming import SSEDecoder
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edge.anthropic.count import CountShape
from edge.anthropic.shape import PING, MessageShape
from edge.errors import Problem
from edge.position import Position, unseen
from edge.relay import Tokens
from schemas.choices import Choice, add_deltas
from schemas.output import Delta, End, ToolPiece, Usage

RID = "a" * 26
MODEL = 'Qwen/"quoted" 100%d'
NASTY = 'line\nbreak "quoted" \\ \u2028 \x00 — 漢字 🎉 event: error\n\n'
END = End(status="ok", n=3, usage=Usage(7, 3), finish_reasons=["stop"])
ID = re.compile(r"^id: (\d+)-(\d+)$", re.MULTILINE)

typed = TypeAdapter(RawMessageStreamEvent)


def shape() -> MessageShape:
    return MessageShape(RID, MODEL, 1_700_000_000, include_usage=False)


def stream(records: list[Tokens], end: End = END) -> bytes:
    one = shape()
    shown = b"".join([one.tokens(tokens) for tokens in records])
    return one.opening() + shown + one.ending(end, records[-1].offset if records else 0)


def whole(records: list[Tokens], end: End = END) -> Message:
    choices: list[Choice] = []
    for tokens in records:
        add_deltas(choices, tokens.deltas)
    body = shape().whole(choices, end, records[-1].offset if records else 0)
    return Message.model_validate_json(body, strict=True)


def events(data: bytes) -> list[Any]:
    """What the official client reads of them, each of one of its types, and named by its type."""
    found = []
    for event in SSEDecoder().iter_bytes(iter([data])):
        if event.event == "ping":
            assert event.json() == {"type": "ping"}
            continue
        parsed = typed.validate_json(event.data)
        assert parsed.type == event.event
        found.append(parsed)
    return found


def folded(data: bytes) -> Any:
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events(data):
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


def places(data: bytes) -> list[tuple[int, int]]:
    return [(int(found[1]), int(found[2])) for found in ID.finditer(data.decode())]


def tool(index: int, arguments: str, name: str = "", id_: str = "") -> Delta:
    return Delta("", tools=[ToolPiece(index, id_, name, arguments)])


def records(*deltas: Delta) -> list[Tokens]:
    return [Tokens(at, [delta]) for at, delta in enumerate(deltas, 1)]


def test_a_stream_opens_with_the_message_and_a_ping() -> None:
    opening = shape().opening()
    [start] = events(opening)
    assert opening.endswith(PING)
    assert start.type == "message_start"
    assert Message.model_validate(start.message.model_dump()).content == []
    assert (start.message.id, start.message.model, start.message.stop_reason) == (f"msg_{RID}", MODEL, None)
    assert (start.message.usage.input_tokens, start.message.usage.output_tokens) == (0, 0)


def test_texts_are_one_block() -> None:
    data = stream(records(Delta(NASTY), Delta("b"), Delta("c")))
    assert [event.type for event in events(data)] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert places(data) == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (4, 1)]
    assert folded(data).content[0].text == f"{NASTY}bc"
    assert folded(data).to_dict()["content"] == whole(records(Delta(NASTY), Delta("bc"))).to_dict()["content"]


def test_thoughts_text_and_calls_are_blocks_that_follow_each_other() -> None:
    said = records(
        Delta("", reasoning="h"),
        Delta("so", reasoning="m"),
        tool(0, "", "weather", "call_1"),
        tool(0, '{"city":'),
        tool(0, '"Ærø"}'),
        tool(1, "{}", "time", "call_2"),
        tool(2, "", "now", ""),
    )
    message = folded(stream(said))
    thinking, text, first, second, third = message.content
    assert (thinking.type, thinking.thinking, text.text) == ("thinking", "hm", "so")
    assert thinking.signature
    assert (first.id, first.name, first.input) == ("call_1", "weather", {"city": "Ærø"})
    assert (second.id, second.name, second.input) == ("call_2", "time", {})
    assert (third.name, third.input) == ("now", {})
    assert third.id, "a call that has no id gets one: its result must name it"
    assert message.to_dict() == whole(said).to_dict()
    kinds = [event.type for event in events(stream(said))]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 5


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    said = records(Delta("a"), tool(0, "{}", "time", "call_1"), Delta("b"))
    assert [block.type for block in folded(stream(said)).content] == ["text", "tool_use", "text"]


def test_a_call_that_comes_in_turns_with_another_is_put_together() -> None:
    said = records(tool(0, '{"a"', "one", "c1"), tool(1, '{"b"', "two", "c2"), tool(0, ":1}"), tool(1, ":2}"))
    assert [block.input for block in folded(stream(said)).content] == [{"a": 1}, {"b": 2}]


def test_an_empty_message_has_an_empty_text() -> None:
    data = stream([])
    assert folded(data).to_dict() == whole([]).to_dict()
    assert [block.to_dict() for block in whole([]).content] == [{"type": "text", "text": ""}]


def test_other_choices_are_not_shown() -> None:
    said = [Tokens(2, [Delta("a"), Delta("b", 1)])]
    assert folded(stream(said)).to_dict() == whole(said).to_dict() == whole(records(Delta("a"))).to_dict()


@pytest.mark.parametrize("arguments", ["", '{"city":"Æ', "[1]", "nonsense", "[" * 100_000])
def test_arguments_that_are_no_object_are_not_shown_as_one(arguments: str) -> None:
    cut = End(status="ok", n=1, finish_reasons=["length"])
    message = whole(records(tool(0, arguments, "weather", "call_1")), cut)
    assert message.stop_reason == "max_tokens"
    assert message.content[0].to_dict() == {
        "type": "tool_use",
        "id": "call_1",
        "name": "weather",
        "input": {},
    }


@pytest.mark.parametrize(
    ("finish", "stop", "calls", "reason", "sequence"),
    [
        ("stop", None, False, "end_turn", None),
        ("stop", "END", False, "stop_sequence", "END"),
        ("stop", 151645, False, "end_turn", None),
        ("length", None, False, "max_tokens", None),
        ("length", None, True, "max_tokens", None),
        ("tool_calls", None, True, "tool_use", None),
        ("tool_calls", "</tool_call>", True, "tool_use", None),
        ("stop", None, True, "tool_use", None),
        ("stop", "END", True, "stop_sequence", "END"),
        ("content_filter", None, False, "refusal", None),
        ("one of a later version", None, False, "end_turn", None),
        (None, None, False, "end_turn", None),
    ],
)
def test_why_a_message_ended(
    finish: str | None, stop: str | int | None, calls: bool, reason: str, sequence: str | None
) -> None:
    end = End(
        status="ok", n=1, finish_reasons=[finish] if finish else [], stop_reasons=[stop] if stop else []
    )
    said = records(tool(0, "{}", "time", "call_1") if calls else Delta("a"))
    for message in (whole(said, end), folded(stream(said, end))):
        assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (Usage(7, 3), {"input_tokens": 7, "output_tokens": 3}),
        (Usage(7, 3, 0), {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 0}),
        (
            Usage(7, 3, 4, 2),
            {
                "input_tokens": 3,
                "output_tokens": 3,
                "cache_read_input_tokens": 4,
                "output_tokens_details": {"thinking_tokens": 2},
            },
        ),
        (None, {"input_tokens": 0, "output_tokens": 1}),
    ],
)
def test_what_a_message_costs(told: Usage | None, usage: dict[str, Any]) -> None:
    end = End(status="ok", n=1, usage=told, finish_reasons=["stop"])
    assert whole(records(Delta("a")), end).usage.to_dict() == usage
    assert folded(stream(records(Delta("a")), end)).usage.to_dict() == usage


def test_a_broken_stream_ends_with_an_error() -> None:
    one = shape()
    data = one.opening() + one.tokens(Tokens(1, [Delta("a")]))
    frame = one.failing(Problem("no_workers", "no\nluck", resume="/v1/requests/x"), "r1")
    assert b"id:" not in frame, "who comes back is told again"
    *_, last = SSEDecoder().iter_bytes(iter([data + frame]))
    assert last.event == "error"
    assert last.json() == {
        "type": "error",
        "error": {
            "type": "overloaded_error",
            "message": "no\nluck",
            "details": {"error_code": "no_workers"},
            "resume": "/v1/requests/x",
        },
        "request_id": "r1",
    }
    assert frame == CountShape(RID, MODEL, 1, include_usage=False).failing(
        Problem("no_workers", "no\nluck", resume="/v1/requests/x"), "r1"
    )


def test_a_count() -> None:
    one = CountShape(RID, MODEL, 1, include_usage=False)
    assert MessageTokensCount.model_validate_json(one.whole([], END, 1), strict=True).input_tokens == 7
    assert one.whole([], End(status="ok", n=1, usage=Usage(7, 1, 4)), 1) == b'{"input_tokens":7}'
    assert one.whole([], End(status="ok", n=1), 1) == b'{"input_tokens":0}'
    shown = one.opening() + one.tokens(Tokens(1, [Delta("a")])) + one.ending(END, 1)
    [event] = SSEDecoder().iter_bytes(iter([shown]))
    assert (event.id, event.event, event.json()) == ("2-0", "token_count", {"input_tokens": 7})


words = st.text(alphabet='ab "\\\né🎉', min_size=1, max_size=4)
kinds = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
ends = st.builds(
    lambda finish, stop, usage: End(
        status="ok", n=9, finish_reasons=[finish], stop_reasons=[stop], usage=usage
    ),
    kinds,
    st.none() | words,
    st.none() | st.builds(Usage, st.integers(9, 99), st.integers(0, 9), st.none() | st.integers(0, 9)),
)


@st.composite
def orderly(draw: st.DrawFn) -> list[Delta]:
    """Thoughts, then text, then calls, each in pieces, as engines put them out."""
    deltas = [Delta("", reasoning=word) for word in draw(st.lists(words, max_size=3))]
    deltas += [Delta(word) for word in draw(st.lists(words, max_size=3))]
    for index in range(draw(st.integers(0, 3))):
        arguments = json.dumps(draw(st.dictionaries(words, words | st.integers(), max_size=2)))
        at = draw(st.integers(0, len(arguments)))
        deltas.append(tool(index, arguments[:at], f"tool_{index}", draw(st.sampled_from(["", "call_x"]))))
        if arguments[at:]:
            deltas.append(tool(index, arguments[at:]))
    return deltas


@st.composite
def disorderly(draw: st.DrawFn) -> list[Delta]:
    """Anything in any order, but for a call, which is named by its first piece."""
    deltas: list[Delta] = []
    named: set[tuple[int, int]] = set()
    for _ in range(draw(st.integers(0, 8))):
        pieces = []
        choice = draw(st.sampled_from([0, 0, 0, 1]))
        for index in draw(st.lists(st.integers(0, 2), max_size=2)):
            is_new, arguments = (choice, index) not in named, draw(words | st.just(""))
            named.add((choice, index))
            name = f"tool_{index}" if is_new else ""
            pieces.append(ToolPiece(index, f"call_{index}" if is_new else "", name, arguments))
        text, thought = draw(words | st.just("")), draw(words | st.just(""))
        deltas.append(Delta(text, choice, thought, pieces))
    return deltas


@st.composite
def in_records(draw: st.DrawFn, said: st.SearchStrategy[list[Delta]]) -> list[Tokens]:
    """Deltas as records bring them: several at one offset, and sometimes one without a token behind them."""
    deltas, offset = draw(said), 0
    made: list[Tokens] = []
    while deltas:
        count = draw(st.integers(1, len(deltas)))
        offset += draw(st.integers(0 if made else 1, 3))
        made.append(Tokens(offset, deltas[:count]))
        deltas = deltas[count:]
    return made


@given(in_records(orderly()), ends)
def test_the_events_add_up_to_the_whole_message(said: list[Tokens], end: End) -> None:
    assert folded(stream(said, end)).to_dict() == whole(said, end).to_dict()


@given(in_records(disorderly()), ends)
def test_nothing_is_lost_in_any_order_and_ids_only_grow(said: list[Tokens], end: End) -> None:
    data = stream(said, end)
    texts: dict[str, str] = {"text_delta": "", "thinking_delta": ""}
    arguments: dict[str, str] = {}
    names: dict[int, str] = {}
    for event in events(data):
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            names[event.index] = event.content_block.name
            arguments[event.content_block.name] = ""
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            arguments[names[event.index]] += event.delta.partial_json
        elif event.type == "content_block_delta" and event.delta.type in texts:
            texts[event.delta.type] += (
                event.delta.text if event.delta.type == "text_delta" else event.delta.thinking
            )
    choices: list[Choice] = []
    for tokens in said:
        add_deltas(choices, tokens.deltas)
    first = choices[0] if choices else Choice()
    assert texts == {"text_delta": first.text, "thinking_delta": first.reasoning}
    assert arguments == {call.name: call.arguments for call in first.tools if call.name}
    started = [event.index for event in events(data) if event.type == "content_block_start"]
    stopped = [event.index for event in events(data) if event.type == "content_block_stop"]
    assert started == stopped == list(range(len(started)))
    seen = places(data)
    assert seen == sorted(set(seen))
    for place in seen:
        rest = unseen(data, Position(*place))
        assert places(rest) == [later for later in seen if later > place]
        assert rest.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
