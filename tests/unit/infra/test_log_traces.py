"""Lines about a request name its trace if it is sampled, and none where the trace is not known."""

from __future__ import annotations

from typing import Any

from infra.log_traces import LogTraces
from schemas.trace import TraceContext, context_of, traceparent

RID = "r" * 16
GIVEN = TraceContext("a" * 32, "b" * 16, True)


def line(traces: LogTraces, **fields: Any) -> dict[str, Any]:
    return dict(traces(None, "info", dict(fields)))


def test_a_request_has_the_trace_that_it_was_given() -> None:
    traces = LogTraces(ratio=0.0)
    traces.know("t", RID, traceparent(GIVEN))
    assert line(traces, tenant="t", rid=RID, n=1) == {"tenant": "t", "rid": RID, "n": 1, "trace_id": "a" * 32}


def test_a_request_that_was_given_none_has_that_of_its_name() -> None:
    traces = LogTraces(ratio=1.0)
    traces.know("t", RID, "")
    assert line(traces, tenant="t", rid=RID)["trace_id"] == context_of("t", RID, "", ratio=1.0).trace_id


def test_what_is_not_sampled_and_what_is_not_known_has_none() -> None:
    traces = LogTraces(ratio=0.0)
    traces.know("t", RID, "")
    traces.know("t", "given", traceparent(GIVEN._replace(is_sampled=False)))
    for fields in (
        {"tenant": "t", "rid": RID},
        {"tenant": "t", "rid": "given"},
        {"tenant": "other", "rid": RID},
        {"rid": RID},
        {"tenant": "t"},
        {},
    ):
        assert line(traces, **fields) == fields


def test_only_the_newest_are_remembered() -> None:
    traces = LogTraces(ratio=1.0, known_max=2)
    for number in range(3):
        traces.know("t", f"{number}", "")
    assert ["trace_id" in line(traces, tenant="t", rid=f"{number}") for number in range(3)] == [
        False,
        True,
        True,
    ]
