"""The edge alone against a real broker: what clients get when all goes well, and what they are told about it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from edge.event_stream import EventStream
from infra import wire
from infra.broker import Broker
from infra.bus import MessageCallback, Subscription
from infra.settings import load_settings
from schemas.dispatch import ModelState
from schemas.output import Delta, End, Tail, Usage
from schemas.requests import RequestMeta, parse_meta
from schemas.streams import REQUESTS
from tests.integration.edge_under_test import MESSAGES, MODEL, World, card, edge_on, raw_stream, until

USAGE = Usage(prompt_tokens=5, completion_tokens=3)


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    settings = load_settings({"nats_url": broker.url, "head_wait_s": 3, "keep_alive_s": 0.2})
    async with edge_on(settings) as world:
        yield world


async def write_hello(world: World) -> None:
    """`Hello world!` in two records and a tail."""
    attempt = await world.backend.attempt()
    await attempt.tok("Hello")
    await attempt.tok(" wor", "ld")
    tail = Tail(3, [3], [Delta("!")])
    await attempt.end(End(status="ok", n=4, tail=tail, usage=USAGE, finish_reasons=["stop"]))


async def test_the_openai_package_streams_a_chat(world: World) -> None:
    worker = asyncio.create_task(write_hello(world))
    async with world.openai as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    await worker
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[1:5]] == ["Hello", " wor", "ld", "!"]
    assert chunks[5].choices[0].finish_reason == "stop"
    assert chunks[6].choices == []
    assert chunks[6].usage is not None
    assert chunks[6].usage.total_tokens == 8
    assert len(chunks) == 7
    assert {chunk.id for chunk in chunks} == {stream.response.headers["x-request-id"].join(["chatcmpl-", ""])}
    assert {chunk.model for chunk in chunks} == {MODEL}


async def test_the_openai_package_streams_synchronously(world: World) -> None:
    def read() -> str:
        with openai.OpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(model=MODEL, prompt="hi", stream=True)
            return "".join(chunk.choices[0].text for chunk in stream)

    _, text = await asyncio.gather(write_hello(world), asyncio.to_thread(read))
    assert text == "Hello world!"


async def test_the_openai_package_completes(world: World) -> None:
    def complete() -> Any:
        with openai.OpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
            return client.chat.completions.create(model=MODEL, messages=MESSAGES)

    _, answer = await asyncio.gather(write_hello(world), asyncio.to_thread(complete))
    assert answer.choices[0].message.content == "Hello world!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 8
    assert answer.id == f"chatcmpl-{answer._request_id}"


async def test_a_whole_answer_takes_its_text_from_end(world: World) -> None:
    async def work() -> None:
        attempt = await world.backend.attempt()
        end = End(status="ok", n=2, text=["all of it"], usage=USAGE, finish_reasons=["length"])
        await attempt.end(end)

    async with world.openai as client:
        asking = client.completions.create(model=MODEL, prompt="hi")
        _, answer = await asyncio.gather(work(), asking)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("all of it", "length")


async def test_every_event_has_its_place_as_id(world: World) -> None:
    body = {
        "model": MODEL,
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with world.http as http:
        _, response = await asyncio.gather(write_hello(world), http.post("/v1/chat/completions", json=body))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"] == response.headers["request-id"]
    ids = re.findall(r"^id: (\S+)$", response.text, re.MULTILINE)
    assert ids == ["0-0", "1-0", "3-0", "3-1", "4-0", "5-0", "5-1"]
    assert response.text.endswith("data: [DONE]\n\n")


async def test_the_queue_gets_the_clients_own_bytes(world: World) -> None:
    raw = (
        b'{ "model": "%b", "messages": [{"role":"user","content":"\\u00e9"}], "stream": true, "mine": [1.50] }'
        % (MODEL.encode())
    )
    async with world.http as http:
        headers = {"x-penstock-class": "interactive"}
        asking = asyncio.create_task(http.post("/v1/chat/completions", content=raw, headers=headers))
        attempt = await world.backend.attempt()
        assert attempt.body == raw
        meta = parse_meta(wire.parse_headers(attempt.headers))
        assert isinstance(meta, RequestMeta)
        assert (meta.max_tokens, meta.edge, meta.stream) == (256, "edge-test", True)
        await attempt.end(End(status="ok", n=0))
        assert (await asking).status_code == 200


async def test_lost_live_records_are_read_from_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.edge.bus.subscribe

    def lossy(subject: str, callback: MessageCallback) -> Subscription:
        """Delivers the second message of every three, and that one twice."""
        count = 0

        def sometimes(*message: Any) -> None:
            nonlocal count
            count += 1
            if count % 3 == 2:
                callback(*message)
                callback(*message)

        return real(subject, sometimes if ".live." in subject else callback)

    monkeypatch.setattr(world.edge.bus, "subscribe", lossy)
    texts = [f"<{i}>" for i in range(60)]

    async def work() -> None:
        attempt = await world.backend.attempt()
        for text in texts:
            await attempt.tok(text)
        await attempt.end(End(status="ok", n=len(texts), usage=USAGE))

    async with world.openai as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        worker = asyncio.create_task(work())
        found = [chunk.choices[0].delta.content async for chunk in stream]
        await worker
    assert [text for text in found if text] == texts


async def test_a_waiting_stream_is_kept_alive(world: World) -> None:
    reader, writer = await raw_stream(world.port)
    async with asyncio.timeout(15):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b'"role":"assistant"')
        await reader.readuntil(b": keep-alive\n")
        await reader.readuntil(b": keep-alive\n")
    attempt = await world.backend.attempt()
    await attempt.end(End(status="ok", n=0))
    async with asyncio.timeout(15):
        await reader.readuntil(b"data: [DONE]\n\n")
    writer.close()


async def test_the_openai_package_takes_a_keep_alive_for_no_event(world: World) -> None:
    """Also after a token, when it has an event id: a comment must not look like an empty event to it."""

    async def work() -> None:
        attempt = await world.backend.attempt()
        await attempt.tok("Hello")
        async with asyncio.timeout(15):
            await kept_alive.wait()
        await attempt.tok(" world")
        await attempt.end(End(status="ok", n=2, usage=USAGE))

    kept_alive = asyncio.Event()
    async with world.openai as client:
        worker = asyncio.create_task(work())
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        pieces: list[str] = []
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")
            if pieces[-1] == "Hello":
                asyncio.get_running_loop().call_later(3 * world.settings.keep_alive_s, kept_alive.set)
        await worker
    assert "".join(pieces) == "Hello world"


async def test_a_slow_reader_gets_everything_and_costs_little(broker: Broker) -> None:
    limit = 20_000
    settings = load_settings({"nats_url": broker.url, "client_buffer_bytes_max": limit})
    async with edge_on(settings) as world:
        reader, writer = await raw_stream(world.port)
        attempt = await world.backend.attempt()
        piece = "#" * 100_000
        for _ in range(100):
            await attempt.tok(piece)
        await attempt.end(End(status="ok", n=attempt.n, usage=USAGE))
        [answer] = world.edge._desk.audience.answers
        assert isinstance(answer, EventStream)
        pending = sum(len(data) for data in answer._pending)
        assert pending <= limit + len(piece) + 1000, "what the client does not read is left in the log"
        async with asyncio.timeout(30):
            received = bytearray()
            while b"data: [DONE]\n\n" not in received[-100:]:
                received += await reader.read(1 << 20)
        writer.close()
        assert received.count(b"#") == attempt.n * len(piece)


async def test_models(world: World) -> None:
    async with world.openai as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError) as missing:
            await client.models.retrieve("no/such")
    assert missing.value.code == "model_not_found"


async def test_the_only_model_is_the_default(world: World) -> None:
    async with world.http as http:
        asking = asyncio.create_task(http.post("/v1/completions", json={"prompt": "hi"}))
        await write_hello(world)
        answer = (await asking).json()
    assert (answer["model"], answer["choices"][0]["text"]) == (MODEL, "Hello world!")


async def test_probes(world: World) -> None:
    async with world.http as http:
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        health = await http.get("/health")
        assert health.status_code == 200
        assert health.json() == {
            "status": "ok",
            "queue_depth": 0,
            "models": [{"id": MODEL, "workers": 1, "slots": 4, "free": 4}],
            "model": MODEL,
            "active_requests": 0,
            "workers": {"idle": 1, "busy": 0, "total": 1},
            "detail": "",
        }
        assert "# TYPE " in (await http.get("/metrics")).text
        world.backend.models = [ModelState(card(), 0, 0, 0, 30.0)]
        await until(lambda: not world.edge.ready)
        assert (await http.get("/readyz")).status_code == 503
        gone = await http.get("/health")
        assert (gone.status_code, gone.json()["status"], gone.json()["detail"]) == (503, "down", "no_workers")


async def refused(world: World, **request: Any) -> tuple[int, dict[str, Any]]:
    before = world.backend.arrivals
    async with world.http as http:
        response = await http.request(request.pop("method", "POST"), **request)
    assert world.backend.arrivals == before, "what is refused is never published"
    return response.status_code, json.loads(response.text)["error"]


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("request_", "status", "code", "param"),
    [
        ({"url": "/v1/nothing"}, 404, "not_found", None),
        ({"url": CHAT, "method": "GET"}, 405, "method_not_allowed", None),
        ({"url": CHAT, "content": b"{"}, 400, None, None),
        ({"url": CHAT, "json": {"model": MODEL, "messages": []}}, 400, None, "messages"),
        ({"url": CHAT, "json": {"model": MODEL, "messages": MESSAGES, "n": 129}}, 400, None, "n"),
        ({"url": CHAT, "json": {"model": "x", "messages": MESSAGES}}, 404, "model_not_found", "model"),
        ({"url": "/v1/completions", "json": {"prompt": [1, "a"]}}, 400, None, "prompt"),
        ({"url": "/v1/embeddings", "json": {"model": MODEL, "input": []}}, 400, None, "input"),
        ({"url": "/v1/embeddings", "method": "GET"}, 405, "method_not_allowed", None),
        (
            {"url": "/v1/completions", "json": {"prompt": "a"}, "headers": {"x-penstock-class": "vip"}},
            400,
            None,
            "x-penstock-class",
        ),
        (
            {"url": "/v1/completions", "json": {"prompt": "a", "max_tokens": 5000}},
            400,
            "context_length_exceeded",
            "max_tokens",
        ),
    ],
)
async def test_refusals(
    world: World, request_: dict[str, Any], status: int, code: str | None, param: str | None
) -> None:
    found, error = await refused(world, **request_)
    assert (found, error["code"], error["param"]) == (status, code, param)
    assert error["message"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_refused_with_the_limit(broker: Broker, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"x" * 20_000

    async with edge_on(load_settings({"nats_url": broker.url, "request_bytes_max": 1000})) as world:
        content: Any = pieces() if chunked else b"x" * 4_000_000
        status, error = await refused(world, url=CHAT, content=content)
    assert (status, error["code"]) == (413, "request_too_large")
    assert "1000 bytes" in error["message"]


async def test_the_brokers_limit_counts_too(world: World) -> None:
    world.edge._request_bytes_max = 1 << 40
    assert world.edge.body_bytes_max < world.edge.bus.max_payload
    body = b'{"model":"' + MODEL.encode() + b'","prompt":"' + b"x" * (world.edge.body_bytes_max - 100) + b'"}'
    async with world.http as http:
        asking = asyncio.create_task(http.post("/v1/completions", content=body))
        await write_hello(world)
        assert (await asking).status_code == 200, "the largest body that is taken can be published"


async def test_the_queue_is_the_brokers(world: World) -> None:
    depth: Callable[[], Any] = lambda: world.backend.js.queue_depth(REQUESTS)  # noqa: E731
    before = await depth()
    async with world.http as http:
        asking = asyncio.create_task(http.post("/v1/completions", json={"prompt": "hi"}))
        await write_hello(world)
        await asking
    assert await depth() == before + 1, "settling is the worker's"
