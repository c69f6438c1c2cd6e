"""Every endpoint of the table, whatever it will hold one day: none answers without a key, and to each another tenant's
id is one that does not exist."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.app import EdgeApp
from edge.endpoint import Endpoint
from edge.endpoints import endpoints
from infra.broker import Broker
from infra.keys import add_key, new_key
from infra.settings import load_settings
from schemas.output import End, Usage
from tests.integration.batches_under_test import jsonl, upload
from tests.integration.edge_under_test import CHAT, MESSAGES, MODEL, World, backend_on, edge_at

OPEN_TO_ALL = ("/livez", "/readyz", "/health", "/healthz", "/metrics", "/openapi.json", "/docs")
"""Probes and documents."""

NOBODYS = ("/v1/models/{name:path}",)
"""What a path names there is not a tenant's."""

OF_ONE_ANSWER = ("date", "x-request-id", "request-id", "openai-processing-ms", "content-length")
NAME = "named-by-alice"
ENDED = End(status="ok", n=1, text=["x"], usage=Usage(1, 1), finish_reasons=["stop"])


@dataclass
class Stage:
    """`ids` are alice's, each with one that nobody has."""

    world: World
    table: list[Endpoint]
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    ids: dict[str, str]

    async def served(self, path: str, body: dict[str, Any]) -> Any:
        """What alice gets for a request that a worker runs."""

        async def work() -> None:
            attempt = await self.world.backend.attempt()
            await attempt.tok("x")
            await attempt.end(ENDED)

        _, answer = await asyncio.gather(work(), self.alice.post(path, json=body))
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def stage(own_broker: Broker, tmp_path: Path) -> AsyncIterator[Stage]:
    file, texts = tmp_path / "keys.json", []
    for key, text in (new_key("alice"), new_key("bob")):
        add_key(file, key)
        texts.append(text)
    settings = load_settings({"nats_url": own_broker.url, "keys_file": str(file)})
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend) as world,
        world.http as alice,
        world.http as bob,
    ):
        alice.headers["x-api-key"], bob.headers["x-api-key"] = texts
        found = Stage(world, endpoints(world.edge), alice, bob, {})
        await fill(found)
        yield found


async def fill(stage: Stage) -> None:
    """Something of alice's for every kind of id."""
    chat = {"model": MODEL, "messages": MESSAGES}
    await stage.served("/v1/predict", {**chat, "request_id": NAME})
    completed = await stage.served(CHAT, chat)
    response = await stage.served("/v1/responses", {"model": MODEL, "input": "x"})
    file = (await upload(stage.alice, jsonl(1))).json()
    asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = (await stage.alice.post("/v1/batches", json=asked)).json()
    nobody = "a" * 26
    stage.ids |= {
        completed["id"].removeprefix("chatcmpl-"): nobody,
        NAME: "named-by-nobody",
        response["id"]: f"resp_{nobody}",
        response["id"].removeprefix("resp_"): nobody,
        file["id"]: f"file-{nobody}",
        batch["id"]: f"batch_{nobody}",
    }


def told(answer: httpx.Response, told_id: str) -> tuple[object, ...]:
    """What an answer says, but for the id that it repeats."""
    headers = {name: value for name, value in answer.headers.items() if name not in OF_ONE_ANSWER}
    return answer.status_code, headers, answer.text.replace(told_id, "ID")


def with_id(path: str, id_: str) -> str:
    return re.sub(r"{.*}", id_, path)


async def test_another_tenant_s_id_is_one_that_does_not_exist(stage: Stage) -> None:
    named = [one for one in stage.table if "{" in one.path and one.path not in NOBODYS]
    assert len(named) >= 12
    # What changes something comes last: alice's things must be there to be found.
    for one in sorted(named, key=lambda one: one.method != "GET"):
        for id_, nobodys in stage.ids.items():
            for query in ("", "?stream=true", "?stream=true&starting_after=0", f"?after={id_}"):
                theirs = await stage.bob.request(one.method, with_id(one.path, id_) + query)
                unknown = await stage.bob.request(
                    one.method, with_id(one.path, nobodys) + query.replace(id_, nobodys)
                )
                what = (one.method, one.path, id_, query)
                assert 400 <= theirs.status_code < 500, what
                assert told(theirs, id_) == told(unknown, nobodys), what
    for one in sorted(named, key=lambda one: one.method == "DELETE"):
        statuses = [
            (await stage.alice.request(one.method, with_id(one.path, id_))).status_code for id_ in stage.ids
        ]
        # An id that none of alice's fits is not tested above: make one in `fill`.
        assert any(status < 400 for status in statuses), (one.method, one.path, statuses)


async def test_another_tenant_s_things_are_in_no_list_and_no_metric(stage: Stage) -> None:
    paths = [one.path for one in stage.table if one.method == "GET" and "{" not in one.path]
    for path in [*paths, *OPEN_TO_ALL]:
        answer = await stage.bob.get(path)
        assert answer.status_code == 200, path
        for word in (*stage.ids, "alice"):
            assert word not in answer.text, path


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/responses"])
async def test_another_tenant_s_id_in_a_body_is_one_that_does_not_exist(stage: Stage, path: str) -> None:
    answers = []
    for id_ in [id_ for pair in stage.ids.items() for id_ in pair]:
        body: dict[str, Any] = {"model": MODEL, "input": "x", "previous_response_id": id_}
        if path == "/v1/batches":
            body = {"input_file_id": id_, "endpoint": CHAT, "completion_window": "24h"}
        answers.append(told(await stage.bob.post(path, json=body), id_))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] in (400, 404)


@pytest.mark.parametrize("text", [MESSAGES[0]["content"], "something else"])
@pytest.mark.parametrize("path", [CHAT, "/v1/predict"])
async def test_a_key_or_a_name_of_another_tenant_s_request_is_a_new_one(
    stage: Stage, path: str, text: str
) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    named = {"request_id": NAME} if path == "/v1/predict" else {}
    key = {} if named else {"idempotency-key": NAME}
    asking = asyncio.create_task(stage.bob.post(path, json={**body, **named}, headers=key))
    attempt = await stage.world.backend.attempt()
    assert attempt.tenant == "bob"
    assert attempt.rid not in stage.ids
    await attempt.end(End(status="error", reason="engine_error"))
    assert (await asking).status_code == 502


async def test_nothing_but_probes_and_documents_answers_without_a_key(stage: Stage) -> None:
    for one in stage.table:
        path = with_id(one.path, next(iter(stage.ids)))
        head = f"{one.method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.world.port)
        writer.write(head.encode())
        async with asyncio.timeout(5):
            status = await reader.readline()
        writer.close()
        assert status.split()[1] == b"401", (one.path, "before any of the body came")
    async with stage.world.http as nobody:
        for one in stage.table:
            path = with_id(one.path, next(iter(stage.ids)))
            for trick in (
                f"/{path}",
                f"{path}/",
                path.upper(),
                f"{path};x",
                f"/livez/..{path}",
                f"/livez/%2e%2e{path}",
            ):
                answer = await nobody.request(one.method, trick, follow_redirects=False)
                assert answer.status_code in (401, 404, 405), trick
            for method in ("HEAD", "OPTIONS", "PATCH", "TRACE"):
                assert (await nobody.request(method, path)).status_code in (401, 405)
            override = {"x-http-method-override": one.method}
            assert (await nobody.request("POST", path, headers=override)).status_code in (401, 405)
    pages: Any = EdgeApp(stage.world.edge)._router.default
    assert sorted(route.path for route in pages.routes) == sorted(OPEN_TO_ALL)


async def test_a_key_in_a_path_or_a_query_is_none_and_is_not_repeated(stage: Stage) -> None:
    key = stage.alice.headers["x-api-key"]
    async with stage.world.http as nobody:
        for path in (f"/v1/models?api_key={key}", f"/v1/models?key={key}", f"/v1/models?access_token={key}"):
            answer = await nobody.get(path)
            assert answer.status_code == 401
            assert key not in answer.text
        answer = await nobody.post(CHAT, content=json.dumps({"api_key": key}))
        assert answer.status_code == 401
        assert key not in answer.text
