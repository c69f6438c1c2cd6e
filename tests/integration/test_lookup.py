"""What is found of a request in each of its states, on a real broker."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from edge.lookup import Lookup
from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers
from infra.output_log import OutputLog
from infra.settings import load_settings
from infra.stream_set import ensure_streams
from infra.wire import encode_headers
from schemas import subjects
from schemas.ids import ANONYMOUS, ModelKey, RequestId, TenantKey, fingerprint, model_key, request_id
from schemas.output import CtlRecord, End, Failed, Handoff, Lease, encode
from schemas.requests import RequestMeta, View, meta_headers
from schemas.streams import REQUESTS

BODY = b'{"prompt":"x"}'
VIEW = View(dialect="completion", model="Test/Model-1B", created=7, stream=False, include_usage=True)
META = RequestMeta(max_tokens=5, fingerprint=fingerprint(BODY), stream=False, grace_s=3.0, view=VIEW)
LEASE = Lease(nonce="n", worker="w", attempt=1, cause="first", fingerprint=META.fingerprint, view=VIEW)


class Request:
    """One request, brought into a state by hand."""

    def __init__(self, js: JetStream) -> None:
        self.js = js
        self.rid: RequestId = request_id(os.urandom(16))
        self.lookup = Lookup(js, OutputLog(js))
        self.seq = 0

    async def queue(self, meta: RequestMeta = META, klass: str = "batch") -> None:
        subject = subjects.request(klass, model_key(VIEW.model), ANONYMOUS, self.rid)
        ack = await self.js.publish(subject, BODY, headers=encode_headers(meta_headers(meta)))
        assert ack.stored
        self.queued_seq = ack.seq

    async def settle(self) -> None:
        assert await self.js.delete(REQUESTS, self.queued_seq)

    async def ctl(self, *records: CtlRecord) -> None:
        subject = subjects.output_ctl(ANONYMOUS, self.rid)
        for record in records:
            ack = await self.js.publish(subject, encode(record), headers=expect_headers(self.seq))
            assert ack.stored
            self.seq = ack.seq


@pytest.fixture
async def request_(broker: Broker) -> AsyncIterator[Request]:
    failures: list[Exception] = []
    bus = await Bus.connect(broker.url, name="lookup", fail=failures.append)
    js = JetStream(bus)
    await ensure_streams(js, load_settings({"nats_url": broker.url}))
    yield Request(js)
    await bus.close()
    assert not failures


async def test_what_does_not_exist_is_not_found(request_: Request) -> None:
    assert await request_.lookup.find(ANONYMOUS, request_.rid) is None


async def test_a_queued_request_is_found_whatever_its_class_and_model(request_: Request) -> None:
    await request_.queue()
    found = await request_.lookup.find(ANONYMOUS, request_.rid)
    assert found is not None
    assert (found.queued, found.ctl, found.end) == (True, None, None)
    assert (found.meta, found.view, found.fingerprint) == (META, VIEW, fingerprint(BODY))
    assert found.model == ModelKey(model_key(VIEW.model))
    assert await request_.lookup.find(TenantKey("other"), request_.rid) is None


async def test_a_running_request_is_found_with_its_lease(request_: Request) -> None:
    await request_.queue()
    await request_.ctl(LEASE)
    found = await request_.lookup.find(ANONYMOUS, request_.rid)
    assert found is not None
    assert found.ctl == (request_.seq, LEASE)
    assert (found.queued, found.end, found.view) == (True, None, VIEW)


@pytest.mark.parametrize(
    "chain",
    [
        [LEASE, End(status="ok", nonce="n", n=0)],
        [LEASE, End(status="cancelled", reason="cancelled")],
        [LEASE, Failed("n", "boom"), End(status="error", reason="poison")],
        [LEASE, Handoff("n", 0), LEASE, Handoff("n", 0), End(status="expired")],
    ],
)
async def test_the_view_of_what_is_over_is_that_of_its_newest_lease(
    request_: Request, chain: list[CtlRecord]
) -> None:
    await request_.queue()
    await request_.ctl(*chain)
    await request_.settle()
    found = await request_.lookup.find(ANONYMOUS, request_.rid)
    assert found is not None
    assert (found.queued, found.end, found.meta) == (False, chain[-1], None)
    assert (found.view, found.fingerprint) == (VIEW, fingerprint(BODY))
    assert found.model == model_key(VIEW.model)


async def test_a_request_that_ended_before_any_lease_has_no_view(request_: Request) -> None:
    await request_.ctl(End(status="cancelled", reason="cancelled"))
    found = await request_.lookup.find(ANONYMOUS, request_.rid)
    assert found is not None
    assert (found.view, found.fingerprint, found.model) == (None, "", None)
    assert found.end == End(status="cancelled", reason="cancelled")


async def test_a_direct_publishers_request_has_the_fingerprint_of_its_body(request_: Request) -> None:
    await request_.queue(RequestMeta())
    found = await request_.lookup.find(ANONYMOUS, request_.rid)
    assert found is not None
    assert (found.view, found.meta, found.fingerprint) == (None, RequestMeta(), fingerprint(BODY))
