"""A request's output read again, from any place, at any edge: the same bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from infra.broker import Broker
from infra.settings import load_settings
from schemas import subjects
from schemas.ids import ANONYMOUS, RequestId, TenantKey
from schemas.output import Delta, End, Failed, Tail, Usage
from schemas.requests import RequestMeta
from tests.integration.edge_under_test import (
    MESSAGES,
    MODEL,
    Attempt,
    World,
    backend_on,
    card,
    edge_at,
    readers_at,
)

CHAT = "/v1/chat/completions"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
}
USAGE = Usage(prompt_tokens=5, completion_tokens=4)
EVENT = re.compile(r"id: (\S+)\ndata: .*\n\n")
STATS = re.compile(r',"stats":\{[^}]*\}')
"""What the answer took is told only to who asked first."""
STATS = re.compile(r',"stats":\{[^}]*\}')
"""What an answer took is known best where it began: the one thing that readers are told differently."""


@pytest.fixture
async def worlds(broker: Broker) -> AsyncIterator[tuple[World, World]]:
    """Two edges and one backend."""
    settings = load_settings({"nats_url": broker.url, "keep_alive_s": 5})
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as first,
        edge_at(settings, backend, "edge-b") as second,
    ):
        yield first, second


async def write_all(attempt: Attempt) -> None:
    """Records of one and several deltas, two attempts, a tail; ids 1-0, 3-0, 3-1, 4-0, 4-1."""
    await attempt.tok("He")
    await attempt.give_back(Failed("n", "out of memory"))
    await attempt.lease()
    await attempt.tok("llo\n\n", "wor")
    await attempt.end(
        End(
            status="ok",
            n=4,
            tail=Tail(3, [3], [Delta("l"), Delta("d")]),
            usage=USAGE,
            finish_reasons=["stop"],
        )
    )


async def ask(world: World, path: str, **fields: Any) -> tuple[asyncio.Task[httpx.Response], Attempt]:
    """A request and its attempt."""

    async def post() -> httpx.Response:
        async with world.http as http:
            headers = fields.pop("headers", {})
            return await http.post(path, json={"model": MODEL, **ASKED[path], **fields}, headers=headers)

    asking = asyncio.create_task(post())
    return asking, await world.backend.attempt()


async def resume(world: World, rid: str, after: str | None = None, **request: Any) -> httpx.Response:
    headers = {} if after is None else {"last-event-id": after}
    async with world.http as http:
        return await http.get(f"/v1/requests/{rid}/stream", headers=headers, **request)


async def read_until(lines: AsyncIterator[str], word: str) -> str:
    read = ""
    async with asyncio.timeout(15):
        async for line in lines:
            read += line + "\n"
            if word in line:
                return read
    raise AssertionError(f"no {word!r} in {read!r}")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_from_every_event_of_a_finished_log_comes_exactly_the_rest(
    worlds: tuple[World, World], path: str
) -> None:
    asking, attempt = await ask(worlds[0], path, stream=True, stream_options={"include_usage": True})
    await write_all(attempt)
    whole = STATS.sub("", (await asking).text)
    ids = [found[1] for found in EVENT.finditer(whole)]
    assert ids == [*(["0-0"] if path == CHAT else []), "1-0", "3-0", "3-1", "4-0", "4-1", "5-0", "5-1"]
    await attempt.settle()
    for world in worlds:
        again = await resume(world, attempt.rid)
        assert STATS.sub("", again.text) == whole, "the first edge's created, model and usage"
        assert again.headers["x-request-id"] == attempt.rid
        assert again.headers["content-type"].startswith("text/event-stream")
        for one in EVENT.finditer(whole):
            rest = await resume(world, attempt.rid, one[1])
            assert whole[: one.end()] + STATS.sub("", rest.text) == whole, one[1]
        by_address = await resume(world, attempt.rid, params={"starting_after": "3"})
        assert STATS.sub("", by_address.text) == whole[whole.index("id: 4-0") :], (
            "a bare offset: everything up to it"
        )
        assert (await resume(world, attempt.rid, "77-0")).text == "data: [DONE]\n\n"


async def test_a_running_stream_goes_on_live_at_another_edge(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    await attempt.tok("one")
    await attempt.tok("two")
    async with (
        worlds[1].http as http,
        http.stream("GET", f"/v1/requests/{attempt.rid}/stream", headers={"last-event-id": "1-0"}) as stream,
    ):
        lines = stream.aiter_lines()
        read = await read_until(lines, '"two"')
        await attempt.tok("three")
        read += await read_until(lines, '"three"')
        await attempt.end(End(status="ok", n=3, usage=USAGE))
        read += await read_until(lines, "[DONE]") + "\n"
    whole = (await asking).text
    assert read == whole[whole.index("id: 2-0") :]


async def test_a_position_ahead_of_the_log_waits_for_it(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    reading = asyncio.create_task(resume(worlds[1], attempt.rid, "2-0"))
    await readers_at(worlds[1], 1)
    for text in ("one", "two", "three"):
        await attempt.tok(text)
    await attempt.end(End(status="ok", n=3))
    whole = (await asking).text
    assert (await reading).text == whole[whole.index("id: 3-0") :]


async def test_a_request_that_nobody_streamed_is_streamed_afterwards(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], CHAT)
    await write_all(attempt)
    answer = (await asking).json()
    text = (await resume(worlds[1], attempt.rid)).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == answer["choices"][0]["message"]["content"] == "Hello\n\nworld"
    assert {(chunk["id"], chunk["created"]) for chunk in chunks} == {(answer["id"], answer["created"])}


async def test_a_broken_stream_ends_with_the_same_frame_again(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    await attempt.tok("one")
    await attempt.end(End(status="error", reason="engine_error", message="out of memory"))
    whole = (await asking).text
    assert json.loads(whole.split("data: ")[-2])["error"] == {
        "message": "out of memory",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
        "request_id": attempt.rid,
    }
    assert (await resume(worlds[1], attempt.rid)).text == whole
    for after in ("0-0", "1-0", "5-0"):
        again = await resume(worlds[1], attempt.rid, after)
        assert again.status_code == 200, "its head went out with the first stream"
        assert (
            again.text == whole[whole.index("id: 1-0") if after == "0-0" else whole.index('data: {"error') :]
        )


async def test_a_request_that_failed_before_its_first_token_is_a_status_again(
    worlds: tuple[World, World],
) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    await attempt.end(End(status="error", reason="poison"))
    first, again = await asking, await resume(worlds[1], attempt.rid)
    assert (again.status_code, again.text) == (first.status_code, first.text) == (502, first.text)


@pytest.mark.parametrize("after", ["x", "1-", "-1", "1-2-3"])
async def test_a_place_that_is_none_is_refused(worlds: tuple[World, World], after: str) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    refused = await resume(worlds[1], attempt.rid, after)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    await attempt.end(End(status="ok", n=0))
    await asking


async def test_what_does_not_exist_is_404(worlds: tuple[World, World]) -> None:
    async with worlds[0].http as http:
        for rid in ("a" * 26, "UPPER" * 5, "x", "a.b.c" * 4, "*" * 20, ">", "%00" * 16):
            for method, path in (
                ("GET", f"/v1/requests/{rid}/stream"),
                ("GET", f"/v1/requests/{rid}"),
                ("DELETE", f"/v1/requests/{rid}"),
            ):
                response = await http.request(method, path)
                assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path
        for method, path in (("POST", "/v1/requests/x/stream"), ("PUT", "/v1/requests/x")):
            assert (await http.request(method, path)).status_code == 405


async def test_a_rid_of_another_tenant_does_not_exist(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    other, api = TenantKey("other"), worlds[0].edge.requests
    for response in (
        await api.stream(other, attempt.rid, {}, {}),
        await api.show(other, attempt.rid),
        await api.cancel(other, attempt.rid),
    ):
        assert response.status_code == 404
    assert (await api.show(ANONYMOUS, attempt.rid)).status_code == 200
    await attempt.tok("untouched")
    await attempt.end(End(status="ok", n=1))
    assert "untouched" in (await asking).text


async def test_a_direct_publishers_request_is_read_as_a_chat(worlds: tuple[World, World]) -> None:
    backend = worlds[0].backend
    rid = RequestId("d" * 20)
    subject = subjects.request("standard", card().key, ANONYMOUS, rid)
    assert (await backend.js.publish(subject, b'{"prompt": "hi"}')).stored
    attempt = await backend.attempt()
    assert attempt.meta == RequestMeta()
    reading = asyncio.create_task(resume(worlds[1], rid))
    await readers_at(worlds[1], 1)
    await attempt.tok("text")
    await attempt.end(End(status="ok", n=1))
    text = (await reading).text
    assert '"object":"chat.completion.chunk"' in text
    assert f'"model":"{MODEL}"' in text, "the name that the model's key stands for"
    created = {int(found) for found in re.findall(r'"created":(\d+)', text)}
    assert len(created) == 1
    assert abs(created.pop() - time.time()) < 60
    assert (await resume(worlds[0], rid)).text == text


async def test_a_retry_with_its_key_goes_on_after_the_event_it_names(worlds: tuple[World, World]) -> None:
    key = {"idempotency-key": "order-17"}
    asking, attempt = await ask(worlds[0], CHAT, stream=True, headers=dict(key))
    await attempt.tok("one")
    await attempt.tok("two")
    body = {"model": MODEL, **ASKED[CHAT], "stream": True}
    async with worlds[1].http as http:
        retry = asyncio.create_task(http.post(CHAT, json=body, headers={**key, "last-event-id": "1-0"}))
        await readers_at(worlds[1], 1)
        await attempt.end(End(status="ok", n=2))
        whole, rest = (await asking).text, await retry
    assert rest.headers["x-request-id"] == attempt.rid
    assert rest.text == whole[whole.index("id: 2-0") :]
    async with worlds[0].http as http:
        refused = await http.post(CHAT, json=body, headers={**key, "last-event-id": "nonsense"})
    assert refused.status_code == 400
    assert worlds[0].backend.arrivals == 1


async def test_a_retry_of_a_whole_answer_has_the_same_body(worlds: tuple[World, World]) -> None:
    key = {"idempotency-key": "order-18"}
    asking, attempt = await ask(worlds[0], CHAT, headers=dict(key))
    async with worlds[1].http as http:
        body = {"model": MODEL, **ASKED[CHAT]}
        retry = asyncio.create_task(http.post(CHAT, json=body, headers=key))
        await readers_at(worlds[1], 1)
        await write_all(attempt)
        first = await asking
        await attempt.settle()
        late = await http.post(CHAT, json=body, headers=key)
        assert first.content == (await retry).content == late.content
        other = await http.post(CHAT, json={**body, "max_tokens": 3}, headers=key)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
        assert other.headers["x-should-retry"] == "false"


async def test_after_a_failure_a_key_begins_a_new_run_at_its_beginning(worlds: tuple[World, World]) -> None:
    key = {"idempotency-key": "order-19"}
    asking, attempt = await ask(worlds[0], CHAT, stream=True, headers=dict(key))
    await attempt.tok("not this")
    await attempt.end(End(status="error", reason="engine_error"))
    assert '"code":"engine_error"' in (await asking).text
    headers = {**key, "last-event-id": "1-0"}
    again, second = await ask(worlds[1], CHAT, stream=True, headers=headers)
    assert second.rid != attempt.rid
    await second.tok("but this")
    await second.end(End(status="ok", n=1))
    assert EVENT.findall((await again).text) == ["0-0", "1-0", "2-0"]


async def test_a_new_run_begins_at_its_beginning(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], CHAT, stream=True, headers={"last-event-id": "7-0"})
    await attempt.tok("one")
    await attempt.end(End(status="ok", n=1))
    assert EVENT.findall((await asking).text) == ["0-0", "1-0", "2-0"], "another text has other places"


async def test_the_openai_package_reads_an_error_that_names_the_request(worlds: tuple[World, World]) -> None:
    async with worlds[0].openai as client:
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=MESSAGES))
        attempt = await worlds[0].backend.attempt()
        await attempt.end(End(status="error", reason="engine_error", message="no luck"))
        with pytest.raises(openai.InternalServerError) as failed:
            await asking
    assert isinstance(failed.value.body, dict)
    assert failed.value.body["request_id"] == attempt.rid == failed.value.request_id
    assert (failed.value.code, failed.value.type) == ("engine_error", "server_error")


async def test_resume_is_quick(worlds: tuple[World, World]) -> None:
    """The log is read at once, not when the relay would first get suspicious."""
    asking, attempt = await ask(worlds[0], CHAT, stream=True)
    await attempt.tok("one")
    loop = asyncio.get_running_loop()
    took = []
    async with worlds[1].http as http:
        for _ in range(20):
            begun = loop.time()
            async with http.stream("GET", f"/v1/requests/{attempt.rid}/stream") as stream:
                await read_until(stream.aiter_lines(), '"one"')
                took.append(loop.time() - begun)
    await attempt.end(End(status="ok", n=1))
    await asking
    assert sorted(took)[10] < 0.05, took


async def test_a_slow_reader_of_an_old_log_gets_all_of_it(broker: Broker) -> None:
    settings = load_settings({"nats_url": broker.url, "client_buffer_bytes_max": 20_000})
    async with backend_on(settings) as backend, edge_at(settings, backend) as world:
        asking, attempt = await ask(world, CHAT)
        for _ in range(300):
            await attempt.tok("#" * 10_000)
        await attempt.end(End(status="ok", n=300))
        await asking
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1 << 14)
        head = f"GET /v1/requests/{attempt.rid}/stream HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 5-0\r\n\r\n"
        writer.write(head.encode())
        received = bytearray()
        async with asyncio.timeout(30):
            while b"data: [DONE]\n\n" not in received[-100:]:
                received += await reader.read(1 << 14)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert received.count(b"#") == 295 * 10_000
