"""What the AsyncAPI document says of the broker's own words: headers of live copies, and answers to publishes."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import msgspec

from infra import wire
from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers
from schemas import subjects
from schemas.asyncapi import document
from schemas.asyncapi_messages import LIVE_HEADERS
from schemas.output import Failed, Lease, encode
from schemas.streams import output_stream
from tests.integration.edge_under_test import until

RID = "r" * 20


async def test_live_copies_and_answers(own_broker: Broker) -> None:
    failures: list[Exception] = []
    bus = await Bus.connect(own_broker.url, name="test", fail=failures.append)
    first_seq = int(time.time() * 1000) * 1000
    await JetStream(bus).ensure_stream(
        output_stream(output_bytes_max=1 << 20, retention_s=60, first_seq=first_seq)
    )
    live: list[tuple[dict[str, str], bytes]] = []
    bus.subscribe(
        subjects.live("public", RID),
        lambda _s, _r, headers, data: live.append((wire.parse_headers(headers), data)),
    )
    ctl = subjects.output_ctl("public", RID)
    lease = encode(Lease("n", "w", 1, "first"))
    stored = await bus.request(ctl, lease, headers=expect_headers(0), timeout_s=5)
    refused = await bus.request(ctl, encode(Failed("n", "late")), headers=expect_headers(1), timeout_s=5)
    await until(lambda: live)
    await bus.close()
    assert not failures

    [(headers, data)] = live
    assert data == lease
    # The writer's own headers are copied as well.
    assert headers.keys() >= LIVE_HEADERS.keys()
    check("liveLease", headers, "headers")
    check("liveLease", json.loads(data))
    for answer in (stored, refused):
        check("stored", msgspec.json.decode(answer.payload))
    assert json.loads(refused.payload)["error"]["err_code"] == 10071


def check(message: str, value: Any, part: str = "payload") -> None:
    made = document()
    schema = made["components"]["messages"][message][part]
    jsonschema.Draft7Validator({"components": made["components"], "allOf": [schema]}).validate(value)
