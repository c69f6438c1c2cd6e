"""What clients are told when something breaks, and what becomes of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from infra.broker import Broker
from infra.settings import load_settings
from schemas.dispatch import ModelState, Reader
from schemas.output import Delta, End, Lease, Tail, Usage
from tests.contract.protocol import paused
from tests.integration.edge_under_test import (
    MESSAGES,
    MODEL,
    World,
    backend_on,
    card,
    edge_on,
    raw_stream,
    until,
)

BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
CHAT = "/v1/chat/completions"
START_S = 60.0
EXIT_S = 30.0
LINGERING_PROGRAM = """
from edge import server
from infra.lifecycle import run_role

server.LINGER_S = 10.0
run_role("edge", server.serve)
"""
LINGERING = ("-c", LINGERING_PROGRAM)
"""An edge that leaves its clients more time than half a second to send what they had begun to."""


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(load_settings({"nats_url": broker.url})) as world:
        yield world


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("end", "status", "code", "retry"),
    [
        (End(status="error", reason="bad_request", message="no images here"), 400, None, False),
        (End(status="error", reason="context_length"), 400, "context_length_exceeded", False),
        (End(status="expired", reason="queue_timeout"), 503, "queue_timeout", True),
        (End(status="expired", reason="request_timeout"), 504, "request_timeout", False),
        (End(status="error", reason="poison"), 502, "poison", False),
    ],
)
async def test_before_the_first_token_a_failure_is_a_status(
    world: World, end: End, status: int, code: str | None, retry: bool, stream: bool
) -> None:
    async with world.http as http:
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": stream}))
        attempt = await world.backend.attempt()
        await attempt.end(end)
        response = await asking
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in response.headers) == retry
    assert response.headers["x-request-id"] == attempt.rid
    if end.message:
        assert response.json()["error"]["message"] == end.message


async def test_a_broken_generation_ends_with_an_error_frame(world: World) -> None:
    async with world.openai as client:
        asking = asyncio.create_task(client.chat.completions.create(**BODY, stream=True))
        attempt = await world.backend.attempt()
        await attempt.tok("so", " far")
        stream = await asking
        await attempt.end(End(status="error", reason="engine_error", message="out of memory"))
        found: list[str | None] = []

        async def read() -> None:
            async for chunk in stream:
                found.append(chunk.choices[0].delta.content)  # noqa: PERF401

        with pytest.raises(openai.APIError) as broken:
            await read()
    assert found == ["", "so", " far"]
    assert (broken.value.code, broken.value.message) == ("engine_error", "out of memory")


async def test_text_before_someone_elses_end_is_passed_on(world: World) -> None:
    async with world.http as http:
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": True}))
        attempt = await world.backend.attempt()
        await attempt.tok("a")
        await attempt.tok("b")
        await attempt.end(End(status="expired", reason="request_timeout"))
        text = (await asking).text
    assert re.findall(r'"content":"(\w)"', text) == ["a", "b"]
    assert '"code":"request_timeout"' in text
    assert text.endswith("data: [DONE]\n\n")


async def test_a_lost_log_breaks_the_stream(world: World) -> None:
    async with world.http as http:
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": True}))
        attempt = await world.backend.attempt()
        await attempt.tok("a", "b", "c")
        attempt.n = 0
        await attempt.lease()
        await attempt.tok("something else")
        text = (await asking).text
    assert '"code":"log_lost"' in text
    assert "something else" not in text


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels(world: World, stream: bool, tokens: int) -> None:
    _, writer = await raw_stream(world.port, stream=stream)
    attempt = await world.backend.attempt(lease=tokens > 0)
    for _ in range(tokens):
        await attempt.tok("x")
    writer.close()
    end = await world.backend.end_of(attempt)
    assert (end.status, end.reason, end.n) == ("cancelled", "cancelled", None)
    await until(lambda: attempt.rid in world.backend.hints)
    await until(lambda: not world.edge._desk.audience.answers)


async def test_a_client_that_leaves_after_end_cancels_nothing(world: World) -> None:
    async with world.http as http:
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": True}))
        attempt = await world.backend.attempt()
        await attempt.end(End(status="ok", n=0))
        await asking
    await until(lambda: not world.edge._desk.audience.answers)
    assert (await world.backend.end_of(attempt)).status == "ok"
    assert attempt.rid not in world.backend.hints


async def test_models_without_workers(world: World) -> None:
    world.backend.models = [ModelState(card("seen"), 0, 0, 0, 10.0), ModelState(card("gone"), 0, 0, 0, 100.0)]
    await until(lambda: not world.edge.ready)
    async with world.http as http:
        gone = await http.post("/v1/completions", json={"model": "gone", "prompt": "a"})
        asking = asyncio.create_task(http.post("/v1/completions", json={"model": "seen", "prompt": "a"}))
        attempt = await world.backend.attempt()
        await attempt.end(End(status="ok", n=0))
        assert (await asking).status_code == 200, "it was queued until a worker came"
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "no_workers")
    assert gone.headers["retry-after"] == "1"


async def test_a_full_queue_is_429(own_broker: Broker) -> None:
    async with (
        edge_on(load_settings({"nats_url": own_broker.url, "queue_max": 1})) as world,
        world.http as http,
    ):
        first = asyncio.create_task(http.post(CHAT, json=BODY))
        attempt = await world.backend.attempt()
        refused = await http.post(CHAT, json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after-ms"] == "1000"
        await attempt.end(End(status="ok", n=0))
        assert (await first).status_code == 200


async def test_without_a_broker_requests_are_held_and_then_refused(own_broker: Broker) -> None:
    async with (
        edge_on(load_settings({"nats_url": own_broker.url, "publish_timeout_s": 2})) as world,
        world.http as http,
    ):
        own_broker.kill()
        await until(lambda: not world.edge.bus.connected)
        refused = await http.post(CHAT, json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "broker_away")
        assert (await http.get("/health")).json()["status"] == "down"
        assert (await http.get("/readyz")).status_code == 503
        own_broker.start()
        # A word from the backend: it is back as well, and its subscriptions are known to the broker again.
        world.edge._readiness._heard.clear()
        await world.edge.first_word(15)
        assert world.edge.ready
        asking = asyncio.create_task(http.post(CHAT, json=BODY))
        attempt = await world.backend.attempt()
        await attempt.end(End(status="ok", n=0))
        assert (await asking).status_code == 200


async def test_a_stream_goes_on_after_the_broker_was_killed(own_broker: Broker) -> None:
    async with edge_on(load_settings({"nats_url": own_broker.url})) as world, world.openai as client:
        asking = asyncio.create_task(client.chat.completions.create(**BODY, stream=True))
        attempt = await world.backend.attempt()
        await attempt.tok("before")
        stream = await asking
        own_broker.kill()
        await until(lambda: not world.edge.bus.connected and not world.backend.bus.connected)
        own_broker.start()
        # The worker is back first: what it writes now is never seen live.
        await until(lambda: world.backend.bus.connected)
        await attempt.tok(" after")
        await attempt.end(End(status="ok", n=3, tail=Tail(2, [2], [Delta("!")]), usage=Usage(1, 3)))
        assert [chunk.choices[0].delta.content async for chunk in stream] == [
            "",
            "before",
            " after",
            "!",
            None,
        ]


async def test_an_unknown_outcome_is_named_and_cancelled(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "publish_timeout_s": 1.5})
    async with edge_on(settings) as world, world.http as http:
        with paused(own_broker):
            response = await http.post(CHAT, json=BODY)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "outcome_unknown")
        attempt = await world.backend.attempt(lease=False)
        assert attempt.rid in response.json()["error"]["message"]
        assert response.headers["x-request-id"] == attempt.rid
        assert (await world.backend.end_of(attempt)).status == "cancelled"


@contextlib.asynccontextmanager
async def process(
    broker: Broker, port: int, log: Path, program: Sequence[str] = ("-m", "edge"), **settings: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m edge`, serving."""
    given = {"nats_url": broker.url, "port": port, **settings}
    options = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    with log.open("wb") as stderr:
        running = await asyncio.create_subprocess_exec(sys.executable, *program, *options, stderr=stderr)
    try:
        await until(lambda: '"ready"' in log.read_text() or running.returncode is not None, START_S)
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_a_stopping_edge_finishes_its_streams(broker: Broker, free_port: int, tmp_path: Path) -> None:
    async with (
        backend_on(load_settings({"nats_url": broker.url})) as backend,
        process(broker, free_port, tmp_path / "log") as edge,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=30) as http,
    ):
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": True}))
        attempt = await backend.attempt()
        await attempt.tok("one")
        edge.terminate()

        async with asyncio.timeout(EXIT_S):
            await refuses_connections(free_port)
        await attempt.tok("two")
        await attempt.end(End(status="ok", n=2))
        assert re.findall(r'"content":"(\w+)"', (await asking).text) == ["one", "two"]
        assert await asyncio.wait_for(edge.wait(), EXIT_S) == 0


async def test_what_comes_on_an_open_connection_during_a_drain_is_answered_for_the_last_time(
    broker: Broker, free_port: int, tmp_path: Path
) -> None:
    """Its client could not know: a request that it has sent already must not fail."""
    async with (
        backend_on(load_settings({"nats_url": broker.url})) as backend,
        process(broker, free_port, tmp_path / "log", LINGERING, drain_timeout_s=100) as edge,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=30) as http,
    ):
        before = await http.get("/health")
        assert before.headers.get("connection") is None
        edge.terminate()
        async with asyncio.timeout(EXIT_S):
            await refuses_connections(free_port)
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": True}))
        attempt = await backend.attempt()
        await attempt.tok("one")
        await attempt.end(End(status="ok", n=1))
        answer = await asking
        assert re.findall(r'"content":"(\w+)"', answer.text) == ["one"]
        assert answer.headers["connection"] == "close"
        assert await asyncio.wait_for(edge.wait(), EXIT_S) == 0


async def test_a_drain_ends_in_time_and_says_so(broker: Broker, free_port: int, tmp_path: Path) -> None:
    async with (
        backend_on(load_settings({"nats_url": broker.url})) as backend,
        process(broker, free_port, tmp_path / "log", drain_timeout_s=4) as edge,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=30) as http,
    ):
        asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": True}))
        attempt = await backend.attempt()
        await attempt.tok("one")
        edge.terminate()
        text = (await asking).text
        error = json.loads(text.split("data: ")[-2])["error"]
        assert (error["code"], error["request_id"]) == ("draining", attempt.rid)
        assert error["resume"] == f"/v1/requests/{attempt.rid}/stream"
        assert text.endswith("data: [DONE]\n\n")
        last = await backend.log.last_ctl(attempt.tenant, attempt.rid)
        assert last is not None
        assert isinstance(last.record, Lease), "the request runs on"
        assert await asyncio.wait_for(edge.wait(), EXIT_S) == 0
        # It has time to come back, although it chose to cancel; then the edge says that nobody is left.
        told = [Reader(attempt.tenant, attempt.rid, 30.0)]
        await until(lambda: told in [beat.readers for beat in backend.beats])
        await until(lambda: not backend.beats[-1].readers)


async def refuses_connections(port: int) -> None:
    """Returns once nobody listens any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.01)


async def test_a_client_that_never_reads_delays_no_drain(
    broker: Broker, free_port: int, tmp_path: Path
) -> None:
    async with (
        backend_on(load_settings({"nats_url": broker.url})) as backend,
        process(broker, free_port, tmp_path / "log", drain_timeout_s=6) as edge,
    ):
        _, writer = await raw_stream(free_port)
        attempt = await backend.attempt()
        for _ in range(100):
            await attempt.tok("#" * 100_000)
        edge.terminate()
        assert await asyncio.wait_for(edge.wait(), EXIT_S) == 0
        writer.close()


async def test_two_edges_share_a_port(broker: Broker, free_port: int, tmp_path: Path) -> None:
    async with (
        backend_on(load_settings({"nats_url": broker.url})),
        process(broker, free_port, tmp_path / "a") as first,
        process(broker, free_port, tmp_path / "b") as second,
    ):
        assert first.returncode is None
        assert second.returncode is None
        first.terminate()
        assert await asyncio.wait_for(first.wait(), EXIT_S) == 0
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=30) as http:
            assert (await http.get("/readyz")).status_code == 200
