"""A secured broker and messages that ask to be told of."""

from __future__ import annotations

import json
from pathlib import Path

from edge.hops import hop_span
from infra.access import access_of
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.stream_set import ensure_streams
from schemas import subjects
from schemas.requests import TRACE_DEST, TRACEPARENT
from tests.secure.secured import ANSWER_S, SecuredBroker, until

HOPS = subjects.hops("edge-1")
GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_secured_broker_takes_the_message_from_an_edge(tmp_path: Path) -> None:
    """It drops one whose sender may not publish where it wants to be told of it."""
    secured = SecuredBroker(tmp_path / "broker")
    try:
        settings = secured.settings()
        failures: list[Exception] = []
        access = access_of(settings, "scheduler")
        bus = await Bus.connect(settings.nats_url, name="scheduler", fail=failures.append, access=access)
        await ensure_streams(JetStream(bus), settings)
        await bus.close()
        subject = subjects.request("standard", "sim", "acme", "r" * 26)
        headers = {TRACE_DEST: HOPS, TRACEPARENT: GIVEN}
        async with secured.client("admin") as admin:
            await admin.publish(subject, b"{}", headers=headers)
            await until(lambda: admin.refusals, "the broker refuses it")
            assert HOPS in admin.refusals[0]
        async with secured.client("edge") as edge:
            told = await edge.subscribe(HOPS)
            answer = await edge.request(subject, b"{}", headers=headers, timeout=ANSWER_S)
            assert json.loads(answer.data)["seq"], "it was stored"
            span = hop_span((await told.next_msg(ANSWER_S)).data)
            assert span is not None
            assert "stored" in [event.name for event in span.events]
            assert not edge.refusals
        assert not failures
    finally:
        secured.stop()
