"""What a call's spans say, without a broker."""

from __future__ import annotations

from starlette.responses import Response

from edge.lookup import Found
from edge.tracing import Tracing
from infra.trace_export import Converter
from schemas.ids import RequestId, TenantKey
from schemas.requests import RequestMeta, View
from tests.unit.infra.spans import Kept

GIVEN = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_a_traced_reader_of_a_request_that_is_not_traced_links_to_nothing() -> None:
    """A link without a span cannot be sent, nor can the others that leave with it."""
    tracer = Kept(ratio=0)
    call = Tracing(tracer, "e").call("GET", "/v1/requests/{rid}/stream", {"traceparent": GIVEN}, None)
    assert call is not None
    found = Found(View(), RequestMeta(), "", None, queued=True, ctl=None)
    call.reads(TenantKey("t"), RequestId("r"), found)
    call.answered(Response())
    (span,) = tracer.spans
    assert not span.links
    assert Converter("edge", "e").convert([span])
