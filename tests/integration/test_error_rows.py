"""Every row of the error table, as a client of the OpenAI API meets it: as a status, and as the end of a stream.

What provokes each of them is tested where it belongs; here they come as the END of a request that a worker took, which
is how any reason can come.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from edge.lookup import Lookup
from edge.openapi.__main__ import described
from edge.responses.store import ResponseStore
from infra.broker import Broker
from infra.settings import load_settings
from schemas import subjects
from schemas.dispatch import Leader, encode
from schemas.errors import ERRORS, BrokerAway, BrokerRefused
from schemas.output import End
from tests.integration.edge_under_test import CHAT, MESSAGES, MODEL, STREAMED, World, edge_on, until


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(load_settings({"nats_url": broker.url})) as world:
        yield world


@pytest.mark.parametrize("reason", ERRORS)
async def test_a_row_as_a_status(world: World, reason: str) -> None:
    row = ERRORS[reason]
    async with world.http as http:
        asking = asyncio.create_task(http.post(CHAT, json={"model": MODEL, "messages": MESSAGES}))
        attempt = await world.backend.attempt()
        await attempt.end(End(status="error", reason=reason, message="so it is"))
        answer = await asking
    assert answer.status_code == row.status
    assert answer.json() == {
        "error": {
            "message": "so it is",
            "type": row.type_,
            "param": None,
            "code": row.code,
            "request_id": attempt.rid,
        }
    }
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == attempt.rid
    assert ("retry-after" in answer.headers) == ("retry-after-ms" in answer.headers) == row.retry_after
    assert answer.headers.get("x-should-retry") == ("false" if row.is_final else None)


@pytest.mark.parametrize("reason", ERRORS)
async def test_a_row_as_the_end_of_a_stream(world: World, reason: str) -> None:
    async with world.http as http:
        asking = asyncio.create_task(http.post(CHAT, json=STREAMED))
        attempt = await world.backend.attempt()
        await attempt.tok("a")
        await attempt.end(End(status="error", reason=reason, message="so it is"))
        answer = await asking
    assert answer.status_code == 200
    *_, failed, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    error = json.loads(failed.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == (ERRORS[reason].type_, ERRORS[reason].code)


async def test_a_full_output_log_lets_nobody_in(world: World) -> None:
    backend = world.backend
    backend.leading.cancel()
    backend.bus.publish(subjects.LEADER, encode(Leader("s", 1, 7, backend.models, output_used=0.9)))
    await until(lambda: world.edge.registry.output_is_full)
    async with world.http as http:
        answer = await http.post(CHAT, json=STREAMED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "output_full")


async def test_a_bug_of_ours_is_a_500_in_the_same_shape(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.edge.requests, "show", broken)
    async with world.http as http:
        answer = await http.get("/v1/requests/whatever")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "a bug" not in answer.text
        assert (await http.get("/livez")).status_code == 200, "it goes on"


@pytest.mark.parametrize(
    "failure", [BrokerRefused("resource limits exceeded for server (10023)"), BrokerAway("")]
)
async def test_a_broker_that_fails_a_request_is_told_in_the_style_of_its_path(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(Lookup, "find", fail)
    monkeypatch.setattr(ResponseStore, "find", fail)
    rid = "a" * 26
    keyed = {"idempotency-key": "k"}
    message = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1}
    async with world.http as http:
        answers = [
            await http.get(f"/v1/requests/{rid}"),
            await http.get(f"/v1/responses/resp_{rid}"),
            await http.delete(f"/v1/responses/resp_{rid}"),
            await http.get(f"/v1/result/{rid}"),
        ]
        if isinstance(failure, BrokerRefused):  # for one that is away, requests wait
            answers += [
                await http.post(CHAT, json=STREAMED, headers=keyed),
                await http.post("/v1/messages", json=message, headers=keyed),
            ]
    for answer in answers:
        is_anthropic = answer.request.url.path == "/v1/messages"
        assert answer.status_code == (529 if is_anthropic else 503), answer.text
        assert answer.headers["retry-after"] == "1"
        error = answer.json().get("error")
        if is_anthropic:
            assert error["details"] == {"error_code": "broker_away"}
        elif "result/" not in answer.request.url.path:
            assert error["code"] == "broker_away"


TAKING_BODIES = [
    path for path, methods in described()["paths"].items() if "post" in methods and "{" not in path
]
LONG = "x" * 50_000
LONG_VALUES: list[dict[str, object]] = [
    {"model": LONG, "messages": MESSAGES, "prompt": "p", "input": "i", "inputs": "i", "max_tokens": 5},
    {"model": MODEL, "messages": [{"role": LONG, "content": "hello"}], "max_tokens": 5},
    {"model": MODEL, "input": [{"type": LONG}], "prompt": 7, "inputs": 7},
    {"model": MODEL, "input": "i", "previous_response_id": LONG},
    {"model": MODEL, "messages": MESSAGES, "max_tokens": 5, "tool_choice": {"type": LONG}},
    {"model": MODEL, "input": "i", "tools": [{"type": LONG}]},
    {"model": MODEL, "input_file_id": LONG, "endpoint": LONG, "completion_window": LONG},
    {LONG: LONG},
]


@pytest.mark.parametrize("number", range(len(LONG_VALUES)))
async def test_no_error_repeats_a_long_value(world: World, number: int) -> None:
    async with world.http as http:
        for path in TAKING_BODIES:
            body = LONG_VALUES[number]
            asking = asyncio.create_task(http.post(path, json=body))
            done, _ = await asyncio.wait([asking], timeout=0.5)
            if not done:
                asking.cancel()  # nothing is wrong with it there
                continue
            assert len(asking.result().content) < 1500, (path, asking.result().text)
