"""Failures as a client meets them: status, headers and body, all from the one table `schemas.errors.ERRORS`. Pure."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple, Protocol, Self

import msgspec

from schemas.errors import ERRORS, ErrorRow
from schemas.output import End

Header = tuple[bytes, bytes]

RETRY_AFTER_S = 1
"""A place in the queue frees, and a worker or broker restarts, within about this long."""

PART_CHARS_MAX = 200
"""What is left of each end of a long text; none of our own is longer than both."""

_SAID_OF_END = {
    "cancelled": "the request was cancelled",
    "queue_timeout": "no worker took the request in time",
    "request_timeout": "the request did not end in time",
}
"""For an END that brings no words of its own."""

_REASON_OF_STATUS = {"error": "internal", "cancelled": "cancelled", "expired": "request_timeout"}


class _Fields(NamedTuple):
    reason: str
    message: str
    param: str | None = None
    resume: str | None = None
    retry_after_s: float | None = None
    headers: tuple[Header, ...] = ()


class Problem(_Fields):
    """Why a client does not get what it asked for: `reason` is a key of ERRORS, `param` the field at fault, `resume`
    the path at which another edge goes on with the answer, `retry_after_s` when it is worth to try again, where that
    is known better than `RETRY_AFTER_S`, `headers` what the answer says besides. What is long of `message` and `param`
    is somebody's value, and cut, see `cut`."""

    __slots__ = ()

    def __new__(
        cls,
        reason: str,
        message: str,
        param: str | None = None,
        resume: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[Header, ...] = (),
    ) -> Self:
        field = None if param is None else cut(param)
        return super().__new__(cls, reason, cut(message), field, resume, retry_after_s, headers)

    @property
    def row(self) -> ErrorRow:
        """The table's row of `reason`."""
        return ERRORS[self.reason]


def cut(text: str) -> str:
    """Words about a failure, without the middle of a value that they repeat at full length: what is wrong stands before
    it, and where, behind. A client would get its body back, and a log would keep it."""
    if len(text) <= 2 * PART_CHARS_MAX:
        return text
    return f"{text[:PART_CHARS_MAX]} ... {text[-PART_CHARS_MAX:]}"


AWAY = Problem("broker_away", "the broker is away")
NOT_STORED = Problem("broker_away", "the broker is away; the request was not stored")
REFUSED = Problem("broker_away", "the broker cannot do this now")
UNCERTAIN = Problem("broker_away", "no leader is heard, so nobody can tell whether there is such a request")
LOST = Problem("log_lost", "a record of the output log cannot be read")
UNEXPECTED = Problem("internal", "something went wrong on our side")


def problem_of(end: End) -> Problem | None:
    """What an END says to the client; None if the request ended well."""
    if end.status == "ok":
        return None
    reason = end.reason if end.reason in ERRORS else _REASON_OF_STATUS[end.status]
    return Problem(reason, end.message or _SAID_OF_END.get(reason, "the request failed"))


def error_object(problem: Problem, rid: str | None = None) -> dict[str, str | None]:
    """OpenAI's error object. `rid`: of a request that was admitted; its clients can ask for it by that."""
    row = problem.row
    fields = {"message": problem.message, "type": row.type_, "param": problem.param, "code": row.code}
    if rid is not None:
        fields["request_id"] = rid
    if problem.resume is not None:
        fields["resume"] = problem.resume
    return fields


def error_json(problem: Problem, rid: str | None = None) -> bytes:
    """OpenAI's error body; `rid` as in `error_object`."""
    return msgspec.json.encode({"error": error_object(problem, rid)})


def error_headers(problem: Problem) -> list[Header]:
    """Headers of an error response, next to those every response has."""
    headers = [(b"content-type", b"application/json")]
    if problem.row.retry_after:
        wait_s = RETRY_AFTER_S if problem.retry_after_s is None else problem.retry_after_s
        headers.append((b"retry-after", b"%d" % max(1, ceil(wait_s))))
        headers.append((b"retry-after-ms", b"%d" % ceil(wait_s * 1000)))
    if problem.row.is_final:
        headers.append((b"x-should-retry", b"false"))
    return [*headers, *problem.headers]


def error_frame(problem: Problem, rid: str) -> bytes:
    """The end of a broken stream. Without it, clients take a closed stream for a finished one. It has no id: a client
    that comes back is told again."""
    return b"data: %b\n\n%b" % (error_json(problem, rid), DONE)


class ErrorStyle(Protocol):
    """How clients of one dialect are told of a failure that has an answer of its own."""

    def status(self, problem: Problem) -> int:
        """The HTTP status."""

    def body(self, problem: Problem, rid: str | None = None) -> bytes:
        """The JSON body; `rid`: of a request that was admitted."""


class OpenAIErrors:
    """The table as it stands."""

    def status(self, problem: Problem) -> int:
        """The row's."""
        return problem.row.status

    def body(self, problem: Problem, rid: str | None = None) -> bytes:
        """`error_json`."""
        return error_json(problem, rid)


OPENAI_ERRORS = OpenAIErrors()

DONE = b"data: [DONE]\n\n"
