"""The results of a batch's lines: what is stored of each, and which there are. Pure."""

from __future__ import annotations

import msgspec

from edge.batches.records import Counts, Outcome
from edge.batches.tries import Answer

OUTCOME_HEADER = "Penstock-Outcome"


class Response(msgspec.Struct, frozen=True):
    """The answer that HTTP would have given."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class NoResponse(msgspec.Struct, frozen=True):
    """Why a line has no answer."""

    code: str
    message: str


class Result(msgspec.Struct, frozen=True):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: Response | None
    error: NoResponse | None

    @property
    def outcome(self) -> Outcome:
        """Which of the two files it belongs to."""
        return "ok" if self.response is not None and self.response.status_code == 200 else "failed"


EXPIRED = NoResponse(
    "batch_expired", "this request could not be executed before the completion window expired"
)
TOO_LARGE = NoResponse("response_too_large", "the answer is larger than a line of a result may be")


def answered(line_id: str, custom_id: str, answer: Answer) -> Result:
    """The result of a line that was asked."""
    return Result(line_id, custom_id, Response(answer.status, answer.rid, msgspec.Raw(answer.body)), None)


def unanswered(line_id: str, custom_id: str, why: NoResponse) -> Result:
    """The result of a line that has no answer."""
    return Result(line_id, custom_id, None, why)


def encode(result: Result) -> bytes:
    """The line, with its end."""
    return msgspec.json.encode(result) + b"\n"


class Tally:
    """Which lines of a batch have a result, and what these amount to. A number per line."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._count: dict[Outcome, int] = {"ok": 0, "failed": 0}
        self._bytes: dict[Outcome, int] = {"ok": 0, "failed": 0}

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def add(self, number: int, outcome: Outcome, size: int) -> None:
        """Line `number` has a result of `size` bytes."""
        if number not in self:
            self._known.add(number)
            self._count[outcome] += 1
            self._bytes[outcome] += size

    def size(self, outcome: Outcome) -> int:
        """Bytes of a file; 0: there are no such lines."""
        return self._bytes[outcome]

    @property
    def bytes(self) -> int:
        """Of both files."""
        return sum(self._bytes.values())

    def counts(self, total: int) -> Counts:
        """As a batch shows them."""
        return Counts(total, self._count["ok"], self._count["failed"])
