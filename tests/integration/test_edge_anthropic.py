"""Anthropic's official client at an edge whose worker does what the test says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message

from infra.broker import Broker
from infra.settings import load_settings
from schemas import subjects
from schemas.dispatch import ModelState
from schemas.errors import ERRORS
from schemas.output import Delta, End, Failed, Tail, ToolPiece, Usage
from schemas.requests import CLASSES
from schemas.streams import REQUESTS
from tests.integration.edge_under_test import (
    MESSAGES,
    MODEL,
    Attempt,
    World,
    backend_on,
    card,
    edge_at,
    edge_on,
    until,
)

ADAPTER = "Team/Tuned"
PATH = "/v1/messages"
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": MESSAGES}
WEATHER: dict[str, Any] = {"name": "weather", "input_schema": {"type": "object"}}
EVENT = re.compile(r"id: (\S+)\nevent: \S+\ndata: .*\n\n")
PING = 'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.fixture
async def worlds(broker: Broker) -> AsyncIterator[tuple[World, World]]:
    """Two edges and one backend, whose model has an adapter."""
    settings = load_settings({"nats_url": broker.url, "keep_alive_s": 0.1, "head_wait_s": 2})
    async with backend_on(settings) as backend:
        backend.models = [ModelState(card(MODEL, ADAPTER), 1, 4, 4, 0.0)]
        async with (
            edge_at(settings, backend, "edge-a") as first,
            edge_at(settings, backend, "edge-b") as second,
        ):
            yield first, second


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(load_settings({"nats_url": broker.url})) as world:
        yield world


def official(world: World, **fields: Any) -> AsyncAnthropic:
    """Without its retries, which would hide what is told."""
    return AsyncAnthropic(base_url=world.url, api_key="none", max_retries=0, **fields)


def create(world: World, **fields: Any) -> asyncio.Task[Any]:
    async def ask() -> Any:
        async with official(world) as client:
            return await client.messages.create(**{**BODY, **fields})

    return asyncio.create_task(ask())


def streamed(world: World, **fields: Any) -> asyncio.Task[Any]:
    async def ask() -> Any:
        async with official(world) as client, client.messages.stream(**{**BODY, **fields}) as stream:
            return await stream.get_final_message()

    return asyncio.create_task(ask())


async def write_all(attempt: Attempt) -> None:
    """Thoughts, text and two calls, by two attempts."""
    await attempt.append([Delta("", reasoning="h")], [0])
    await attempt.append([Delta("", reasoning="m"), Delta("so\n\n")], [0, 0])
    await attempt.give_back(Failed("n", "out of memory"))
    await attempt.lease()
    await attempt.append([Delta("it is", tools=[ToolPiece(0, "call_1", "weather", '{"city":')])], [0])
    await attempt.append([Delta("", tools=[ToolPiece(0, arguments='"Ærø"}')])], [0])
    tail = Tail(5, [5], [Delta("", tools=[ToolPiece(1, "call_2", "weather", "{}")])])
    usage = Usage(prompt_tokens=9, completion_tokens=6, cached_tokens=4, reasoning_tokens=2)
    await attempt.end(End(status="ok", n=6, tail=tail, usage=usage, finish_reasons=["tool_calls"]))


SHOWN = {
    "model": MODEL,
    "type": "message",
    "role": "assistant",
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "stop_details": None,
    "usage": {
        "input_tokens": 5,
        "output_tokens": 6,
        "cache_read_input_tokens": 4,
        "output_tokens_details": {"thinking_tokens": 2},
    },
}


async def test_a_message_streamed_and_whole_is_the_same(worlds: tuple[World, World]) -> None:
    found = []
    for asking in (create(worlds[0], tools=[WEATHER]), streamed(worlds[0], tools=[WEATHER])):
        attempt = await worlds[0].backend.attempt()
        await write_all(attempt)
        shown = (await asking).to_dict()
        assert shown.pop("id") == f"msg_{attempt.rid}"
        assert shown["content"][0].pop("signature") == attempt.rid
        found.append(shown)
    assert found[0] == found[1]
    assert found[0].pop("content") == [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "so\n\nit is"},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Ærø"}},
        {"type": "tool_use", "id": "call_2", "name": "weather", "input": {}},
    ]
    assert found[0] == SHOWN


async def test_the_engine_gets_a_chat(worlds: tuple[World, World]) -> None:
    asking = create(worlds[0], system="be brief", stop_sequences=["END"], extra_body={"min_p": 0.1})
    attempt = await worlds[0].backend.attempt()
    assert json.loads(attempt.body) == {
        "model": MODEL,
        "max_tokens": 50,
        "messages": [{"role": "system", "content": "be brief"}, *MESSAGES],
        "stop": ["END"],
        "min_p": 0.1,
    }
    assert (attempt.meta.max_tokens, attempt.meta.stream) == (50, False)
    await attempt.append([Delta("so")], [0])
    await attempt.end(End(status="ok", n=1, finish_reasons=["stop"], stop_reasons=["END"]))
    message = await asking
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


async def test_from_every_event_of_a_message_comes_exactly_the_rest(worlds: tuple[World, World]) -> None:
    async def ask() -> str:
        async with worlds[0].http as http:
            return (await http.post(PATH, json=BODY | {"stream": True})).text

    asking = asyncio.create_task(ask())
    attempt = await worlds[0].backend.attempt()
    await write_all(attempt)
    whole = (await asking).replace(PING, "")
    ids = [tuple(map(int, found[1].split("-"))) for found in EVENT.finditer(whole)]
    assert ids == sorted(set(ids))
    assert len(ids) == whole.count("event: ") - 1, "all but the last word has an id"
    stop = 'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert whole.endswith(stop)
    await attempt.settle()
    for world in worlds:
        async with world.http as http:
            path = f"/v1/requests/{attempt.rid}"
            assert (await http.get(f"{path}/stream")).text.replace(PING, "") == whole
            for one in EVENT.finditer(whole):
                rest = await http.get(f"{path}/stream", headers={"last-event-id": one[1]})
                assert whole[: one.end()] + rest.text.replace(PING, "") == whole, one[1]
            page = (await http.get(path)).json()
    assert (page["status"], Message.model_validate(page["response"]).stop_reason) == ("completed", "tool_use")


async def test_a_silent_stream_is_kept_open_by_pings(worlds: tuple[World, World]) -> None:
    async with official(worlds[0]) as client:
        opening = asyncio.create_task(client.messages.create(**BODY, stream=True))
        attempt = await worlds[0].backend.attempt()
        stream = await opening
        assert stream.response.headers["request-id"] == attempt.rid
        raw = stream.response.aiter_raw()
        seen = b""
        while seen.count(PING.encode()) < 3:
            seen += await anext(raw)
        assert seen.replace(PING.encode(), b"").count(b"\n\n") == 1, "nothing else but the beginning"
        await stream.close()
    silent = streamed(worlds[0])
    attempt = await worlds[0].backend.attempt()
    for word in ("a", "b"):
        await asyncio.sleep(0.25)  # long enough for pings to come between the events
        await attempt.tok(word)
    await attempt.end(End(status="ok", n=2))
    assert (await silent).content[0].text == "ab"


async def test_a_chat_is_kept_open_by_comments(worlds: tuple[World, World]) -> None:
    async with worlds[0].http as http:
        body = {"model": MODEL, "messages": MESSAGES, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            while ": keep-alive" not in await anext(lines):
                pass


@pytest.mark.parametrize("caller", ["standard", None])
async def test_a_count_is_the_engines_own_and_in_a_hurry(
    worlds: tuple[World, World], caller: str | None
) -> None:
    async def ask() -> Any:
        headers = {"x-penstock-class": caller} if caller else {}
        async with official(worlds[0], default_headers=headers) as client:
            return await client.messages.count_tokens(model=MODEL, messages=MESSAGES, system="be brief")

    asking = asyncio.create_task(ask())
    attempt = await worlds[0].backend.attempt()
    assert json.loads(attempt.body) == {
        "model": MODEL,
        "max_tokens": 1,
        "messages": [{"role": "system", "content": "be brief"}, *MESSAGES],
    }
    queued = await attempt.js.last(REQUESTS, subjects.request_of_any_model(attempt.tenant, attempt.rid))
    assert queued is not None
    parsed = subjects.parse_request(queued.subject)
    assert parsed is not None
    assert parsed.klass == (caller or CLASSES[0])
    await attempt.tok("x")
    await attempt.end(End(status="ok", n=1, usage=Usage(17, 1, cached_tokens=16), finish_reasons=["length"]))
    assert (await asking).to_dict() == {"input_tokens": 17}


async def test_both_clients_list_the_models(worlds: tuple[World, World]) -> None:
    async with official(worlds[0]) as client:
        listed = [model async for model in client.models.list(limit=1)]
        one = await client.models.retrieve(ADAPTER)
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.models.retrieve("Team/Other")
    assert missing.value.type == "not_found_error"
    assert [(model.id, model.display_name, model.type) for model in listed] == [
        (name, name, "model") for name in (MODEL, ADAPTER)
    ]
    assert one == listed[1]
    assert abs(one.created_at.timestamp() - worlds[0].edge.started) < 1
    assert (one.lifecycle, one.max_input_tokens, one.max_tokens) == ("active", 4096, 4096)
    async with worlds[0].openai as other:
        assert [model.id async for model in other.models.list()] == [MODEL, ADAPTER]
    async with worlds[0].http as http:
        page = (await http.get("/v1/models")).json()
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, MODEL, ADAPTER)


async def test_no_models_are_an_empty_list(broker: Broker) -> None:
    settings = load_settings({"nats_url": broker.url, "model_seen_s": 0.1})
    async with edge_on(settings) as world, official(world) as client:
        world.backend.models = []
        await until(lambda: not world.edge.registry.offered(world.edge.now()))
        assert [model async for model in client.models.list()] == []


@pytest.mark.parametrize("reason", ERRORS)
async def test_each_row_of_the_table_is_told_by_a_status_or_by_an_event(world: World, reason: str) -> None:
    """Whatever row it is: as the END of a request it comes before the first token, and after it."""
    row, end = ERRORS[reason], End(status="error", reason=reason, message="what went wrong")
    status = 529 if row.anthropic == "overloaded_error" else row.status
    details = {} if row.code is None else {"details": {"error_code": row.code}}
    for asking in (create(world), streamed(world)):
        attempt = await world.backend.attempt()
        await attempt.end(end)
        with pytest.raises(anthropic.APIStatusError) as refused:
            await asking
        error = refused.value
        assert (error.status_code, error.type, error.api_message) == (
            status,
            row.anthropic,
            "what went wrong",
        )
        assert error.request_id == attempt.rid
        assert error.body == {
            "type": "error",
            "error": {"type": row.anthropic, "message": "what went wrong", **details},
            "request_id": attempt.rid,
        }
        assert ("retry-after" in error.response.headers) == row.retry_after
    asking = streamed(world)
    attempt = await world.backend.attempt()
    await attempt.tok("so far")
    await until(lambda: any(answer._offset for answer in world.edge._desk.audience.answers))
    await attempt.end(end)
    with pytest.raises(anthropic.APIStatusError) as broken:
        await asking
    assert (broken.value.type, broken.value.api_message) == (row.anthropic, "what went wrong")


async def test_what_is_refused_at_the_door_is_told_in_the_same_shape(world: World) -> None:
    documents: Any = [{"role": "user", "content": [{"type": "document"}]}]
    async with official(world) as client, world.http as http:
        with pytest.raises(anthropic.NotFoundError, match="does not exist") as unknown:
            await client.messages.create(**{**BODY, "model": "Other/Model"})
        assert unknown.value.request_id
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            await client.messages.create(**{**BODY, "max_tokens": 0})
        with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0\.type"):
            await client.messages.count_tokens(model=MODEL, messages=documents)
        with pytest.raises(anthropic.BadRequestError, match="tokens do not fit the context"):
            await client.messages.create(**{**BODY, "max_tokens": 5000})
        content: Any = [{"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/"}}]
        with pytest.raises(anthropic.BadRequestError, match="remote URLs are not fetched"):
            await client.messages.create(**{**BODY, "messages": [{"role": "user", "content": content}]})
        text = "x" * world.edge.body_bytes_max
        with pytest.raises(anthropic.ContentTooLargeError) as large:
            await client.messages.create(**{**BODY, "messages": [{"role": "user", "content": text}]})
        assert large.value.response.json()["error"]["type"] == "request_too_large"
        for response, status, kind in (
            (await http.get(PATH), 405, "invalid_request_error"),
            (await http.put(f"{PATH}/count_tokens"), 405, "invalid_request_error"),
            (await http.post(PATH, content=b"{"), 400, "invalid_request_error"),
            (await http.post(f"{PATH}/batches", json={}), 404, "not_found_error"),
            (
                await http.post(PATH, json=BODY, headers={"x-penstock-class": "first"}),
                400,
                "invalid_request_error",
            ),
        ):
            assert is_error(response, status, kind), response.text
        assert "error" in (await http.get("/v1/message")).json(), "elsewhere, errors are OpenAI's"
    assert world.backend.arrivals == 0


def is_error(response: httpx.Response, status: int, kind: str) -> bool:
    body = response.json()
    return (response.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)


async def test_no_worker_is_an_overload(broker: Broker) -> None:
    settings = load_settings({"nats_url": broker.url, "model_seen_s": 0.1})
    async with edge_on(settings) as world, official(world) as client:
        world.backend.models = [ModelState(card(), 0, 0, 0, 9.0)]
        await until(lambda: not world.edge.registry.offered(world.edge.now()))
        with pytest.raises(anthropic.OverloadedError) as refused:
            await client.messages.create(**BODY)
    assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")
    assert refused.value.response.headers["retry-after"] == "1"


async def test_a_full_queue_is_an_overload(own_broker: Broker) -> None:
    async with edge_on(load_settings({"nats_url": own_broker.url, "queue_max": 1})) as world:
        first = create(world)
        attempt = await world.backend.attempt()
        with pytest.raises(anthropic.OverloadedError) as refused:
            await create(world)
        assert refused.value.type == "overloaded_error"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        await attempt.end(End(status="ok", n=0))
        await first


async def test_an_image_reaches_the_engine(world: World) -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}}
    asking = create(world, messages=[{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}])
    attempt = await world.backend.attempt()
    assert json.loads(attempt.body)["messages"][0]["content"][0] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{png}"},
    }
    await attempt.end(End(status="ok", n=0))
    await asking
    image["source"]["media_type"] = "image/webp"
    with pytest.raises(anthropic.BadRequestError, match="said to be image/webp"):
        await create(world, messages=[{"role": "user", "content": [image]}])


async def test_a_message_that_is_asked_for_twice_is_made_once(worlds: tuple[World, World]) -> None:
    key = {"idempotency-key": "once"}
    first = create(worlds[0], extra_headers=key)
    attempt = await worlds[0].backend.attempt()
    second = create(worlds[1], extra_headers=key)
    await write_all(attempt)
    assert await first == await second
    with pytest.raises(anthropic.UnprocessableEntityError) as other:
        await create(worlds[1], extra_headers=key, max_tokens=51)
    assert other.value.type == "invalid_request_error"
    assert worlds[0].backend.arrivals == 1
