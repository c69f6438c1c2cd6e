"""How often one line of a batch is asked for. Pure."""

from __future__ import annotations

from typing import NamedTuple

from schemas.ids import RequestId

RETRIED = (429, 503)
"""The request was not run, or nobody knows whether it was: the same key asks for the same run."""

WAIT_MIN_S = 0.5
WAIT_MAX_S = 30.0
"""Between two tries, where the answer does not say more: soon enough to use a slot that was free for a while."""


class Answer(NamedTuple):
    """What the edge said. `retry_after_s`: its header, 0 without one. `ended_as`: the rid of the request whose end it
    tells of; None: it was refused before there was one, or left while it may run. `is_final`: the same request will
    never do better, as one that costs more than its key may ever ask for."""

    status: int
    body: bytes
    rid: str
    retry_after_s: float = 0.0
    ended_as: RequestId | None = None
    is_final: bool = False


class Tries:
    """The keys of one line: `key` is what to ask with next.

    A key stands for a bounded number of runs, after which its last failure is the answer for good. A line that no
    worker had time for is not to fail of that: the next key follows, for every runner the same one, because a runner
    goes on to it only after it has been told of one end twice.
    """

    def __init__(self, line: str) -> None:
        self._line = line
        self._chain = 0
        self._last_end: RequestId | None = None
        self._wait_s = WAIT_MIN_S

    @property
    def key(self) -> str:
        """The idempotency key."""
        return self._line if not self._chain else f"{self._line}-{self._chain}"

    def judge(self, answer: Answer) -> float | None:
        """How many seconds to wait before the next try; None: this answer is the line's."""
        if answer.status not in RETRIED or answer.is_final:
            return None
        if answer.ended_as is not None and answer.ended_as == self._last_end:
            self._chain += 1
            return 0.0
        self._last_end = answer.ended_as or self._last_end
        wait_s = max(self._wait_s, answer.retry_after_s)
        self._wait_s = min(self._wait_s * 2, WAIT_MAX_S)
        return wait_s
