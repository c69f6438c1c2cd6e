"""The spans of an edge: the tree of a new request, what sampling and a client's `traceparent` make of it, how bad ends
look, and readers of a request that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from infra import trace_names as names
from infra.broker import Broker
from infra.settings import Settings, load_settings
from infra.tracing import Span
from schemas.output import End, Usage
from schemas.trace import context_of, parse_traceparent
from tests.integration.edge_under_test import (
    CHAT,
    MODEL,
    Attempt,
    Backend,
    World,
    backend_on,
    edge_at,
    leave,
    post,
    read,
    readers_at,
    until,
)

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = GIVEN[:-2] + "00"
TRACE, PARENT = GIVEN.split("-")[1:3]
SECRET = "a canary that sings of rivers"
OK = End(status="ok", n=2, usage=Usage(1, 2), finish_reasons=["stop"])


@dataclass
class Recorder:
    """A tracer that keeps what it gets."""

    ratio: float = 1.0
    spans: list[Span] = field(default_factory=list)

    def emit(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None:
        """Nothing waits."""

    async def named(self, *expected: str) -> list[Span]:
        """The spans, in this order of their names, once all are there."""
        await until(lambda: len(self.spans) >= len(expected))
        spans = sorted(self.spans, key=lambda span: span.start)
        assert [span.name for span in spans] == list(expected)
        return spans


@dataclass
class Traced:
    world: World
    backend: Backend
    tracer: Recorder


@pytest.fixture
def settings(broker: Broker) -> Settings:
    return load_settings({"nats_url": broker.url})


@pytest.fixture
async def traced(settings: Settings) -> AsyncIterator[Traced]:
    tracer = Recorder()
    async with backend_on(settings) as backend, edge_at(settings, backend, tracer=tracer) as world:
        yield Traced(world, backend, tracer)


SERVER, PUBLISH, DELIVER = f"POST {CHAT}", "publish llm.v1.req", "deliver"


async def answer(attempt: Attempt) -> None:
    await attempt.tok("a")
    await attempt.tok("b")
    await attempt.end(OK)


def happened(span: Span) -> list[str]:
    return [event.name for event in span.events]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_has_its_tree(traced: Traced, stream: bool) -> None:
    messages = [{"role": "user", "content": SECRET}]
    client = post(traced.world, {"traceparent": GIVEN}, stream=stream, messages=messages)
    attempt = await traced.backend.attempt()
    await attempt.tok("a")
    if stream:  # a head that waits for a slow broker is no part of the tree's order
        await until(lambda: any(one.status_code for one in traced.world.edge._desk.audience.answers))
    await attempt.tok("b")
    await attempt.end(OK)
    rid = (await client).headers["x-request-id"]
    server, publish, deliver = await traced.tracer.named(SERVER, PUBLISH, DELIVER)
    assert (server.kind, publish.kind, deliver.kind) == ("server", "producer", "internal")
    assert {span.context.trace_id for span in traced.tracer.spans} == {TRACE}
    assert server.parent_id == PARENT
    assert publish.parent_id == deliver.parent_id == server.context.span_id
    assert parse_traceparent(attempt.meta.traceparent) == publish.context, (
        "who takes the message goes on there"
    )
    assert server.attributes[names.HTTP_STATUS] == 200
    assert server.attributes[names.HTTP_ROUTE] == CHAT
    assert server.attributes[names.GEN_AI_REQUEST_MODEL] == MODEL
    assert server.attributes[names.SERVER_PORT] == traced.world.port
    assert publish.attributes[names.MESSAGING_MESSAGE_ID] == f"public.{rid}"
    assert publish.attributes[names.MESSAGING_BODY_BYTES] == len(attempt.body)
    assert all(span.attributes[names.REQUEST_ID] == rid for span in traced.tracer.spans)
    assert happened(server) == ["admitted"]
    order = (
        ["first token", "head sent", "end", "last byte"] if stream else ["first token", "end", "head sent"]
    )
    assert happened(deliver)[: len(order)] == order
    assert happened(deliver)[-1] == "last byte"
    assert server.start <= publish.start <= publish.end == deliver.start <= deliver.end == server.end
    assert not any(span.error or names.ERROR_TYPE in span.attributes for span in traced.tracer.spans)
    told = repr(traced.tracer.spans)
    assert SECRET not in told
    assert "gen_ai.usage" not in told, "only the worker tells of usage: viewers add it up"


async def test_without_a_traceparent_the_trace_is_that_of_the_name(traced: Traced) -> None:
    client = post(traced.world)
    attempt = await traced.backend.attempt()
    await answer(attempt)
    await client
    server, publish, _ = await traced.tracer.named(SERVER, PUBLISH, DELIVER)
    assert server.context.trace_id == context_of(attempt.tenant, attempt.rid, "", ratio=1).trace_id
    assert server.parent_id == ""
    assert parse_traceparent(attempt.meta.traceparent) == publish.context


@pytest.mark.parametrize(
    ("ratio", "given", "is_traced"),
    [(0.0, "", False), (0.0, GIVEN, True), (1.0, UNSAMPLED, False), (0.0, "nonsense", False)],
)
async def test_what_is_sampled(traced: Traced, ratio: float, given: str, is_traced: bool) -> None:
    traced.tracer.ratio = ratio
    client = post(traced.world, {"traceparent": given} if given else None)
    attempt = await traced.backend.attempt()
    await answer(attempt)
    assert (await client).status_code == 200
    await until(lambda: len(traced.tracer.spans) >= (3 if is_traced else 0))
    assert len(traced.tracer.spans) == (3 if is_traced else 0)
    said = parse_traceparent(attempt.meta.traceparent)
    if given == UNSAMPLED:
        assert said == parse_traceparent(UNSAMPLED), "nobody behind the edge traces it either"
    elif not is_traced:
        assert attempt.meta.traceparent == ""
    else:
        assert said is not None
        assert said.is_sampled


@pytest.mark.parametrize(
    ("sent", "trace"),
    [
        ([(b"traceparent", b"01" + GIVEN[2:].encode() + b"-" + b"x" * 12_000)], TRACE),
        ([(b"traceparent", GIVEN.encode()), (b"traceparent", GIVEN.replace("0af7", "1af7").encode())], TRACE),
        ([(b"traceparent", GIVEN.encode()), (b"tracestate", b"\xff\xfe=" + b"x" * 12_000)], TRACE),
        ([(b"traceparent", "ü".encode() * 55)], ""),
        ([(b"traceparent", GIVEN.upper().encode())], ""),
        ([(b"traceparent", b"")], ""),
    ],
)
async def test_odd_headers_cost_nothing(traced: Traced, sent: list[tuple[bytes, bytes]], trace: str) -> None:
    async with traced.world.http as http:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
        client = asyncio.create_task(http.post(CHAT, json=body, headers=sent))
        attempt = await traced.backend.attempt()
        await answer(attempt)
        assert (await client).status_code == 200
    server, publish, _ = await traced.tracer.named(SERVER, PUBLISH, DELIVER)
    assert server.context.trace_id == (trace or context_of(attempt.tenant, attempt.rid, "", ratio=1).trace_id)
    assert parse_traceparent(attempt.meta.traceparent) == publish.context


async def test_a_refused_request_has_a_span_that_says_why(traced: Traced) -> None:
    response = await post(traced.world, model="nope")
    assert response.status_code == 404
    (server,) = await traced.tracer.named(SERVER)
    assert server.attributes[names.HTTP_STATUS] == 404
    assert server.attributes[names.ERROR_TYPE] == "model_not_found"
    assert server.attributes[names.REQUEST_ID] == response.headers["x-request-id"]
    assert server.attributes[names.OUTCOME] == "refused"
    assert server.error == "", "a client's mistake is none of the server's"


async def test_what_is_refused_before_it_has_a_name_is_told_of_to_who_brought_a_trace(traced: Traced) -> None:
    async with traced.world.http as http:
        for headers in ({}, {"traceparent": GIVEN}):
            refused = await http.post("/v1/responses", content=b"no json", headers=headers)
            assert refused.status_code == 400
    (server,) = await traced.tracer.named("POST /v1/responses")
    assert server.parent_id == PARENT


@pytest.mark.parametrize(
    ("end", "status", "outcome", "reason", "is_error"),
    [
        (End(status="cancelled", reason="cancelled"), 499, "cancelled", "cancelled", False),
        (End(status="expired", reason="queue_timeout"), 503, "expired", "queue_timeout", True),
        (End(status="error", reason="poison"), 502, "poison", "poison", True),
        (End(status="error", reason="engine_error"), 502, "error", "engine_error", True),
    ],
)
async def test_bad_ends(
    traced: Traced, end: End, status: int, outcome: str, reason: str, is_error: bool
) -> None:
    client = post(traced.world)
    attempt = await traced.backend.attempt()
    await attempt.end(end)
    assert (await client).status_code == status
    server, _, deliver = await traced.tracer.named(SERVER, PUBLISH, DELIVER)
    for span in (server, deliver):
        assert span.attributes[names.OUTCOME] == outcome
        assert span.attributes[names.ERROR_TYPE] == reason
        assert bool(span.error) == is_error
    assert server.attributes[names.HTTP_STATUS] == status
    assert "end" in happened(deliver)


async def test_a_stream_that_fails_after_its_head_is_an_error_with_a_good_status(traced: Traced) -> None:
    client = post(traced.world)
    attempt = await traced.backend.attempt()
    await attempt.tok("a")
    await attempt.end(End(status="error", reason="engine_error"))
    assert (await client).status_code == 200
    server, _, deliver = await traced.tracer.named(SERVER, PUBLISH, DELIVER)
    assert server.attributes[names.HTTP_STATUS] == 200
    assert server.error == deliver.error == "engine_error"


async def test_a_client_that_leaves(traced: Traced) -> None:
    client = post(traced.world, {"x-penstock-on-disconnect": "detach"})
    attempt = await traced.backend.attempt()
    await attempt.tok("a")
    await readers_at(traced.world, 1)
    await leave(traced.world, client)
    server, _, deliver = await traced.tracer.named(SERVER, PUBLISH, DELIVER)
    assert server.attributes[names.OUTCOME] == "left"
    assert happened(deliver)[-1] == "client left"


async def test_a_reader_at_another_edge_links_to_the_request(settings: Settings, traced: Traced) -> None:
    first = post(traced.world, {"traceparent": GIVEN, "x-penstock-on-disconnect": "detach"})
    attempt = await traced.backend.attempt()
    await attempt.tok("a")
    published = parse_traceparent(attempt.meta.traceparent)
    assert published is not None
    other = Recorder(ratio=0.0)
    async with edge_at(settings, traced.backend, "edge-other", tracer=other) as world:
        headers = {"last-event-id": "1-0"}
        second = read(world, attempt.rid, headers)
        third = read(world, attempt.rid, {**headers, "traceparent": f"00-{'c' * 32}-{'d' * 16}-01"})
        await readers_at(world, 2)
        await attempt.tok("b")
        await attempt.end(OK)
        await asyncio.gather(first, second, third)
        await until(lambda: len(other.spans) == 2)
    own, given = sorted(other.spans, key=lambda span: bool(span.parent_id))
    for span in (own, given):
        assert span.name == "GET /v1/requests/{rid}/stream"
        assert span.kind == "server"
        assert span.links == [published]
        assert span.attributes[names.LINK] == ["request"]
        assert span.attributes[names.REQUEST_ID] == attempt.rid
        assert attempt.rid not in str(span.attributes[names.URL_PATH])
        assert happened(span)[-1] == "last byte"
    assert (own.context.trace_id, own.parent_id) == (TRACE, ""), "sampled as the request is"
    assert (given.context.trace_id, given.parent_id) == ("c" * 32, "d" * 16)


async def test_a_retry_with_the_same_key_links_to_the_first_try(traced: Traced) -> None:
    key = {"idempotency-key": "k" * 20}
    first = post(traced.world, key)
    attempt = await traced.backend.attempt()
    second = post(traced.world, key)
    await readers_at(traced.world, 2)
    await answer(attempt)
    await asyncio.gather(first, second)
    await until(lambda: len(traced.tracer.spans) == 4)
    published = parse_traceparent(attempt.meta.traceparent)
    (again,) = [span for span in traced.tracer.spans if span.links]
    assert again.name == SERVER
    assert again.links == [published]
    assert {span.context.trace_id for span in traced.tracer.spans} == {again.context.trace_id}


ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "p"},
    "/v1/embeddings": {"input": "p"},
    "/v1/responses": {"input": "p", "stream": True},
    "/v1/messages": {"messages": [{"role": "user", "content": "p"}], "max_tokens": 5, "stream": True},
    "/v1/predict": {"messages": [{"role": "user", "content": "p"}]},
    "/generate": {"prompt": "p"},
    "/v1/generate": {"prompt": "p"},
}


@pytest.mark.parametrize("path", ASKED)
async def test_every_endpoint_that_generates_is_traced(traced: Traced, path: str) -> None:
    async with traced.world.http as http:
        body = {"model": MODEL, **ASKED[path]}
        client = asyncio.create_task(http.post(path, json=body, headers={"traceparent": GIVEN}))
        attempt = await traced.backend.attempt()
        await answer(attempt)
        await client
    server, publish, _ = await traced.tracer.named(f"POST {path}", PUBLISH, DELIVER)
    assert server.parent_id == PARENT
    assert parse_traceparent(attempt.meta.traceparent) == publish.context


async def test_what_neither_asks_nor_reads_is_not_traced(traced: Traced) -> None:
    async with traced.world.http as http:
        for path in ("/v1/models", "/livez", f"/v1/requests/{'a' * 20}"):
            await http.get(path, headers={"traceparent": GIVEN})
    assert traced.tracer.spans == []
