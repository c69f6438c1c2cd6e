"""The traces of the requests that a process has to do with, for the lines of its log.

A line names its request by `tenant` and `rid`; nobody has to carry a trace to wherever something may be said.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from schemas.trace import context_of

KNOWN_MAX = 16_384
"""Requests that are remembered, the newest: more than an edge or a worker has open at a time, ~3 MB."""


class LogTraces:
    """A processor of structlog: adds `trace_id` to a line about a request that is sampled. `ratio` is set once the
    settings are known."""

    def __init__(self, ratio: float = 0.0, known_max: int = KNOWN_MAX) -> None:
        self.ratio = ratio
        self._known_max = known_max
        self._given: dict[tuple[str, str], str] = {}

    def know(self, tenant: str, rid: str, traceparent: str) -> None:
        """What a request says of its trace; empty: nothing, it is named after the request."""
        self._given[tenant, rid] = traceparent
        if len(self._given) > self._known_max:
            del self._given[next(iter(self._given))]

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A request that is not known may have been given any trace: none is better than a wrong one."""
        tenant, rid = event.get("tenant"), event.get("rid")
        if tenant is not None and rid is not None and (given := self._given.get((tenant, rid))) is not None:
            context = context_of(tenant, rid, given, ratio=self.ratio)
            if context.is_sampled:
                event["trace_id"] = context.trace_id
        return event


_traces = LogTraces()


def know_trace(tenant: str, rid: str, traceparent: str) -> None:
    """From now on this process's lines about the request name its trace, if that is sampled."""
    _traces.know(tenant, rid, traceparent)


def log_traces(ratio: float) -> LogTraces:
    """The processor of this process. `ratio`: share of requests without a context of their own that are sampled."""
    _traces.ratio = ratio
    return _traces
