"""The Responses API of an edge, against a worker that does what the test says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from infra.broker import Broker
from infra.settings import load_settings
from schemas.output import Delta, End, Failed, ToolPiece, Usage
from schemas.streams import REQUESTS, RESPONSES
from tests.integration.edge_under_test import MODEL, Attempt, World, backend_on, edge_at, until

RESPONSES_PATH = "/v1/responses"
USAGE = Usage(prompt_tokens=5, completion_tokens=2)
UNKNOWN = "resp_" + "a" * 26


@pytest.fixture
async def worlds(own_broker: Broker) -> AsyncIterator[tuple[World, World]]:
    """Two edges and one backend."""
    settings = load_settings({"nats_url": own_broker.url, "keep_alive_s": 5})
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as first,
        edge_at(settings, backend, "edge-b") as second,
    ):
        yield first, second


@pytest.fixture
def world(worlds: tuple[World, World]) -> World:
    return worlds[0]


def ask(world: World, headers: dict[str, str] | None = None, **fields: Any) -> asyncio.Task[httpx.Response]:
    async def post() -> httpx.Response:
        async with world.http as http:
            body = {"model": MODEL, "input": "hello", **fields}
            return await http.post(RESPONSES_PATH, json=body, headers=headers)

    return asyncio.create_task(post())


async def get(world: World, path: str, **request: Any) -> httpx.Response:
    async with world.http as http:
        return await http.get(f"{RESPONSES_PATH}/{path}", **request)


async def call(world: World, method: str, path: str) -> httpx.Response:
    async with world.http as http:
        return await http.request(method, f"{RESPONSES_PATH}/{path}")


async def say(attempt: Attempt, *texts: str) -> None:
    """A good answer of these pieces."""
    for text in texts:
        await attempt.tok(text)
    await attempt.end(End(status="ok", n=len(texts), usage=USAGE, finish_reasons=["stop"]))


def chat(attempt: Attempt) -> list[dict[str, Any]]:
    return list(json.loads(attempt.body)["messages"])


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


async def records(world: World) -> int:
    return await world.backend.js.queue_depth(RESPONSES)


async def test_what_is_answered_is_what_any_edge_retrieves(worlds: tuple[World, World]) -> None:
    begun = time.monotonic()
    asking = ask(worlds[0], instructions="be brief", metadata={"a": "b"}, temperature=0.5)
    attempt = await worlds[0].backend.attempt()
    assert chat(attempt) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]
    await say(attempt, "He", "llo")
    answered = (await asking).json()
    took_s = time.monotonic() - begun
    await attempt.settle()
    assert answered["id"] == f"resp_{attempt.rid}"
    for world in worlds:
        shown = (await get(world, answered["id"])).json()
        assert abs(shown.pop("completed_at") - answered["completed_at"]) <= 1 + took_s
        assert shown == {name: value for name, value in answered.items() if name != "completed_at"}
        items = (await get(world, f"{answered['id']}/input_items")).json()
        assert items["data"][0]["content"] == [{"type": "input_text", "text": "hello"}]
    assert Response.model_validate(answered).output_text == "Hello"
    assert answered["metadata"] == {"a": "b"}


async def test_a_stream_is_followed_from_every_event_at_any_edge(worlds: tuple[World, World]) -> None:
    asking = ask(worlds[0], stream=True)
    attempt = await worlds[0].backend.attempt()
    await attempt.append([Delta("", reasoning="hm")], [0])
    await attempt.give_back(Failed("n", "out of memory"))
    await attempt.lease()
    await attempt.tok("He", "llo")
    await attempt.append([Delta("", tools=[ToolPiece(0, "c", "f", "{}")])], [0])
    await attempt.end(End(status="ok", n=4, usage=USAGE, finish_reasons=["tool_calls"]))
    whole = (await asking).text
    await attempt.settle()
    frames = [f"{frame}\n\n" for frame in whole.split("\n\n")[:-1]]
    numbers = [int(frame.partition("-")[0].removeprefix("id: ")) for frame in frames[:-1]]
    assert numbers == list(range(len(numbers)))
    last = [json.loads(frame.splitlines()[2].removeprefix("data: ")) for frame in frames[:-1]][-1]["response"]
    path = f"resp_{attempt.rid}"
    for world in worlds:
        shown = (await get(world, path)).json()
        assert shown["output"] == last["output"]
        async with world.openai as client:
            events = [event async for event in await client.responses.retrieve(path, stream=True)]
            assert [event.sequence_number for event in events] == numbers
        for number in numbers:
            rest = (await get(world, path, params={"stream": "true", "starting_after": str(number)})).text
            by_header = await get(
                world, path, params={"stream": "true"}, headers={"last-event-id": f"{number}-0"}
            )
            assert rest == by_header.text
            ended = [frame if "completed_at" not in frame else "" for frame in frames[number + 1 :]]
            got = [f"{frame}\n\n" for frame in rest.split("\n\n")[:-1]]
            assert [frame if "completed_at" not in frame else "" for frame in got] == ended


async def test_in_the_background_it_is_queued_and_runs_to_its_end(world: World) -> None:
    receipt = (await ask(world, background=True)).json()
    assert receipt["status"] == "queued"
    assert (await get(world, receipt["id"])).json()["status"] == "queued"
    attempt = await world.backend.attempt()
    assert attempt.meta.grace_s is None, "it needs no reader"
    assert (await get(world, receipt["id"])).json()["status"] == "in_progress"
    await attempt.tok("He")
    half = (await get(world, receipt["id"])).json()
    assert half["output"][0]["content"][0]["text"] == "He"
    await attempt.end(End(status="ok", n=1, usage=USAGE, finish_reasons=["length"]))
    done = (await get(world, receipt["id"])).json()
    assert done["status"] == "incomplete"
    assert done["background"] is True


async def test_a_background_stream_begins_before_anybody_works(world: World) -> None:
    async with world.openai as client:
        stream = await client.responses.create(
            model=MODEL, input="hello", background=True, stream=True, timeout=5
        )
        created = await anext(aiter(stream))
        assert created.type == "response.created"
        assert created.response.status == "queued"
        attempt = await world.backend.attempt()
        await stream.close()
        await until(lambda: not world.edge._desk.audience.answers)
        await say(attempt, "after it left")
        done = await client.responses.retrieve(created.response.id)
        assert done.output_text == "after it left"


async def test_a_response_goes_on_from_another_one(worlds: tuple[World, World]) -> None:
    first = ask(worlds[0], instructions="be brief")
    attempt = await worlds[0].backend.attempt()
    await attempt.append([Delta("", reasoning="hm")], [0])
    await attempt.append([Delta("", tools=[ToolPiece(0, "c", "f", "{}")])], [0])
    await attempt.end(End(status="ok", n=2, usage=USAGE, finish_reasons=["tool_calls"]))
    before = (await first).json()["id"]
    result = [{"type": "function_call_output", "call_id": "c", "output": "rain"}]
    second = ask(worlds[1], input=result, previous_response_id=before)
    attempt = await worlds[0].backend.attempt()
    assert [(message["role"], message["content"]) for message in chat(attempt)] == [
        ("user", "hello"),
        ("assistant", None),
        ("tool", "rain"),
    ]
    assert chat(attempt)[1]["tool_calls"][0]["id"] == "c"
    await say(attempt, "It rains.")
    answered = (await second).json()
    assert answered["previous_response_id"] == before
    third = ask(worlds[0], input="and now?", previous_response_id=answered["id"], store=False)
    attempt = await worlds[0].backend.attempt()
    assert [message["content"] for message in chat(attempt)] == [
        "hello",
        None,
        "rain",
        "It rains.",
        "and now?",
    ]
    await say(attempt, "Still.")
    assert (await third).status_code == 200


async def test_only_what_ended_well_can_be_gone_on_from(world: World) -> None:
    told = error(await ask(world, previous_response_id=UNKNOWN), 400)
    assert (told["code"], told["param"]) == ("previous_response_not_found", "previous_response_id")
    receipt = (await ask(world, background=True)).json()
    told = error(await ask(world, previous_response_id=receipt["id"]), 400)
    assert "has not ended" in told["message"]
    await call(world, "POST", f"{receipt['id']}/cancel")
    told = error(await ask(world, previous_response_id=receipt["id"]), 400)
    assert "did not end well" in told["message"]


async def test_a_cancelled_response_stays_so(worlds: tuple[World, World]) -> None:
    receipt = (await ask(worlds[0], background=True)).json()
    attempt = await worlds[0].backend.attempt()
    await attempt.tok("He")
    cancelled = (await call(worlds[1], "POST", f"{receipt['id']}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"][0]["content"][0]["text"] == "He"
    assert (await world_end(worlds[0], attempt)).status == "cancelled"
    for world in worlds:
        assert (await get(world, receipt["id"])).json() == cancelled
    again = await call(worlds[0], "POST", f"{receipt['id']}/cancel")
    assert again.json() == cancelled
    async with worlds[0].openai as client:
        seen, raised = await read_all(await client.responses.retrieve(receipt["id"], stream=True))
    assert (seen[-1].type, seen[-1].response.status) == ("response.failed", "cancelled")
    assert raised.code == "cancelled"


async def read_all(stream: Any) -> tuple[list[Any], openai.APIError]:
    """The events of a stream that breaks, and what the official client raises."""
    seen: list[Any] = []
    try:
        async for event in stream:
            seen.append(event)  # noqa: PERF401 what came before the error counts
    except openai.APIError as error:
        return seen, error
    raise AssertionError(f"the stream ended well: {seen[-1]}")


async def world_end(world: World, attempt: Attempt) -> End:
    return await world.backend.end_of(attempt)


async def test_a_failed_response_is_told_in_every_way(world: World) -> None:
    end = End(status="error", reason="engine_error", message="out of memory")
    async with world.openai as client:
        asking_for_stream = asyncio.create_task(
            client.responses.create(model=MODEL, input="hello", stream=True)
        )
        attempt = await world.backend.attempt()
        await attempt.tok("He")
        stream = await asking_for_stream
        await attempt.end(end)
        seen, raised = await read_all(stream)
        assert (raised.code, raised.message) == ("engine_error", "out of memory")
        assert seen[-1].type == "response.failed"
        assert seen[-1].response.error.message == "out of memory"
        shown = await client.responses.retrieve(f"resp_{attempt.rid}")
        assert shown.status == "failed"
        assert shown.error
        assert (shown.error.code, shown.error.message) == ("server_error", "out of memory")
        assert shown.output_text == "He"
    asking = ask(world)
    attempt = await world.backend.attempt()
    await attempt.end(end)
    assert error(await asking, 502)["code"] == "engine_error"


async def test_what_is_not_kept_cannot_be_asked_for(world: World) -> None:
    asking = ask(world, store=False)
    attempt = await world.backend.attempt()
    await say(attempt, "gone")
    answered = (await asking).json()
    assert answered["store"] is False
    assert await records(world) == 0
    for method, path in (
        ("GET", answered["id"]),
        ("GET", f"{answered['id']}/input_items"),
        ("POST", f"{answered['id']}/cancel"),
        ("DELETE", answered["id"]),
        ("GET", UNKNOWN),
        ("GET", f"{UNKNOWN}?stream=true"),
        ("GET", "nonsense"),
        ("GET", attempt.rid),
        ("GET", "resp_*"),
    ):
        told = error(await call(world, method, path), 404)
        assert told["code"] == "not_found"


async def test_a_deleted_response_is_gone_and_does_not_run_on(worlds: tuple[World, World]) -> None:
    receipt = (await ask(worlds[0], background=True)).json()
    attempt = await worlds[0].backend.attempt()
    deleted = await call(worlds[1], "DELETE", receipt["id"])
    assert deleted.json() == {"id": receipt["id"], "object": "response", "deleted": True}
    assert (await world_end(worlds[0], attempt)).status == "cancelled"
    for world in worlds:
        error(await get(world, receipt["id"]), 404)
    error(await call(worlds[0], "DELETE", receipt["id"]), 404)
    assert await records(worlds[0]) == 0


async def test_a_repeated_key_is_one_response(worlds: tuple[World, World]) -> None:
    key = {"idempotency-key": "order-1"}
    both = [await ask(world, key, background=True) for world in worlds]
    assert both[0].json()["id"] == both[1].json()["id"]
    attempt = await worlds[0].backend.attempt()
    await say(attempt, "once")
    stream = await ask(worlds[1], key, background=True)
    assert stream.json()["id"] == f"resp_{attempt.rid}"
    told = error(await ask(worlds[1], key, background=True, input="other"), 422)
    assert told["code"] == "idempotency_mismatch"
    assert worlds[0].backend.arrivals == 1
    assert await records(worlds[0]) == 1
    assert (await get(worlds[1], f"resp_{attempt.rid}")).json()["status"] == "completed"


async def test_a_record_without_its_request_is_used_by_the_next_try(world: World) -> None:
    """As when an edge dies between the two."""
    key = {"idempotency-key": "order-2"}
    asking = ask(world, key)
    attempt = await world.backend.attempt(lease=False)
    await attempt.settle()
    assert await records(world) == 1
    asking.cancel()
    await until(lambda: not world.edge._desk.audience.answers)
    other = error(await ask(world, key, input="other"), 422)
    assert other["code"] == "idempotency_mismatch", "the record is that of another body"
    assert world.backend.arrivals == 1


async def test_bad_requests_name_their_fields(world: World) -> None:
    for fields, param in (
        ({"input": None}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"background": True, "store": False}, "background"),
    ):
        assert error(await ask(world, **fields), 400)["param"] == param
    assert error(await ask(world, model="nobody"), 404)["code"] == "model_not_found"
    receipt = (await ask(world, background=True)).json()
    for query, param in (({"limit": "x"}, "limit"), ({"after": "x"}, "after")):
        assert error(await get(world, f"{receipt['id']}/input_items", params=query), 400)["param"] == param
    nonsense = {"stream": "true", "starting_after": "x"}
    assert error(await get(world, receipt["id"], params=nonsense), 400)
    assert world.backend.arrivals == 1


async def test_a_full_store_refuses_and_publishes_nothing(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "responses_bytes_max": 4096})
    async with backend_on(settings) as backend, edge_at(settings, backend) as world:
        told = error(await ask(world, input="x" * 8192), 503)
        assert "store=false" in told["message"]
        assert await backend.js.queue_depth(REQUESTS) == 0
        asking = ask(world, input="x" * 8192, store=False)
        await say(await backend.attempt(), "fine")
        assert (await asking).status_code == 200


async def test_a_request_that_is_refused_leaves_no_record(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "queue_max": 1})
    async with backend_on(settings) as backend, edge_at(settings, backend) as world:
        first = (await ask(world, background=True)).json()
        answers = [await ask(world, background=True) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {429}
        assert await records(world) == 1
        assert (await get(world, first["id"])).json()["status"] == "queued"
