"""How one request gets stored exactly once, or why not: what to do after each answer of the broker. Pure.

A message is sent under one id until the broker answers for it. `Nats-Msg-Id` and the one-message-per-subject limit make
every repeat harmless, also those of another edge that publishes the same key at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.errors import Problem
from edge.idempotency import mismatch, same_body
from infra.jetstream import FULL, ID_IN_PROCESS, IN_PROCESS, SERVICE_UNAVAILABLE, PubAck
from schemas.ids import RequestId

TRY_TIMEOUT_S = 1.0
"""A PubAck takes 1 ms; after this the same id is sent again."""

RETRY_WAIT_S = 0.1
"""Between two tries that the broker answered, but not with a yes or a no."""


@dataclass(frozen=True)
class Send:
    """Publish the message, and wait for the PubAck this long."""

    timeout_s: float


@dataclass(frozen=True)
class Look:
    """Look the request up in both streams."""


@dataclass(frozen=True)
class Hold:
    """Wait this long, or until the connection is back."""

    wait_s: float


@dataclass(frozen=True)
class Done:
    """None: the request is stored, or was already. `outcome_unknown`: it may be. Else it is not, and never runs."""

    problem: Problem | None


Step = Send | Look | Hold | Done


class Publishing:
    """One request's way into the queue. Each method tells of what happened and returns the next step.

    `give_up_at` bounds all of it, on the clock of `now`.
    """

    def __init__(self, rid: RequestId, fingerprint: str, *, give_up_at: float) -> None:
        self._rid = rid
        self._fingerprint = fingerprint
        self._give_up_at = give_up_at
        # An earlier step may have been a yes although nobody said so: from then on a "no" may not be one.
        self._unanswered = False
        self._duplicate = False

    def proceed(self, now: float, *, connected: bool) -> Step:
        """At the start, and after each `Hold`."""
        left_s = self._give_up_at - now
        if left_s <= 0:
            return self.give_up()
        return Send(min(left_s, TRY_TIMEOUT_S)) if connected else Hold(left_s)

    def acked(self, ack: PubAck) -> Step:
        """The broker answered."""
        if ack.stored and not ack.duplicate:
            return Done(None)
        # A full queue and a request that is in it already get one answer; only the streams know which it was.
        if ack.stored or ack.err_code == FULL:
            self._duplicate = ack.stored
            return Look()
        if ack.err_code == ID_IN_PROCESS:
            return self.unanswered()
        if ack.err_code in (IN_PROCESS, SERVICE_UNAVAILABLE):
            return Hold(RETRY_WAIT_S)
        return self._refused("internal", f"the broker refused the request with error {ack.err_code}")

    def unanswered(self) -> Step:
        """No answer came to a `Send`, or that an earlier one has none yet."""
        self._unanswered = True
        return Hold(RETRY_WAIT_S)

    def found(self, fingerprint: str | None) -> Step:
        """What a `Look` found: the body's fingerprint, None if there is no such request."""
        if fingerprint is not None:
            return Done(None if same_body(fingerprint, self._fingerprint) else mismatch())
        if self._duplicate:
            return Done(Problem("log_lost", "the request was stored, and its log is gone"))
        return self._refused("queue_full", "the queue is full: try again later")

    def not_looked(self) -> Step:
        """No answer came to a `Look`, or a refusal: the same id is sent again, and answered the same way."""
        self._unanswered = True
        return Hold(RETRY_WAIT_S)

    def give_up(self) -> Done:
        """There is no time left, or no place to wait in."""
        return self._refused("broker_away", "the broker is away; the request was not stored")

    def _refused(self, reason: str, message: str) -> Done:
        """A no, if it can be known to be one: a client that is told so may count on it that nothing runs."""
        if self._unanswered:
            return Done(
                Problem(
                    "outcome_unknown",
                    f"the broker did not confirm the request: outcome: unknown, request id {self._rid}",
                )
            )
        return Done(Problem(reason, message))
