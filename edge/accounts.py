"""What a request counts as in the metrics: a few updates per request, none per token."""

from __future__ import annotations

from edge.errors import Problem
from edge.recent import Recent, Took
from infra import telemetry

LEFT_STATUS = 499
"""In the metrics only: there is nobody to send a status to."""

RECENT = Recent()
"""This process's, like all that is counted."""


class Account:
    """One admitted request, from its arrival at this edge on. Times are in seconds of one monotonic clock."""

    def __init__(self, model: str, now: float) -> None:
        self._model = model
        self._arrived_at = now
        telemetry.INFLIGHT_REQUESTS.labels(model).inc()
        RECENT.began()

    def first_token(self, now: float) -> None:
        """The first text leaves for the client."""
        telemetry.TIME_TO_FIRST_TOKEN.labels(self._model).observe(now - self._arrived_at)

    def ended(
        self,
        problem: Problem | None,
        status: int,
        tokens: int,
        now: float,
        *,
        first_token_s: float | None,
        left: bool,
    ) -> None:
        """The answer is over after `tokens` tokens; `status` is what its client was told; `left`: it was gone."""
        total_s = now - self._arrived_at
        telemetry.INFLIGHT_REQUESTS.labels(self._model).dec()
        telemetry.REQUEST_DURATION.labels(self._model).observe(total_s)
        telemetry.OUTPUT_TOKENS.labels(self._model).inc(tokens)
        telemetry.REQUESTS.labels(self._model, LEFT_STATUS if left else status).inc()
        if problem is not None:
            telemetry.FAILURES.labels(self._model, problem.reason).inc()
        RECENT.ended(Took(now, tokens, first_token_s, total_s), failed=problem is not None)


def refused(problem: Problem, status: int) -> None:
    """A request was turned away before it became one. What it named is the client's text, so it is no label."""
    telemetry.REQUESTS.labels(telemetry.UNKNOWN_MODEL, status).inc()
    telemetry.FAILURES.labels(telemetry.UNKNOWN_MODEL, problem.reason).inc()
    RECENT.refused()
