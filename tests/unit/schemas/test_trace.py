"""W3C trace context, and the trace of a request that brings none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.requests import TRACEPARENT, RequestMeta, parse_meta
from schemas.trace import (
    TraceContext,
    context_of,
    is_sampled,
    parse_traceparent,
    queued_context,
    root_span_id,
    traceparent,
)

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_is_read_and_written() -> None:
    context = parse_traceparent(GIVEN)
    assert context == TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)
    assert traceparent(context) == GIVEN
    assert parse_traceparent(GIVEN[:-2] + "00") == context._replace(is_sampled=False)


def test_a_later_version_may_append() -> None:
    assert parse_traceparent("cc" + GIVEN[2:] + "-what-else") == parse_traceparent(GIVEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        GIVEN + "-more",
        "ff" + GIVEN[2:],
        GIVEN.upper(),
        "00-" + "0" * 32 + GIVEN[35:],
        GIVEN[:36] + "0" * 16 + "-01",
        GIVEN + "\n",
    ],
)
def test_what_is_no_traceparent_counts_as_not_sent(text: str) -> None:
    assert parse_traceparent(text) is None
    assert context_of("t", "r", text, ratio=1) == context_of("t", "r", "", ratio=1)


@given(st.text(max_size=80))
def test_any_text_is_read_or_not(text: str) -> None:
    context = parse_traceparent(text)
    assert context is None or len(context.trace_id) == 32


def test_a_request_without_one_has_a_trace_of_its_own_tenant() -> None:
    mine = context_of("mine", "request", "", ratio=0.5)
    assert mine == context_of("mine", "request", "", ratio=0.5), "everybody agrees"
    assert mine.span_id == ""
    assert mine.trace_id != context_of("yours", "request", "", ratio=0.5).trace_id


def test_the_share_of_traces_is_what_was_asked_for() -> None:
    ids = [context_of("t", f"request{number}", "", ratio=0).trace_id for number in range(20_000)]
    assert not any(is_sampled(one, 0) for one in ids)
    assert all(is_sampled(one, 1) for one in ids)
    share = sum(is_sampled(one, 0.1) for one in ids) / len(ids)
    assert 0.09 < share < 0.11


def test_everybody_names_the_same_root_of_a_request_without_a_context() -> None:
    context = queued_context("t", "r", "", ratio=1)
    assert context == context_of("t", "r", "", ratio=1).at(root_span_id("t", "r"))
    assert parse_traceparent(traceparent(context)) == context
    assert context.span_id not in (context.trace_id[:16], context.trace_id[16:], root_span_id("u", "r"))
    assert queued_context("t", "r", GIVEN, ratio=0) == parse_traceparent(GIVEN)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("", ""),
        (f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01"),
        (f"01-{'a' * 32}-{'b' * 16}-01-{'x' * 100_000}", f"00-{'a' * 32}-{'b' * 16}-01"),
        ("x" * 100_000, ""),
        ("ü" * 100, ""),
    ],
)
def test_of_a_publishers_header_no_more_is_kept_than_it_says(sent: str, kept: str) -> None:
    meta = parse_meta({TRACEPARENT: sent})
    assert isinstance(meta, RequestMeta)
    assert meta.traceparent == kept
    assert context_of("t", "r", sent, ratio=1) == context_of("t", "r", kept, ratio=1)
