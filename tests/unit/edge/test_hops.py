"""What becomes of a server's word about a traced message: recorded from nats-server 2.15.1, and garbage."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from edge.hops import EVENT_BYTES_MAX, EVENTS_MAX, TEXT_CHARS_MAX, hop_span
from infra import trace_names as names
from infra.tracing import unix_ns
from schemas import subjects
from schemas.trace import parse_traceparent

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RID = "r" * 26
SUBJECT = subjects.request("standard", "sim", "acme", RID)

# A cluster of three: the edge is connected to b1, and b2 leads the stream.
FIRST = (
    (
        '{"server":{"name":"b1","host":"127.0.0.1","id":"NDM2ADJUGIB46HJ7KSCMIGXFIKBU7VTY63WVURXMWE2NTMIWMQE2FRNI",'
        '"cluster":"c","ver":"2.15.1","jetstream":true,"flags":7,"seq":22,"time":"2026-11-21T15:52:20.867263695Z"},'
        '"request":{"header":{"Nats-Trace-Dest":["hops.x"],"traceparent":["GIVEN"]},"msgsize":112},"hops":1,"events":['
        '{"type":"in","ts":"2026-11-21T15:52:20.867185248Z","kind":0,"cid":28,"acc":"$G","subj":"SUBJECT"},'
        '{"type":"eg","ts":"2026-11-21T15:52:20.867241882Z","kind":1,"cid":19,"name":"b2","hop":"1"}]}'
    )
    .replace("GIVEN", GIVEN)
    .replace("SUBJECT", SUBJECT)
)
LAST = (
    (
        '{"server":{"name":"b2","host":"127.0.0.1","id":"NA7UDPBQ6Y4ZBJEKHQNYQW3NNN7ESIT7DZ2HEOMQ4FYBMWHMXF55YKX4",'
        '"cluster":"c","ver":"2.15.1","jetstream":true,"flags":7,"seq":23,"time":"2026-11-21T15:52:20.86837036Z"},'
        '"request":{"header":{"Nats-Trace-Dest":["hops.x"],"Nats-Trace-Hop":["1"],"traceparent":["GIVEN"]},"msgsize":131},'
        '"events":[{"type":"in","ts":"2026-11-21T15:52:20.867680567Z","kind":1,"cid":18,"name":"b1","acc":"$G",'
        '"subj":"SUBJECT"},{"type":"js","ts":"2026-11-21T15:52:20.868318773Z","stream":"REQUESTS","subject":"SUBJECT"}]}'
    )
    .replace("GIVEN", GIVEN)
    .replace("SUBJECT", SUBJECT)
)

OUT = {"type": "eg", "ts": "2026-11-21T15:52:20.9Z", "kind": 0}


def changed(**fields: Any) -> bytes:
    """The last server's word, with other fields."""
    return json.dumps(json.loads(LAST) | fields).encode()


def with_events(*more: dict[str, Any]) -> bytes:
    return changed(events=[*json.loads(LAST)["events"], *more])


def unix_s(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_a_server_that_stores_the_message_has_a_span() -> None:
    span = hop_span(LAST.encode())
    given = parse_traceparent(GIVEN)
    assert span is not None
    assert given is not None
    assert span.name == "broker b2"
    assert (span.context.trace_id, span.parent_id) == (given.trace_id, given.span_id), (
        "of the span that published"
    )
    assert span.context.is_sampled
    assert span.context.span_id not in ("", given.span_id)
    assert span.attributes[names.REQUEST_ID] == RID
    assert span.attributes[names.TENANT] == "acme"
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        ("in", {names.BROKER_KIND: "router"}),
        ("stored", {names.BROKER_STREAM: "REQUESTS"}),
    ]
    assert [event.at for event in span.events] == pytest.approx([span.start, span.end], abs=1e-6)
    assert unix_ns(span.start) / 1e9 == pytest.approx(unix_s("2026-11-21T15:52:20.867680Z"), abs=1e-3)
    assert span.end - span.start == pytest.approx(0.000638, abs=2e-6)
    assert not span.error


def test_a_server_on_the_way_says_where_it_sent_it() -> None:
    span = hop_span(FIRST.encode())
    assert span is not None
    assert span.name == "broker b1"
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        ("in", {names.BROKER_KIND: "client"}),
        ("out", {names.BROKER_KIND: "router", names.BROKER_COUNT: 1}),
    ]


def test_receivers_are_counted_by_kind() -> None:
    span = hop_span(with_events(*[OUT] * 1000, OUT | {"kind": 4}, OUT | {"kind": 99}, OUT | {"error": "no"}))
    assert span is not None
    outs = {
        event.attributes[names.BROKER_KIND]: event.attributes[names.BROKER_COUNT] for event in span.events[2:]
    }
    assert outs == {"client": 1000, "leafnode": 1, "unknown": 1}


def test_a_try_that_the_stream_did_not_take_says_why() -> None:
    events = json.loads(LAST)["events"]
    del events[1]["subject"]
    events[1]["error"] = "msgid is duplicate"
    span = hop_span(changed(events=events))
    assert span is not None
    assert span.events[1].name == "not stored"
    assert span.events[1].attributes[names.BROKER_ERROR] == "msgid is duplicate"
    assert not span.error, "the second try of a request that is there is nobody's failure"


def test_what_a_span_keeps_is_bounded() -> None:
    came = json.loads(LAST)["events"][0] | {"error": "e" * 5000}
    span = hop_span(changed(server={"name": "n" * 5000}, events=[came] * 20))
    assert span is not None
    assert len(span.events) == EVENTS_MAX
    assert len(span.name) == len("broker ") + TEXT_CHARS_MAX
    assert span.events[0].attributes[names.BROKER_ERROR] == "e" * TEXT_CHARS_MAX


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"{}",
        LAST.encode()[:-1],
        changed(events=[]),
        changed(events=None),
        changed(server={}),
        changed(request={"header": {}}),
        changed(request={"header": {"traceparent": []}}),
        changed(request={"header": {"traceparent": ["x" * 5000]}}),
        changed(request={"header": {"traceparent": [GIVEN[:-2] + "00"]}}),
        changed(request={"header": {"traceparent": [7]}}),
        changed(events=[json.loads(LAST)["events"][1]]),
        changed(events=[json.loads(LAST)["events"][0] | {"subj": "somebody.elses"}]),
        with_events(OUT | {"ts": "0001-01-01T00:00:00Z"}),
        with_events(OUT | {"ts": "2026-11-21T15:52:20.9"}),
        with_events(OUT | {"ts": "soon"}),
        with_events(OUT | {"ts": 1e300}),
        changed(more="x" * EVENT_BYTES_MAX),
    ],
)
def test_what_is_no_word_of_a_traced_request_is_none(payload: bytes) -> None:
    assert hop_span(payload) is None
