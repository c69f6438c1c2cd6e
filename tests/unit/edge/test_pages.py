"""What is shown of a request in each of its states."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edge.errors import Problem
from edge.pages import Page, page_of
from schemas.log import Entry
from schemas.output import CtlRecord, Delta, End, Failed, Handoff, Lease, Tail, Tok, ToolPiece, Usage
from schemas.requests import View

LEASE = Lease(nonce="n", worker="w", attempt=1, cause="first")
VIEW = View("completion", "Test/Model", 7)


def log(*records: CtlRecord | Tok) -> list[Entry]:
    return [Entry(100 + index, record) for index, record in enumerate(records)]


def shown(*records: CtlRecord | Tok, view: View | None = VIEW) -> dict[str, Any]:
    page = page_of("r1", view, log(*records))
    assert isinstance(page, Page)
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(page))
    return decoded


def tok(off: int, text: str, count: int = 1, lease: int = 100) -> Tok:
    return Tok(lease, off, list(range(off, off + count)), [Delta(text)])


def test_a_queued_request() -> None:
    assert shown() == {
        "id": "r1",
        "object": "request",
        "status": "queued",
        "model": "Test/Model",
        "created": 7,
        "attempts": 0,
        "usage": {"prompt_tokens": None, "completion_tokens": 0, "total_tokens": None},
        "output": {"texts": [], "tokens": 0},
        "response": None,
        "error": None,
    }


def test_a_running_request_shows_what_is_there() -> None:
    page = shown(LEASE, tok(0, "so "), tok(1, "far", 2))
    assert (page["status"], page["attempts"]) == ("running", 1)
    assert page["output"] == {"texts": ["so far"], "tokens": 3}
    assert page["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("record", [Failed("n", "boom"), Handoff("n", 1)])
def test_between_two_attempts_it_waits(record: CtlRecord) -> None:
    page = shown(LEASE, tok(0, "a"), record)
    assert (page["status"], page["attempts"]) == ("queued", 1)
    assert page["output"]["texts"] == ["a"]
    assert shown(LEASE, tok(0, "a"), record, LEASE)["attempts"] == 2


def test_a_completed_request_has_the_body_of_its_post() -> None:
    end = End(status="ok", n=3, tail=Tail(2, [2], [Delta("!")]), usage=Usage(5, 3), finish_reasons=["length"])
    page = shown(LEASE, tok(0, "hey", 2), end)
    assert page["status"] == "completed"
    assert page["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert (page["response"]["object"], page["response"]["choices"][0]["text"]) == ("text_completion", "hey!")
    assert page["response"]["usage"]["total_tokens"] == 8
    assert (page["output"], page["error"]) == (None, None)


def test_a_completed_request_takes_its_text_from_end() -> None:
    end = End(status="ok", n=2, text=["all of it"], usage=Usage(5, 2))
    assert shown(LEASE, end, view=View())["response"]["choices"][0]["message"]["content"] == "all of it"


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (End(status="cancelled", reason="cancelled", usage=Usage(0, 1)), "cancelled", "cancelled"),
        (End(status="expired", reason="request_timeout"), "expired", "request_timeout"),
        (End(status="error", reason="poison"), "failed", "poison"),
    ],
)
def test_what_did_not_end_well_says_why_and_what_there_was(end: End, status: str, code: str) -> None:
    page = shown(LEASE, tok(0, "a"), tok(1, "b"), end)
    assert (page["status"], page["error"]["code"], page["error"]["request_id"]) == (status, code, "r1")
    assert page["output"] == {"texts": ["ab"], "tokens": 2}
    assert page["usage"]["completion_tokens"] == 2, "an append may have been in flight when END was written"
    assert page["response"] is None


def test_a_request_that_ended_before_anybody_took_it_has_no_view() -> None:
    page = shown(End(status="cancelled", reason="cancelled"), view=None)
    assert (page["model"], page["created"], page["attempts"]) == (None, None, 0)


@pytest.mark.parametrize("records", [[tok(1, "b")], [tok(0, "a"), End(status="ok", n=2)]])
def test_a_log_with_a_part_missing_is_lost(records: list[CtlRecord | Tok]) -> None:
    problem = page_of("r1", VIEW, log(LEASE, *records))
    assert isinstance(problem, Problem)
    assert problem.reason == "log_lost"


RICH = Tok(100, 0, [1, 2], [Delta("", 0, "hm"), Delta("", 1, tools=[ToolPiece(0, "c", "f", "{")])], [0, 1])


def test_a_running_request_shows_all_that_is_there() -> None:
    page = shown(LEASE, RICH)
    assert page["output"] == {
        "texts": ["", ""],
        "tokens": 2,
        "choices": [
            {"text": "", "reasoning": "hm"},
            {"text": "", "choice": 1, "tools": [{"index": 0, "id": "c", "name": "f", "arguments": "{"}]},
        ],
    }


def test_a_completed_rich_request_has_the_body_of_its_post() -> None:
    tail = Tail(2, [3], [Delta("", 1, tools=[ToolPiece(0, arguments="}")])], [1])
    end = End(status="ok", n=3, tail=tail, finish_reasons=["length", "tool_calls"])
    first, second = shown(LEASE, RICH, end, view=View())["response"]["choices"]
    assert first["message"] == {"role": "assistant", "content": None, "reasoning": "hm"}
    assert second["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize(("view", "model"), [(View("embedding", "mine", 7), "mine"), (None, "theirs")])
def test_what_makes_no_tokens_has_its_answer_in_the_end(view: View | None, model: str) -> None:
    result = msgspec.Raw(b'{"object":"list","data":[],"model":"theirs"}')
    page = shown(LEASE, End(status="ok", n=0, usage=Usage(5, 0), result=result), view=view)
    assert page["response"] == {"object": "list", "data": [], "model": model}
    assert page["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
