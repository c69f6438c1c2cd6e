"""The bytes of the reference systems' shapes, whatever the records are cut into."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.compat.generate import GENERATE
from edge.compat.predict import PREDICT
from edge.compat.v1_generate import EVENTS
from edge.dialect import Dialect, Elapsed
from edge.errors import Problem
from edge.position import parse_position, unseen
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.errors import ERRORS
from schemas.output import Delta, End, Timings, Usage

RID = "a" * 26
NASTY = 'line\nbreak "quoted" \\ \u2028 — 漢字 🎉 event: done\n\n'
END = End(status="ok", n=3, usage=Usage(7, 3), finish_reasons=["length"], timings=Timings(10.0, 30.0))
ELAPSED = Elapsed(0.02, 0.05)
ALL = (PREDICT, GENERATE, EVENTS)


def stream(dialect: Dialect, records: list[Tokens], end: End = END) -> bytes:
    shape = dialect.shape(RID, "m", 0, include_usage=False)
    parts = [shape.opening(), *[shape.tokens(record) for record in records], shape.ending(end, 3, ELAPSED)]
    return b"".join(parts)


def events(data: bytes) -> list[dict[str, str]]:
    """The fields of each event; every line must be one of three."""
    found = [
        dict(line.split(": ", 1) for line in block.split("\n")) for block in data.decode().split("\n\n")[:-1]
    ]
    assert all(set(fields) <= {"id", "event", "data"} for fields in found)
    return found


def data_of(found: list[dict[str, str]]) -> list[Any]:
    return [json.loads(fields["data"]) for fields in found if fields["data"] != "[DONE]"]


RECORDS = [
    Tokens(1, [Delta(NASTY)]),
    Tokens(2, []),
    Tokens(3, [Delta("b"), Delta("c")]),
    Tokens(3, [Delta("d")], 2),
]


def test_token_events_are_numbered_over_all_records() -> None:
    found = events(stream(EVENTS, RECORDS))
    told = data_of(found)
    assert [(one["index"], one["token"]) for one in told[:-1]] == [(0, NASTY), (1, "b"), (2, "c"), (3, "d")]
    assert [fields["event"] for fields in found] == ["token"] * 4 + ["done"]
    assert [fields["id"] for fields in found] == ["1-0", "3-0", "3-1", "3-2", "4-0"]
    assert told[-1] == {"request_id": RID, "generated_tokens": 3, "finish_reason": "length"}


def test_who_comes_back_gets_the_numbers_that_follow() -> None:
    """A shape is shown what its client has seen, too: so the next event has the next number at any edge."""
    seen = parse_position("3-0")
    assert not isinstance(seen, Problem)
    rest = data_of(events(unseen(stream(EVENTS, RECORDS), seen)))
    assert [one["index"] for one in rest[:-1]] == [2, 3]


def test_a_text_stream_tells_what_is_new_and_the_numbers_last() -> None:
    found = events(stream(GENERATE, RECORDS))
    *pieces, last = data_of(found)
    assert [piece["text"] for piece in pieces] == [NASTY, "b", "c", "d"]
    assert last == {
        "text": "",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "ttft_ms": 20.0,
        "total_time_ms": 50.0,
        "finish_reason": "length",
    }
    assert found[-1] == {"data": "[DONE]"}


def test_a_prediction_that_is_read_as_a_stream_is_one_event() -> None:
    [told] = data_of(events(stream(PREDICT, RECORDS)))
    assert (told["content"], told["tokens_predicted"], told["tokens_evaluated"]) == (NASTY + "bcd", 3, 7)


@pytest.mark.parametrize(
    ("end", "stop_type"),
    [
        (End(status="ok"), "eos"),
        (End(status="ok", finish_reasons=["stop"], stop_reasons=[None]), "eos"),
        (End(status="ok", finish_reasons=["stop"], stop_reasons=[42]), "eos"),
        (End(status="ok", finish_reasons=["stop"], stop_reasons=["END"]), "word"),
        (End(status="ok", finish_reasons=["length"]), "limit"),
    ],
)
def test_why_a_prediction_stopped(end: End, stop_type: str) -> None:
    shape = PREDICT.shape(RID, "m", 0, include_usage=False)
    assert json.loads(shape.whole([Choice(["x"])], end, 1))["stop_type"] == stop_type


@pytest.mark.parametrize("dialect", ALL)
def test_an_answer_without_text_is_empty(dialect: Dialect) -> None:
    told = json.loads(dialect.shape(RID, "m", 0, include_usage=False).whole([], End(status="ok", n=0), 0))
    assert told.get("text", told.get("content")) == ""


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("reason", ERRORS)
def test_each_error_is_an_error_in_each_dialect(dialect: Dialect, reason: str) -> None:
    problem = Problem(reason, NASTY, "messages")
    status, told = dialect.errors.status(problem), json.loads(dialect.errors.body(problem, RID))
    assert 400 <= status < 600
    assert told["request_id"] == RID
    said = told.get("message") or told["detail"]
    assert said == NASTY or said == [{"loc": ["body", "messages"], "msg": NASTY, "type": "value_error"}]
    [first, *rest] = events(dialect.shape(RID, "m", 0, include_usage=False).failing(problem, RID))
    assert json.loads(first["data"])["request_id"] == RID
    assert "id" not in first, "who comes back is told again"
    assert rest in ([], [{"data": "[DONE]"}])


def test_a_request_without_a_name_has_no_id_in_its_error() -> None:
    for dialect in ALL:
        assert "request_id" not in json.loads(dialect.errors.body(Problem("bad_request", "no")))


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"prompt":1}', b"[" * 5000, b'{"messages":{}}']
)
def test_nonsense_is_refused(dialect: Dialect, data: bytes) -> None:
    problem = dialect.read(data)
    assert isinstance(problem, Problem)
    assert (problem.reason, dialect.errors.status(problem)) == ("bad_request", 422)
