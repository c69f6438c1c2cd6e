"""What a log holds beyond one text, as the official client and a reader from any place get it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import openai
import pytest

from infra.broker import Broker
from infra.settings import load_settings
from schemas import subjects
from schemas.dispatch import ModelState
from schemas.ids import model_key
from schemas.output import Delta, End, Failed, Tail, TokenLogprob, ToolPiece, Usage
from schemas.streams import REQUESTS
from tests.integration.edge_under_test import (
    MESSAGES,
    MODEL,
    Attempt,
    World,
    backend_on,
    card,
    edge_at,
    until,
)

ADAPTER = "Team/Tuned"
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
}
EVENT = re.compile(r"id: (\S+)\ndata: .*\n\n")
STATS = re.compile(r',"stats":\{[^}]*\}')
"""What an answer took is known best where it began: the one thing that readers are told differently."""
LIKELY = TokenLogprob("so", -0.5, [115, 111], [TokenLogprob("so", -0.5), TokenLogprob("no", -1.5)])
USAGE = Usage(prompt_tokens=5, completion_tokens=9, cached_tokens=4, reasoning_tokens=2)


@pytest.fixture
async def worlds(broker: Broker) -> AsyncIterator[tuple[World, World]]:
    """Two edges and one backend, whose model has an adapter."""
    settings = load_settings({"nats_url": broker.url, "keep_alive_s": 5})
    async with backend_on(settings) as backend:
        backend.models = [ModelState(card(MODEL, ADAPTER), 1, 4, 4, 0.0)]
        async with (
            edge_at(settings, backend, "edge-a") as first,
            edge_at(settings, backend, "edge-b") as second,
        ):
            yield first, second


async def write_all(attempt: Attempt) -> None:
    """Two choices by two attempts: the first thinks and answers, the second calls a function; a third is silent."""
    await attempt.append([Delta("", 0, "hm"), Delta("", 1, "well", logprobs=[LIKELY])], [0, 1])
    await attempt.append([Delta("", 1, tools=[ToolPiece(0, "call_1", "weather", "")])], [0, 1])
    await attempt.give_back(Failed("n", "out of memory"))
    await attempt.lease()
    await attempt.append(
        [Delta("so\n\n", logprobs=[LIKELY]), Delta("", 1, tools=[ToolPiece(0, arguments='{"city":')])], [0, 1]
    )
    await attempt.append([Delta("it is", logprobs=[LIKELY])], [0, 2])
    tail = Tail(8, [8], [Delta("", 1, tools=[ToolPiece(0, arguments='"Ærø"}')])], [1])
    end = End(
        status="ok",
        n=9,
        tail=tail,
        usage=USAGE,
        finish_reasons=["stop", "tool_calls", "stop"],
        stop_reasons=[7, None, None],
    )
    await attempt.end(end)


def post(world: World, path: str, **fields: Any) -> asyncio.Task[str]:
    async def ask() -> str:
        async with world.http as http:
            return (await http.post(path, json={"model": MODEL, **fields})).text

    return asyncio.create_task(ask())


@pytest.mark.parametrize("path", list(ASKED))
async def test_from_every_event_of_a_rich_log_comes_exactly_the_rest(
    worlds: tuple[World, World], path: str
) -> None:
    usage = {"include_usage": True}
    asking = post(worlds[0], path, stream=True, stream_options=usage, n=3, **ASKED[path])
    attempt = await worlds[0].backend.attempt()
    await write_all(attempt)
    whole = STATS.sub("", await asking)
    ids = [found[1] for found in EVENT.finditer(whole)]
    opening = ["0-0"] if path.endswith("chat/completions") else []
    assert ids == [
        *opening,
        *["2-0", "2-1", "4-0", "6-0", "6-1", "8-0", "9-0", "10-0", "10-1", "10-2", "10-3"],
    ]
    await attempt.settle()
    for world in worlds:
        async with world.http as http:
            again = await http.get(f"/v1/requests/{attempt.rid}/stream")
            assert STATS.sub("", again.text) == whole
            for one in EVENT.finditer(whole):
                rest = await http.get(f"/v1/requests/{attempt.rid}/stream", headers={"last-event-id": one[1]})
                assert whole[: one.end()] + STATS.sub("", rest.text) == whole, one[1]


async def test_a_reader_in_the_middle_of_a_rich_stream_is_told_a_role_once(
    worlds: tuple[World, World],
) -> None:
    asking = post(worlds[0], "/v1/chat/completions", stream=True, n=2, messages=MESSAGES)
    attempt = await worlds[0].backend.attempt()
    await attempt.append([Delta("a"), Delta("b", 1)], [0, 1])

    async def resume() -> str:
        headers = {"last-event-id": "2-1"}
        async with worlds[1].http as http:
            return (await http.get(f"/v1/requests/{attempt.rid}/stream", headers=headers)).text

    reading = asyncio.create_task(resume())
    await until(lambda: worlds[1].edge._desk.audience.answers)
    await attempt.append([Delta("c"), Delta("d", 1)], [0, 1])
    await attempt.end(End(status="ok", n=4, finish_reasons=["stop", "stop"]))
    whole, rest = await asking, await reading
    assert rest == whole[whole.index("id: 4-0") :]
    assert (whole.count('"role"'), rest.count('"role"')) == (2, 0)


async def test_the_openai_package_puts_the_pieces_together(worlds: tuple[World, World]) -> None:
    async with worlds[0].openai as client:
        stream = client.chat.completions.stream(model=MODEL, messages=MESSAGES, n=3, logprobs=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(_serve(worlds[0]))
            async with stream as events:
                streamed = await events.get_final_completion()
    first, second, third = streamed.choices
    assert (first.message.role, first.message.content, first.finish_reason) == (
        "assistant",
        "so\n\nit is",
        "stop",
    )
    assert first.logprobs is not None
    assert first.logprobs.content is not None
    assert [told.token for told in first.logprobs.content] == ["so", "so"]
    assert second.message.tool_calls is not None
    [call] = second.message.tool_calls
    assert (call.id, call.function.name) == ("call_1", "weather")
    assert json.loads(call.function.arguments) == {"city": "Ærø"}
    assert (second.message.role, third.message.role) == ("assistant", "assistant")
    assert third.finish_reason == "stop"


async def _serve(world: World) -> None:
    await write_all(await world.backend.attempt())


async def test_a_whole_answer_its_page_and_its_stream_are_one(worlds: tuple[World, World]) -> None:
    asking = post(worlds[0], "/v1/chat/completions", n=3, messages=MESSAGES)
    attempt = await worlds[0].backend.attempt()
    await write_all(attempt)
    answer = json.loads(await asking)
    first, second, third = answer["choices"]
    assert first["message"] == {"role": "assistant", "content": "so\n\nit is", "reasoning": "hm"}
    assert (first["finish_reason"], first["stop_reason"]) == ("stop", 7)
    assert second["message"]["content"] is None
    assert second["message"]["reasoning"] == "well"
    assert second["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ærø"}'}}
    ]
    assert [told["token"] for told in second["logprobs"]["content"]] == ["so"]
    assert third["message"] == {"role": "assistant", "content": ""}
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    async with worlds[1].http as http:
        page = (await http.get(f"/v1/requests/{attempt.rid}")).json()
    assert page["response"] == answer


async def test_an_adapter_is_a_model_of_its_own_to_clients(worlds: tuple[World, World]) -> None:
    async with worlds[0].openai as client:
        listed = [model async for model in client.models.list()]
        assert [(model.id, (model.model_extra or {}).get("parent")) for model in listed] == [
            (MODEL, None),
            (ADAPTER, MODEL),
        ]
        extra = (await client.models.retrieve(ADAPTER)).model_extra or {}
        assert (extra["max_model_len"], extra["parent"]) == (4096, MODEL)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("Team/Other")
    asking = post(worlds[0], "/v1/chat/completions", stream=True, messages=MESSAGES, model=ADAPTER)
    attempt = await worlds[0].backend.attempt()
    assert json.loads(attempt.body)["model"] == ADAPTER, "the engine is told which"
    queued = await attempt.js.last(REQUESTS, subjects.request_of_any_model(attempt.tenant, attempt.rid))
    assert queued is not None
    subject = subjects.parse_request(queued.subject)
    assert subject is not None
    assert subject.model == model_key(MODEL)
    await attempt.tok("hi")
    await attempt.end(End(status="ok", n=1))
    text = await asking
    assert text.count(f'"model":"{ADAPTER}"') == 3
    async with worlds[1].http as http:
        assert (await http.get(f"/v1/requests/{attempt.rid}/stream")).text == text
        assert (await http.get(f"/v1/requests/{attempt.rid}")).json()["model"] == ADAPTER


async def test_the_openai_package_gets_embeddings(worlds: tuple[World, World]) -> None:
    result = {
        "object": "list",
        "model": "/path/of/weights",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    async with worlds[0].openai as client:
        asking = asyncio.create_task(
            client.embeddings.create(model=MODEL, input="hello", encoding_format="float")
        )
        attempt = await worlds[0].backend.attempt()
        sent = json.loads(attempt.body)
        await attempt.end(
            End(status="ok", n=0, usage=Usage(1, 0), result=msgspec.Raw(msgspec.json.encode(result)))
        )
        answer = await asking
    assert sent == {"input": "hello", "model": MODEL, "encoding_format": "float"}
    assert (attempt.meta.max_tokens, attempt.meta.stream) == (1, False)
    assert (answer.data[0].embedding, answer.model, answer.usage.total_tokens) == ([0.5, -0.5], MODEL, 1)
    async with worlds[1].http as http:
        page = (await http.get(f"/v1/requests/{attempt.rid}")).json()
        streamed = (await http.get(f"/v1/requests/{attempt.rid}/stream")).text
    assert page["response"] == result | {"model": MODEL}
    [event] = EVENT.finditer(streamed)
    assert json.loads(event[0].split("data: ")[1]) == page["response"]


async def test_an_engine_that_cannot_embed_is_a_clear_400(worlds: tuple[World, World]) -> None:
    async with worlds[0].openai as client:
        asking = asyncio.create_task(client.embeddings.create(model=MODEL, input="hello"))
        attempt = await worlds[0].backend.attempt()
        await attempt.end(End(status="error", reason="bad_request", message="this model makes no embeddings"))
        with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
            await asking
