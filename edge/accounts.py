"""What a request counts as in the metrics: a few updates per request, none per token."""

from __future__ import annotations

from edge import metrics
from edge.errors import Problem
from edge.recent import Recent, Took
from infra.metrics.tables import MODELS, UNKNOWN_MODEL

LEFT_STATUS = 499
"""In the metrics only: there is nobody to send a status to."""

RECENT = Recent()
"""This process's, like all that is counted."""


class Account:
    """One admitted request, from its arrival at this edge on. Times are in seconds of one monotonic clock.

    `trace_id`: of a request that is traced; what is slow leads to its trace.
    """

    def __init__(self, model: str, now: float, trace_id: str = "") -> None:
        self._model = MODELS.of(model)
        self._arrived_at = now
        self._exemplar = {"trace_id": trace_id} if trace_id else None
        self._gaps = metrics.INTER_TOKEN_LATENCY.of(self._model)
        self._record_at = 0.0
        metrics.INFLIGHT_REQUESTS.labels(self._model).inc()
        RECENT.began()

    def first_token(self, now: float) -> None:
        """The first text leaves for the client."""
        self._record_at = now
        metrics.TIME_TO_FIRST_TOKEN.labels(self._model).observe(now - self._arrived_at, self._exemplar)

    def record(self, now: float) -> None:
        """So does what another record brought. The token path: a fraction of a microsecond."""
        self._gaps.observe(now - self._record_at)
        self._record_at = now

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
        metrics.INFLIGHT_REQUESTS.labels(self._model).dec()
        metrics.REQUEST_DURATION.labels(self._model).observe(total_s, self._exemplar)
        metrics.OUTPUT_TOKENS.labels(self._model).inc(tokens)
        metrics.REQUESTS.labels(self._model, LEFT_STATUS if left else status).inc()
        if problem is not None:
            metrics.FAILURES.labels(self._model, problem.reason).inc()
        RECENT.ended(Took(now, tokens, first_token_s, total_s), failed=problem is not None)


def refused(problem: Problem, status: int) -> None:
    """A request was turned away before it became one. What it named is the client's text, so it is no label."""
    metrics.REQUESTS.labels(UNKNOWN_MODEL, status).inc()
    metrics.FAILURES.labels(UNKNOWN_MODEL, problem.reason).inc()
    metrics.REJECTS.labels(problem.reason).inc()
    RECENT.refused()
