"""How clients of each system are told of failures: its statuses, codes and bodies over the one error table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edge.errors import Problem

UNPROCESSABLE = 422
TIMED_OUT = 408


class DetailErrors:
    """FastAPI's bodies: `detail` is a text, and a list of places where the body itself is at fault. `code` names what
    went wrong, as OpenAI's clients know it. `statuses`: those that differ from the table's, by reason."""

    def __init__(self, statuses: Mapping[str, int]) -> None:
        self._statuses = statuses

    def status(self, problem: Problem) -> int:
        """That system's."""
        return self._statuses.get(problem.reason, problem.row.status)

    def body(self, problem: Problem, rid: str | None = None) -> bytes:
        """`detail`, `code`, and the request's id where there is one."""
        detail: Any = problem.message
        if self.status(problem) == UNPROCESSABLE:
            place = ["body"] if problem.param is None else ["body", problem.param]
            detail = [{"loc": place, "msg": problem.message, "type": "value_error"}]
        fields = {"detail": detail, "code": problem.row.code or problem.reason}
        return msgspec.json.encode(fields if rid is None else fields | {"request_id": rid})


PREDICT_ERRORS = DetailErrors(
    {"bad_request": UNPROCESSABLE, "queue_timeout": TIMED_OUT, "request_timeout": TIMED_OUT}
)
"""One deadline covers the wait and the run there, and missing it is the client's 408."""

GENERATE_ERRORS = DetailErrors({"bad_request": UNPROCESSABLE})


class CodeErrors:
    """A code in capitals and a message, flat."""

    def status(self, problem: Problem) -> int:
        """The code's."""
        return _STATUS_OF_CODE.get(self.code(problem), problem.row.status)

    def code(self, problem: Problem) -> str:
        """One of that system's; what it has none for keeps the table's reason."""
        return _CODES.get(problem.reason, problem.reason.upper())

    def body(self, problem: Problem, rid: str | None = None) -> bytes:
        """The fields of an `error` event; without a request there is no id."""
        fields = {"code": self.code(problem), "message": problem.message}
        return msgspec.json.encode(fields if rid is None else {"request_id": rid} | fields)


_CODES = {
    "bad_request": "INVALID_PAYLOAD",
    "invalid_api_key": "UNAUTHORIZED",
    "rate_limited": "RATE_LIMITED",
    "quota_exceeded": "RATE_LIMITED",
    "queue_full": "OVERLOADED",
    "no_slot": "OVERLOADED",
    "engine_error": "WORKER_ERROR",
    "poison": "WORKER_ERROR",
    "not_continuable": "WORKER_ERROR",
    "log_lost": "WORKER_ERROR",
    "queue_timeout": "INFERENCE_TIMEOUT",
    "request_timeout": "INFERENCE_TIMEOUT",
    "internal": "INTERNAL_ERROR",
    "no_workers": "UNHEALTHY",
    "broker_away": "UNHEALTHY",
}

_STATUS_OF_CODE = {"INVALID_PAYLOAD": UNPROCESSABLE, "INFERENCE_TIMEOUT": 504}
"""Where the table says something else."""

EVENT_ERRORS = CodeErrors()
