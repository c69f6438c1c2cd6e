"""Every row of the error table as Anthropic's official client meets it."""

from __future__ import annotations

import json
from typing import get_args

import anthropic
import httpx2
import pytest
from anthropic._error_classes import make_status_error
from anthropic.types import ErrorResponse
from anthropic.types.shared import ErrorType

from edge.anthropic.errors import ANTHROPIC_ERRORS
from edge.errors import Problem
from edge.problem_response import ProblemResponse
from schemas.errors import ERRORS

OVERLOADED = (
    *(
        "queue_full",
        "no_slot",
        "too_late",
        "no_workers",
        "broker_away",
        "edge_full",
        "output_full",
        "files_full",
        "draining",
    ),
)
CLASSES = {
    **dict.fromkeys(OVERLOADED, anthropic.OverloadedError),
    "bad_request": anthropic.BadRequestError,
    "context_length": anthropic.BadRequestError,
    "invalid_image": anthropic.BadRequestError,
    "image_fetch_failed": anthropic.BadRequestError,
    "invalid_api_key": anthropic.AuthenticationError,
    "not_allowed": anthropic.PermissionDeniedError,
    "not_found": anthropic.NotFoundError,
    "model_not_found": anthropic.NotFoundError,
    "thread_unsupported": anthropic.BadRequestError,
    "idempotency_mismatch": anthropic.UnprocessableEntityError,
    "rate_limited": anthropic.RateLimitError,
    "quota_exceeded": anthropic.RateLimitError,
    "too_large": anthropic.ContentTooLargeError,
    "request_timeout": anthropic.GatewayTimeoutError,
    "queue_timeout": anthropic.ServiceUnavailableError,
    "outcome_unknown": anthropic.ServiceUnavailableError,
    "engine_error": anthropic.InternalServerError,
    "internal": anthropic.InternalServerError,
}
"""Of the client's classes those that people catch."""


def answered(reason: str) -> tuple[ProblemResponse, httpx2.Response]:
    ours = ProblemResponse(Problem(reason, "what went wrong", "model"), "rid", ANTHROPIC_ERRORS)
    theirs = httpx2.Response(
        ours.status_code,
        headers=dict(ours.headers),
        content=bytes(ours.body),
        request=httpx2.Request("POST", "http://edge/v1/messages"),
    )
    return ours, theirs


@pytest.mark.parametrize("reason", ERRORS)
def test_each_row_is_an_anthropic_error(reason: str) -> None:
    row = ERRORS[reason]
    ours, response = answered(reason)
    assert ours.status_code == (529 if reason in OVERLOADED else row.status)
    body = response.json()
    if reason != "too_large":
        # That type is in Anthropic's documentation of its errors, and in none of the client's types.
        ErrorResponse.model_validate(body, strict=True)
        assert row.anthropic in get_args(ErrorType)
    details = {} if row.code is None else {"details": {"error_code": row.code}}
    assert body == {
        "type": "error",
        "error": {"type": row.anthropic, "message": "what went wrong", **details},
        "request_id": None,
    }
    error = make_status_error("what went wrong", body=body, response=response)
    assert isinstance(error, CLASSES.get(reason, anthropic.APIStatusError))
    assert (error.type, error.request_id, error.error_code) == (row.anthropic, "rid", row.code)
    assert isinstance(error, anthropic.InternalServerError) == (error.status_code >= 500)
    assert (error.type == "overloaded_error") == (error.status_code == 529) == (reason in OVERLOADED)
    assert ("retry-after" in ours.headers) == row.retry_after
    assert (ours.headers.get("x-should-retry") == "false") == row.is_final


def test_an_error_of_a_request_that_was_admitted_names_it() -> None:
    body = json.loads(ANTHROPIC_ERRORS.body(Problem("engine_error", "no luck"), "r1"))
    assert body["request_id"] == "r1"
