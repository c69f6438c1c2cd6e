"""Every row of the error table as a client sees it."""

from __future__ import annotations

import json

import pytest
from openai.types.shared import ErrorObject

from edge.errors import Problem, error_frame, error_json, problem_of
from edge.problem_response import ProblemResponse
from schemas.errors import ERRORS
from schemas.output import End


@pytest.mark.parametrize("reason", ERRORS)
def test_each_row_is_an_openai_error(reason: str) -> None:
    row = ERRORS[reason]
    response = ProblemResponse(Problem(reason, "what went wrong", "model"), "rid")
    body = json.loads(bytes(response.body))
    assert list(body) == ["error"]
    error = ErrorObject.model_validate(body["error"])
    assert response.status_code == row.status
    assert (error.message, error.type, error.param, error.code) == (
        "what went wrong",
        row.type_,
        "model",
        row.code,
    )
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == response.headers["request-id"] == "rid"
    assert ("retry-after" in response.headers) == row.retry_after
    if row.retry_after:
        assert int(response.headers["retry-after-ms"]) == 1000 * int(response.headers["retry-after"])


@pytest.mark.parametrize("reason", [reason for reason, row in ERRORS.items() if row.retry_after])
def test_clients_retry_what_asks_for_it(reason: str) -> None:
    status = ERRORS[reason].status
    assert status in (408, 409, 429) or status >= 500, "the openai package retries no other status"


def test_an_error_frame_ends_the_stream() -> None:
    problem = Problem("engine_error", "no\nluck")
    event, done, rest = error_frame(problem, "r1").split(b"\n\n")
    assert event == b"data: " + error_json(problem, "r1")
    assert b'"request_id":"r1"' in event
    assert (done, rest) == (b"data: [DONE]", b"")


def test_a_good_end_is_no_problem() -> None:
    assert problem_of(End(status="ok", n=1)) is None


@pytest.mark.parametrize(
    ("end", "reason", "status"),
    [
        (End(status="error", reason="bad_request", message="no such field"), "bad_request", 400),
        (End(status="error", reason="context_length"), "context_length", 400),
        (End(status="error", reason="engine_error"), "engine_error", 502),
        (End(status="error", reason="poison"), "poison", 502),
        (End(status="expired", reason="queue_timeout"), "queue_timeout", 503),
        (End(status="expired"), "request_timeout", 504),
        (End(status="cancelled"), "cancelled", 499),
        (End(status="error", reason="a reason of a later version"), "internal", 500),
    ],
)
def test_an_end_names_its_row(end: End, reason: str, status: int) -> None:
    problem = problem_of(end)
    assert problem is not None
    assert (problem.reason, problem.row.status) == (reason, status)
    assert problem.message == (end.message or problem.message) != ""


def test_a_long_value_is_cut_and_what_stands_around_it_stays() -> None:
    told = Problem("bad_request", f"Invalid enum value '{'x' * 9000}' - at `$.messages[0].role`", "y" * 9000)
    assert len(told.message) < 420
    assert told.message.startswith("Invalid enum value 'xxx")
    assert told.message.endswith("xxx' - at `$.messages[0].role`")
    assert told.param is not None
    assert len(told.param) < 420
    assert told._replace(headers=()) == told
    words = "w" * 400
    assert Problem("bad_request", words).message == words
