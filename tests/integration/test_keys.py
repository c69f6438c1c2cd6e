"""Keys at two edges: who gets in, what it may see, and how soon a key that was taken back is of no use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import openai
import pytest

from edge.errors import Problem
from edge.gate import Entering, Permit
from infra.broker import Broker
from infra.keys import add_key, new_key, remove_key
from infra.settings import load_settings
from schemas.output import End, Usage
from tests.integration.edge_under_test import CHAT, MESSAGES, MODEL, World, backend_on, edge_at

REVOKED_WITHIN_S = 2.0
ENDED = End(status="ok", n=1, text=["x"], usage=Usage(1, 1), finish_reasons=["stop"])
ASKED = {"model": MODEL, "messages": MESSAGES}


@dataclass
class Stage:
    worlds: tuple[World, World]
    file: Path
    alice: str
    bob: str
    old: str

    async def send(
        self, method: str, path: str, *headers: tuple[str, str], edge: int = 0, body: object = None
    ) -> httpx.Response:
        async with self.worlds[edge].http as http:
            return await http.request(method, path, json=body, headers=list(headers))


@pytest.fixture
async def stage(broker: Broker, tmp_path: Path) -> AsyncIterator[Stage]:
    file = tmp_path / "keys.json"
    alice, alices = new_key("alice")
    bob, bobs = new_key("bob", classes=("batch",))
    old, olds = new_key("old", expires=datetime.now(UTC) - timedelta(days=1))
    for key in (alice, bob, old):
        add_key(file, key)
    settings = load_settings(
        {
            "nats_url": broker.url,
            "keys_file": str(file),
            "cors_origins": "https://a.example https://b.example",
        }
    )
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as one,
        edge_at(settings, backend, "edge-b") as two,
    ):
        yield Stage((one, two), file, alices, bobs, olds)


async def answered(stage: Stage, *headers: tuple[str, str]) -> httpx.Response:
    """The answer to a request that a worker ran."""

    async def work() -> None:
        attempt = await stage.worlds[0].backend.attempt()
        await attempt.end(ENDED)

    _, answer = await asyncio.gather(work(), stage.send("POST", CHAT, *headers, body=ASKED))
    return answer


def bearer(text: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {text}"


PLACES = [
    ("POST", CHAT),
    ("GET", "/v1/models"),
    ("GET", f"/v1/requests/{'a' * 26}"),
    ("DELETE", f"/v1/requests/{'a' * 26}"),
]


@pytest.mark.parametrize(("method", "path"), PLACES)
async def test_every_refusal_is_the_same_to_the_byte(stage: Stage, method: str, path: str) -> None:
    revoked, text = new_key("revoked")
    add_key(stage.file, revoked)
    remove_key(stage.file, "revoked")
    cases: list[list[tuple[str, str]]] = [
        [],
        [bearer("sk-penstock-nonsense")],
        [("Authorization", "Bearer")],
        [bearer(stage.old)],
        [bearer(text)],
        [("X-API-Key", "x")],
        [("api-key", stage.old)],
        [("Authorization", f"Basic {stage.alice}")],
    ]
    answers = [await stage.send(method, path, *case, edge=n % 2) for n, case in enumerate(cases)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    told = [{name: value for name, value in answer.headers.items() if name != "date"} for answer in answers]
    assert all(headers == told[0] for headers in told)
    assert told[0]["www-authenticate"] == "Bearer"
    assert told[0]["x-should-retry"] == "false"
    assert answers[0].json()["error"]["code"] == "invalid_api_key"


async def test_a_refused_body_is_not_even_read(stage: Stage) -> None:
    async with stage.worlds[0].http as http:
        answer = await http.post(CHAT, content=b"not json")
    assert answer.status_code == 401


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key", "x-api-key", "api-key"])
async def test_a_key_gets_in_by_every_header(stage: Stage, header: str) -> None:
    value = f"Bearer {stage.alice}" if header == "Authorization" else stage.alice
    assert (await answered(stage, (header, value))).status_code == 200


async def test_the_openai_package_gets_in_and_is_told_when_it_does_not(stage: Stage) -> None:
    url = f"{stage.worlds[0].url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=stage.alice, max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
    async with openai.AsyncOpenAI(base_url=url, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_a_request_is_seen_by_its_own_tenant_alone(stage: Stage) -> None:
    rid = (await answered(stage, bearer(stage.alice))).headers["x-request-id"]
    path = f"/v1/requests/{rid}"
    assert (await stage.send("GET", path, bearer(stage.alice), edge=1)).status_code == 200
    missing = await stage.send("GET", f"/v1/requests/{'a' * 26}", bearer(stage.bob))
    for method, at in (("GET", path), ("DELETE", path), ("GET", f"{path}/stream")):
        answer = await stage.send(method, at, bearer(stage.bob), edge=1)
        assert (answer.status_code, answer.content) == (404, missing.content)


async def test_a_class_that_a_key_may_not_ask_for_is_403(stage: Stage) -> None:
    for headers in ([], [("X-Penstock-Class", "interactive")]):
        answer = await stage.send("POST", CHAT, bearer(stage.bob), *headers, body=ASKED)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "not_allowed"
        assert "batch" in answer.json()["error"]["message"]
    allowed = await answered(stage, bearer(stage.bob), ("X-Penstock-Class", "batch"))
    assert allowed.status_code == 200


async def test_nothing_is_fetched_for_who_is_not_let_in(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge, fetched = stage.worlds[0].edge, 0

    async def inline(raw: bytes, _remotes: object, _bytes_max: int, _log: object) -> bytes | Problem:
        nonlocal fetched
        fetched += 1
        return Problem("image_fetch_failed", "no such image")

    monkeypatch.setattr(edge._images, "inline", inline)
    permits: list[Permit] = []
    enter = edge._entrance.enter

    async def entering(one: Entering) -> Permit | Problem:
        permit = await enter(one)
        if isinstance(permit, Permit):
            permits.append(permit)
        return permit

    monkeypatch.setattr(edge._entrance, "enter", entering)
    assert (await stage.send("POST", CHAT, bearer(stage.bob), body=ASKED)).status_code == 403
    assert fetched == 0
    answer = await stage.send("POST", CHAT, bearer(stage.alice), body=ASKED)
    assert answer.json()["error"]["code"] == "failed_to_download_image"
    assert fetched == 1
    assert [permit.settles for permit in permits] == [[]], "what was counted is given back"


async def test_a_revoked_key_is_of_no_use_within_two_seconds_and_a_new_one_is(stage: Stage) -> None:
    async def code(text: str, edge: int) -> int:
        return (await stage.send("GET", "/v1/models", bearer(text), edge=edge)).status_code

    assert [await code(stage.alice, edge) for edge in (0, 1)] == [200, 200]
    old_name, old = "alice", stage.alice
    took_s = []
    for name in ("carol", "dora", "eve"):
        key, new = new_key(name)
        remove_key(stage.file, old_name)
        add_key(stage.file, key)
        begun = time.monotonic()
        async with asyncio.timeout(30):
            for edge in (0, 1):
                while (await code(old, edge), await code(new, edge)) != (401, 200):
                    await asyncio.sleep(0.02)
        took_s.append(time.monotonic() - begun)
        old_name, old = name, new
    assert min(took_s) < REVOKED_WITHIN_S, took_s


async def test_probes_and_metrics_need_no_key(stage: Stage) -> None:
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        assert (await stage.send("GET", path)).status_code == 200


async def test_pages_of_named_origins_may_ask(stage: Stage) -> None:
    origin = ("Origin", "https://a.example")
    asking = (
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,x-api-key"),
    )
    preflight = await stage.send("OPTIONS", CHAT, origin, *asking)
    assert preflight.status_code == 200, "without a key: browsers send none here"
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert "x-api-key" in preflight.headers["access-control-allow-headers"]
    for headers, status in (([bearer(stage.alice)], 200), ([], 401)):
        answer = await stage.send("GET", "/v1/models", origin, *headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-ratelimit-remaining-tokens" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    other = await stage.send("GET", "/v1/models", ("Origin", "https://evil.example"), bearer(stage.alice))
    assert "access-control-allow-origin" not in other.headers
