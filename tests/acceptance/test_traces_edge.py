"""A whole system's traces as people get them: from the store by `penstock trace`, and at a collector."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import httpx
import msgspec
import pytest

from bench.system import System
from bench.transcript import MODEL, client, expected
from infra import trace_names as names
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.trace_store import StoredSpan
from schemas import subjects
from schemas.ids import ANONYMOUS, model_key, request_id
from schemas.requests import MSG_ID, TRACEPARENT
from schemas.trace import context_of
from tests.acceptance.conftest import StartSystem
from tests.acceptance.raw_client import attach, body_of, post
from tests.collector import Collector, Received, collecting

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{PARENT}-01"
SECRET = "a canary that sings of rivers"
CHAT = "/v1/chat/completions"
RESUME = "GET /v1/requests/{rid}/stream"
WITHIN_S = 20.0
LONG_TOKENS = 1200
"""They are not all made when a client that reads five of them leaves, on a busy machine neither."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture(scope="module")
def system(start_system: StartSystem, collector: Collector) -> System:
    return start_system(edges=2, workers=1, itl_ms=5, ttft_ms=5, otlp_endpoint=collector.endpoint)


def command(system: System, wanted: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", "trace", wanted, "--store", str(system.store), *words],
        capture_output=True,
        text=True,
        check=False,
    )


def spans_of(
    system: System, wanted: str, enough: Callable[[list[StoredSpan]], object] = bool
) -> list[StoredSpan]:
    """The edges' spans of a request, once they are enough."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        done = command(system, wanted, "--json")
        spans = msgspec.json.decode(done.stdout, type=list[StoredSpan]) if done.returncode == 0 else []
        spans = [span for span in spans if span.role == "edge"]
        if enough(spans):
            return spans
        assert time.monotonic() < deadline, (done.stderr, [span.name for span in spans])


def named(spans: list[StoredSpan], name: str) -> StoredSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def is_answered(spans: list[StoredSpan]) -> bool:
    return any(span.name == f"POST {CHAT}" for span in spans)


def sent_to(collector: Collector, rid: str) -> dict[str, Received]:
    """A request's spans at the collector, by id."""
    return {
        one.span.span_id.hex(): one for one in collector.spans if one.attributes.get(names.REQUEST_ID) == rid
    }


def ask(system: System, tokens: int = 20, **headers: str) -> str:
    with post(system.url, body_of(SECRET, tokens), **headers) as (answer, events):
        assert "".join(event.text for event in events) == expected(SECRET, tokens)
        return answer.headers["x-request-id"]


def test_a_request_is_found_as_a_tree_in_the_store_and_at_the_collector(
    system: System, collector: Collector
) -> None:
    rid = ask(system, traceparent=GIVEN)
    spans = spans_of(system, rid, is_answered)
    server, publish = named(spans, f"POST {CHAT}"), named(spans, "publish llm.v1.req")
    deliver = named(spans, "deliver")
    assert {span.trace for span in spans} == {TRACE}
    assert (server.parent, publish.parent, deliver.parent) == (PARENT, server.span, server.span)
    assert server.start <= publish.start <= publish.end <= deliver.end <= server.end
    assert abs(server.start / 1e9 - time.time()) < 60
    assert [event.name for event in deliver.events] == ["first token", "head sent", "end", "last byte"]

    system.wait_until(
        lambda: {span.span for span in spans} <= sent_to(collector, rid).keys(), "all are sent", WITHIN_S
    )
    sent = sent_to(collector, rid)
    for span in spans:
        assert sent[span.span].span.parent_span_id.hex() == span.parent
        assert sent[span.span].instance == span.process
        assert sent[span.span].service == "penstock-edge"

    picture = command(system, f"chatcmpl-{rid}").stdout
    assert picture.startswith(f"trace {TRACE}")
    assert "├ publish llm.v1.req" in picture
    assert "◆" in picture
    assert SECRET not in picture


def test_every_reader_of_a_request_is_in_its_trace_at_both_edges(system: System) -> None:
    rid = ask(system, traceparent=GIVEN)

    def both(spans: list[StoredSpan]) -> bool:
        with attach(system.url, rid, after="4-0") as (_, events):
            rest = "".join(event.text for event in events)
            assert rest
            assert expected(SECRET, 20).endswith(rest)
        return len({span.process for span in spans if span.name == RESUME}) == 2

    readers = [span for span in spans_of(system, rid, both) if span.name == RESUME]
    for span in readers:
        assert span.kind == "server"
        assert span.attributes[names.REQUEST_ID] == rid
        assert span.attributes[names.OUTCOME] == "ok"
        assert rid not in str(span.attributes[names.URL_PATH])


def test_a_request_of_a_direct_publisher_is_linked_to_by_who_reads_it(system: System) -> None:
    rid = request_id(bytes(range(16)))
    trace = "e" * 32
    given = f"00-{trace}-{'f' * 16}-01"

    async def publish() -> None:
        failures: list[Exception] = []
        bus = await Bus.connect(system.nats_url, name="direct", fail=failures.append)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": LONG_TOKENS}
        headers = f"NATS/1.0\r\n{MSG_ID}: {ANONYMOUS}.{rid}\r\n{TRACEPARENT}: {given}\r\n\r\n".encode()
        subject = subjects.request("standard", model_key(MODEL), ANONYMOUS, rid)
        ack = await JetStream(bus).publish(subject, json.dumps(body).encode(), headers=headers)
        assert ack.stored
        await bus.close()
        assert not failures

    asyncio.run(publish())
    with attach(system.url, rid) as (_, events):
        assert len(list(islice(events, 5))) == 5
    reader = named(spans_of(system, rid, lambda spans: any(span.name == RESUME for span in spans)), RESUME)
    assert reader.trace == trace
    assert [link.span_id for link in reader.links] == ["f" * 16]
    assert reader.attributes[names.OUTCOME] == "left"


def test_a_refused_request_says_why(system: System) -> None:
    refused = httpx.post(
        system.url + CHAT, json={"model": "nope", "messages": [{"role": "user", "content": SECRET}]}
    )
    assert refused.status_code == 404
    rid = refused.headers["x-request-id"]
    (server,) = spans_of(system, rid)
    assert server.attributes[names.ERROR_TYPE] == "model_not_found"
    assert server.trace == context_of(ANONYMOUS, rid, "", ratio=1).trace_id


def test_the_lines_of_a_batch_have_traces_of_their_own(system: System) -> None:
    remote: Any = client(system.url)
    body = {"model": MODEL, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}
    line = {"custom_id": "c", "method": "POST", "url": CHAT, "body": body}
    file = remote.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch").id
    batch = remote.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    deadline = time.monotonic() + WITHIN_S
    while remote.batches.retrieve(batch.id).status != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    result = json.loads(remote.files.content(remote.batches.retrieve(batch.id).output_file_id).text)
    rid = result["response"]["request_id"]
    spans = spans_of(system, rid, lambda spans: len(spans) == 3)
    top = named(spans, f"batch line {CHAT}")
    assert top.parent == ""
    assert {named(spans, "publish llm.v1.req").parent, named(spans, "deliver").parent} == {top.span}


def test_a_trace_outlives_the_edge_that_wrote_it(system: System) -> None:
    rid = ask(system)
    process = named(spans_of(system, rid, is_answered), "deliver").process
    (edge,) = [one for one in system.processes("edge") if one.id == process]
    system.kill(edge)
    system.wait_replaced(edge)
    assert named(spans_of(system, rid), "deliver").process == process


def test_nothing_that_was_said_is_in_any_trace(system: System, collector: Collector) -> None:
    ask(system)
    kept = [file.read_bytes() for file in (system.store / "traces").iterdir()]
    assert kept
    assert not any(SECRET.encode() in data for data in kept)
    assert not any(SECRET in str(one.span) for one in collector.spans)
    unknown = command(system, "w" * 20)
    assert unknown.returncode == 1
    assert "no such request" in unknown.stderr
