"""A broker that answers outside its protocol, or a mistake of ours, once an answer has been opened: its client gets an
error in the shape it knows, and what was asked for does not get lost unseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge import metrics
from edge.lookup import Found
from infra.broker import Broker
from infra.settings import load_settings
from schemas.errors import BrokerRefused
from schemas.output import End
from tests.integration.edge_under_test import CHAT, MESSAGES, MODEL, World, edge_on, until

CALLS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "hello"}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
    ("/v1/responses", {"input": "hello"}),
    ("/v1/responses", {"input": "hello", "store": False}),
]


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(load_settings({"nats_url": broker.url})) as world:
        yield world


async def refused(*_args: object) -> Found | None:
    raise BrokerRefused("no such thing (10999)")


async def broken(*_args: object) -> Found | None:
    raise KeyError("a mistake")


async def unreadable(*_args: object) -> Found | None:
    raise ValueError("no record")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_look_that_the_broker_refuses_is_an_unknown_outcome(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], stream: bool
) -> None:
    settings = load_settings({"nats_url": own_broker.url, "queue_max": 1})
    async with edge_on(settings) as world, world.http as http:
        first = asyncio.create_task(http.post(CHAT, json={"model": MODEL, "messages": MESSAGES}))
        attempt = await world.backend.attempt()
        publisher = world.edge._generation._publisher
        monkeypatch.setattr(publisher._lookup, "find", refused)
        # It looks for so long. Not a setting, which would be for the first request as well.
        monkeypatch.setattr(publisher, "_timeout_s", 0.5)
        answer = await http.post(path, json={"model": MODEL, "stream": stream, **body})
        await attempt.end(End(status="ok", n=0))
        await first
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    if path == "/v1/messages":
        assert (answer.json()["type"], error["type"]) == ("error", "api_error")
    else:
        assert error["code"] == "outcome_unknown"
    assert answer.headers["x-request-id"] in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_mistake_of_ours_before_the_head_has_the_shape_of_an_error(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, Any],
    stream: bool,
) -> None:
    monkeypatch.setattr(world.edge._generation._publisher, "publish", broken)
    failures = metrics.FAILURES.labels(MODEL, "internal")
    before = failures._value.get()
    with caplog.at_level(logging.ERROR):
        async with world.http as http:
            answer = await http.post(path, json={"model": MODEL, "stream": stream, **body})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["type"] == ("api_error" if path == "/v1/messages" else "server_error")
    assert "a mistake" not in answer.text
    assert failures._value.get() == before + 1, "it is no good answer to the metrics"
    await until(lambda: not world.edge._desk.audience.answers)


async def test_a_record_that_the_broker_refuses_to_show_is_a_refusal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for where an earlier try, or another edge, stored one under the same key."""
    monkeypatch.setattr("edge.responses.store.ResponseStore._keep", refused)
    async with world.http as http:
        answer = await http.post("/v1/responses", json={"model": MODEL, "input": "hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_away")


async def test_a_log_without_sense_is_lost(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"nats_url": own_broker.url, "queue_max": 1})
    async with edge_on(settings) as world, world.http as http:
        first = asyncio.create_task(http.post(CHAT, json={"model": MODEL, "messages": MESSAGES}))
        attempt = await world.backend.attempt()
        monkeypatch.setattr(world.edge._generation._publisher._lookup, "find", unreadable)
        answer = await http.post(CHAT, json={"model": MODEL, "messages": MESSAGES})
        await attempt.end(End(status="ok", n=0))
        await first
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "log_lost")
