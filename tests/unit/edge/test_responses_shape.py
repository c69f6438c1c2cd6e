"""A response's events, their numbers, and its object."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.dialects import RESPONSE, shape_of
from edge.ends import CANCELLED
from edge.errors import Problem
from edge.position import Position, unseen
from edge.relay import Ended, Relay, Tokens
from edge.responses.reading import object_of
from edge.responses.record import NOTHING_ASKED
from edge.responses.shape import ResponseShape
from schemas.log import Entry, fold
from schemas.output import Delta, End, Lease, Tail, Tok, TokenLogprob, ToolPiece, Usage
from schemas.requests import View
from tests.unit.edge.responses_reading import assert_whole_object, event_of, events_in, output_of

RID = "abcdefghijklmnopqrstuvwxyz"
LEASE = Entry(1, Lease("n", "w", 1, "first"))
USAGE = Usage(5, 7, cached_tokens=2, reasoning_tokens=1)


def shape(**asked: Any) -> ResponseShape:
    return ResponseShape(RID, "some/model", 1_700_000_000, {**NOTHING_ASKED, **asked}, lambda: 1_700_000_009)


def log_of(records: list[list[Delta]], end: End | None = None) -> list[Entry]:
    """A log with a record of one token for each list of deltas."""
    toks = [Entry(seq, Tok(1, seq - 2, [seq], deltas)) for seq, deltas in enumerate(records, 2)]
    return [LEASE, *toks, *([Entry(len(toks) + 2, end)] if end is not None else [])]


def ok(n: int, reason: str = "stop", **fields: Any) -> End:
    return End(status="ok", n=n, usage=USAGE, finish_reasons=[reason], **fields)


def stream_of(entries: list[Entry], reader: ResponseShape) -> bytes:
    """The events as a client gets them; the opening is asked for last, as it may be."""
    relay = Relay(0.0)
    rest = b""
    for entry in entries:
        for output in relay.stored(entry):
            if isinstance(output, Tokens):
                rest += reader.tokens(output)
            elif isinstance(output, Ended):
                rest += reader.ending(output.end, output.offset)
    return reader.opening() + rest


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


TEXT_EVENTS = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done"]
DONE_EVENTS = ["content_part.done", "output_item.done"]


def test_a_text_comes_in_the_order_of_the_official_api() -> None:
    entries = log_of([[Delta("He")], [Delta("llo")]], ok(2))
    events = events_in(stream_of(entries, shape()))
    assert kinds(events) == [
        "created",
        "in_progress",
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert [event["response"]["status"] for event in events if "response" in event] == [
        "in_progress",
        "in_progress",
        "completed",
    ]
    last = events[-1]["response"]
    assert last["completed_at"] == 1_700_000_009
    assert last["output"][0]["content"][0]["text"] == "Hello"
    assert last["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }


def test_thoughts_a_text_and_calls_are_items_of_their_own() -> None:
    entries = log_of(
        [
            [Delta("", reasoning="hm")],
            [Delta("So:")],
            [Delta("", tools=[ToolPiece(0, "c0", "weather", '{"a"')])],
            [Delta("", tools=[ToolPiece(1, "c1", "time", "{"), ToolPiece(0, arguments=":1}")])],
            [Delta("", tools=[ToolPiece(1, arguments="}")])],
        ],
        ok(5, "tool_calls"),
    )
    events = events_in(stream_of(entries, shape()))
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", *DONE_EVENTS, *TEXT_EVENTS, *DONE_EVENTS),
        *("output_item.added", "function_call_arguments.delta") * 2,
        *("function_call_arguments.delta",) * 2,
        *("function_call_arguments.done", "output_item.done") * 2,
        "completed",
    ]
    thoughts, text, first, second = events[-1]["response"]["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert text["content"][0]["text"] == "So:"
    assert (first["call_id"], first["name"], first["arguments"]) == ("c0", "weather", '{"a":1}')
    assert (second["call_id"], second["name"], second["arguments"]) == ("c1", "time", "{}")


def test_an_answer_that_was_cut_is_incomplete() -> None:
    for reason, told in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        events = events_in(stream_of(log_of([[Delta("a")]], ok(1, reason)), shape()))
        assert kinds(events)[-1] == "incomplete"
        last = events[-1]["response"]
        assert last["incomplete_details"] == {"reason": told}
        assert last["status"] == last["output"][0]["status"] == "incomplete"
        assert last["completed_at"] is None


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    events = events_in(stream_of([LEASE, Entry(2, ok(0))], shape()))
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == ""
    assert output_of(events) == [item]


def test_logprobs_stand_at_the_text_that_their_tokens_made() -> None:
    def told(token: str) -> TokenLogprob:
        return TokenLogprob(token, -0.5, top=[TokenLogprob(token, -0.5)])

    records = [
        [Delta("", reasoning="hm", logprobs=[told("hm")])],
        [Delta("", logprobs=[told("held")])],
        [Delta("held back", logprobs=[told(" back")])],
        [Delta("", logprobs=[told("</s>")])],
    ]
    events = events_in(stream_of(log_of(records, ok(4)), shape()))
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [one["token"] for one in delta["logprobs"]] == ["held", " back"]
    part = events[-1]["response"]["output"][1]["content"][0]
    assert [one["token"] for one in part["logprobs"]] == ["held", " back", "</s>"]
    assert part["logprobs"][0]["bytes"] == list(b"held")


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Problem("engine_error", "out of memory"), "server_error"),
        (Problem("queue_full", "later"), "rate_limit_exceeded"),
        (Problem("context_length", "too long", "input"), "invalid_prompt"),
        (Problem("invalid_image", "no image"), "invalid_image"),
    ],
)
def test_a_failure_is_told_by_the_object_and_raises_in_clients(problem: Problem, code: str) -> None:
    reader = shape()
    stream = stream_of(log_of([[Delta("half")]]), reader) + reader.failing(problem, RID)
    failed, error = (events := events_in(stream))[-2:]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == code
    assert failed["response"]["error"]["message"] == problem.message
    assert failed["response"]["output"][0]["content"][0]["text"] == "half"
    assert error["error"]["code"] == problem.row.code, "the official client raises with this"


def test_a_cancelled_response_says_so() -> None:
    entries = log_of([[Delta("half")]], CANCELLED)
    shown = object_of(shape(), entries)
    assert isinstance(shown, dict)
    assert_whole_object(shown)
    assert (shown["status"], shown["error"]) == ("cancelled", None)


def test_a_server_that_goes_away_does_not_fail_the_response() -> None:
    reader = shape()
    stream = reader.failing(Problem("draining", "going", resume="/v1/requests/x/stream"), RID)
    (error,) = events_in(stream)
    assert error["type"] == "error"
    assert error["error"]["code"] == "draining"


def test_before_its_end_it_is_queued_or_in_progress() -> None:
    for entries, status, texts in (
        ([], "queued", []),
        ([LEASE], "in_progress", []),
        (log_of([[Delta("a")]]), "in_progress", ["a"]),
    ):
        shown = object_of(shape(), entries)
        assert isinstance(shown, dict)
        assert_whole_object(shown)
        assert shown["status"] == status
        assert [item["content"][0]["text"] for item in shown["output"]] == texts
    assert event_of(shape(background=True).opening()[:-2].decode())["response"]["status"] == "queued"


def test_a_lost_log_is_a_problem_unless_its_end_brings_the_text() -> None:
    hole = [LEASE, Entry(2, Tok(1, 3, [1], [Delta("late")]))]
    lost = object_of(shape(), hole)
    assert isinstance(lost, Problem)
    assert lost.reason == "log_lost"
    told = object_of(shape(), [*hole, Entry(3, ok(4, text=["all of it"]))])
    assert isinstance(told, dict)
    assert told["output"][0]["content"][0]["text"] == "all of it"


def test_who_knows_only_the_rid_sees_the_same_events() -> None:
    entries = log_of([[Delta("", reasoning="hm")], [Delta("a")]], ok(2))
    blind = shape_of(View(RESPONSE.name, "some/model", 1_700_000_000), RID)
    assert isinstance(blind, ResponseShape)
    seen, known = (events_in(stream_of(entries, one)) for one in (blind, shape(instructions="be brief")))
    assert kinds(seen) == kinds(known)
    assert output_of(seen) == output_of(known)


PIECES = st.one_of(
    st.builds(Delta, st.text(min_size=1, max_size=3)),
    st.builds(lambda text: Delta("", reasoning=text), st.text(min_size=1, max_size=3)),
    st.builds(
        lambda text, token: Delta(text, logprobs=[TokenLogprob(token, -1.0)]),
        st.text(max_size=3),
        st.text(max_size=2),
    ),
    st.builds(
        lambda at, text: Delta("", tools=[ToolPiece(at, arguments=text)]),
        st.integers(0, 2),
        st.text(max_size=3),
    ),
)


@given(
    st.lists(st.lists(PIECES, max_size=3), max_size=6),
    st.lists(PIECES, max_size=2),
    st.sampled_from(["stop", "length", "tool_calls"]),
)
@settings(max_examples=200)
def test_every_reading_of_a_log_is_the_same(
    records: list[list[Delta]], last: list[Delta], reason: str
) -> None:
    n = len(records)
    end = ok(n + 1, reason, tail=Tail(n, [0], last))
    entries = log_of(records, end)
    stream = stream_of(entries, shape())
    events = events_in(stream)
    assert [event["sequence_number"] for event in events] == list(range(len(events))), "no gap, no repeat"
    whole = events[-1]["response"]
    assert output_of(events) == whole["output"], "the events make the object"
    assert object_of(shape(), entries) == whole, "which is what is retrieved"
    relay, answering = Relay(0.0), shape()
    for entry in entries:
        for output in relay.stored(entry):
            if isinstance(output, Tokens):
                answering.tokens(output)
    answered = answering.whole(fold(entries).choices, end, n + 1)
    assert msgspec.json.decode(answered) == whole, "and what is answered"
    frames = [frame + b"\n\n" for frame in stream.split(b"\n\n")[:-1]]
    for place, (seen, _) in enumerate(pairwise(events)):
        assert unseen(stream, Position(seen["sequence_number"], 0)) == b"".join(frames[place + 1 :])
