"""What a request counts as in the metrics: a few updates per request, none per token."""

from __future__ import annotations

from edge.errors import Problem
from infra import telemetry

LEFT_STATUS = 499
"""In the metrics only: there is nobody to send a status to."""


class Account:
    """One admitted request, from its arrival at this edge on. Times are in seconds of one monotonic clock."""

    def __init__(self, model: str, now: float) -> None:
        self._model = model
        self._arrived_at = now
        telemetry.INFLIGHT_REQUESTS.labels(model).inc()

    def first_token(self, now: float) -> None:
        """The first text leaves for the client."""
        telemetry.TIME_TO_FIRST_TOKEN.labels(self._model).observe(now - self._arrived_at)

    def ended(self, problem: Problem | None, tokens: int, now: float, *, left: bool) -> None:
        """The answer is over after `tokens` tokens; `left`: because the client had gone."""
        telemetry.INFLIGHT_REQUESTS.labels(self._model).dec()
        telemetry.REQUEST_DURATION.labels(self._model).observe(now - self._arrived_at)
        telemetry.OUTPUT_TOKENS.labels(self._model).inc(tokens)
        status = LEFT_STATUS if left else problem.row.status if problem is not None else 200
        telemetry.REQUESTS.labels(self._model, status).inc()
        if problem is not None:
            telemetry.FAILURES.labels(self._model, problem.reason).inc()


def refused(problem: Problem) -> None:
    """A request was turned away before it became one. What it named is the client's text, so it is no label."""
    telemetry.REQUESTS.labels(telemetry.UNKNOWN_MODEL, problem.row.status).inc()
    telemetry.FAILURES.labels(telemetry.UNKNOWN_MODEL, problem.reason).inc()
