"""Requests looked at and cancelled by their rid, in each state, and in the races between two of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from infra.broker import Broker
from infra.jetstream import WRONG_LAST, PubAck, expect_headers, fence_headers
from infra.settings import load_settings
from schemas import subjects
from schemas.log import Entry
from schemas.output import CtlRecord, Delta, End, Failed, Handoff, Lease, Tail, Tok, Usage, encode
from tests.contract.protocol import paused
from tests.integration.edge_under_test import (
    MESSAGES,
    MODEL,
    Attempt,
    World,
    backend_on,
    edge_at,
    edge_on,
    until,
)

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}


@pytest.fixture
async def worlds(broker: Broker) -> AsyncIterator[tuple[World, World]]:
    settings = load_settings({"nats_url": broker.url})
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as first,
        edge_at(settings, backend, "edge-b") as second,
    ):
        yield first, second


async def ask(
    world: World, *, stream: bool = True, lease: bool = True
) -> tuple[asyncio.Task[httpx.Response], Attempt]:
    async def post() -> httpx.Response:
        async with world.http as http:
            return await http.post(CHAT, json={**BODY, "stream": stream})

    asking = asyncio.create_task(post())
    return asking, await world.backend.attempt(lease=lease)


async def call(world: World, method: str, rid: str) -> dict[str, Any]:
    async with world.http as http:
        response = await http.request(method, f"/v1/requests/{rid}")
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    assert (page["id"], page["object"]) == (rid, "request")
    return page


async def log_of(attempt: Attempt, world: World) -> list[Entry]:
    return await world.backend.log.read(attempt.tenant, attempt.rid)


async def try_ctl(attempt: Attempt, record: CtlRecord) -> int:
    """A ctl record as the attempt would write it now: its sequence, or 0 if it is refused."""
    subject = subjects.output_ctl(attempt.tenant, attempt.rid)
    ack = await attempt.js.publish(subject, encode(record), headers=expect_headers(attempt.lease_seq))
    assert ack.stored or ack.err_code == WRONG_LAST
    return ack.seq if ack.stored else 0


async def try_tok(attempt: Attempt) -> bool:
    """An append as the attempt would make it now."""
    fence = fence_headers(attempt.lease_seq, subjects.output_ctl(attempt.tenant, attempt.rid))
    record = Tok(attempt.lease_seq, attempt.n, [0], [Delta("x")])
    ack = await attempt.js.publish(
        subjects.output_tok(attempt.tenant, attempt.rid), encode(record), headers=fence
    )
    assert ack.stored or ack.err_code == WRONG_LAST
    attempt.n += ack.stored
    return ack.stored


async def test_a_request_is_shown_in_each_of_its_states(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0], stream=False, lease=False)

    async def shown() -> dict[str, Any]:
        pages = [await call(world, "GET", attempt.rid) for world in worlds]
        assert pages[0] == pages[1]
        assert (pages[0]["model"], pages[0]["error"]) == (MODEL, None)
        assert abs(pages[0]["created"] - time.time()) < 60
        return pages[0]

    page = await shown()
    assert (page["status"], page["attempts"], page["output"]["tokens"]) == ("queued", 0, 0)
    await attempt.lease()
    assert (await shown())["status"] == "running"
    await attempt.tok("so", " far")
    page = await shown()
    assert (page["status"], page["output"]) == ("running", {"texts": ["so far"], "tokens": 2})
    assert page["usage"] == {"prompt_tokens": None, "completion_tokens": 2, "total_tokens": None}
    await attempt.give_back(Handoff("n", 2))
    page = await shown()
    assert (page["status"], page["attempts"], page["output"]["texts"]) == ("queued", 1, ["so far"])
    await attempt.lease()
    end = End(status="ok", n=3, tail=Tail(2, [2], [Delta("!")]), usage=Usage(5, 3), finish_reasons=["stop"])
    await attempt.end(end)
    answer = (await asking).json()
    for settled in (False, True):
        if settled:
            await attempt.settle()
        page = await shown()
        assert (page["status"], page["attempts"], page["output"]) == ("completed", 2, None)
        assert page["response"] == answer, "the body that its POST had"
        assert page["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (End(status="error", reason="poison", message="enough"), "failed", "poison"),
        (End(status="expired", reason="request_timeout"), "expired", "request_timeout"),
        (End(status="cancelled", reason="cancelled"), "cancelled", "cancelled"),
    ],
)
async def test_a_request_that_did_not_end_well_says_why(
    worlds: tuple[World, World], end: End, status: str, code: str
) -> None:
    asking, attempt = await ask(worlds[0], stream=False)
    await attempt.tok("some")
    await attempt.end(end)
    error = (await asking).json()["error"]
    page = await call(worlds[1], "GET", attempt.rid)
    assert (page["status"], page["error"]["code"], page["response"]) == (status, code, None)
    assert page["error"] == error, "what its POST was told"
    assert page["output"] == {"texts": ["some"], "tokens": 1}


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("state", ["undelivered", "leased", "failed", "handed_off"])
async def test_delete_ends_a_request_in_any_state(
    worlds: tuple[World, World], state: str, tokens: int
) -> None:
    asking, attempt = await ask(worlds[0], lease=state != "undelivered")
    if state != "undelivered":
        for _ in range(tokens):
            await attempt.tok("x")
    if state == "failed":
        await attempt.give_back(Failed("n", "boom"))
    if state == "handed_off":
        await attempt.give_back(Handoff("n", tokens))
    page = await call(worlds[1], "DELETE", attempt.rid)
    # Nothing is stored after the answer: no token, no lease of whoever holds the delivery, no END of its owner.
    assert not await try_tok(attempt)
    assert not await try_ctl(attempt, Lease(nonce="m", worker="w", attempt=2, cause="first"))
    assert not await try_ctl(attempt, End(status="ok", n=attempt.n))
    assert (page["status"], page["error"]["code"]) == ("cancelled", "cancelled")
    assert page["output"]["tokens"] == page["usage"]["completion_tokens"] == attempt.n
    end = await worlds[0].backend.end_of(attempt)
    assert (end.status, end.reason, end.n) == ("cancelled", "cancelled", None)
    assert end.usage == Usage(0, attempt.n)
    await until(lambda: attempt.rid in worlds[0].backend.hints)
    said = await asking
    if attempt.n:
        assert said.text.endswith("data: [DONE]\n\n")
        assert '"code":"cancelled"' in said.text
    else:
        assert (said.status_code, said.json()["error"]["code"]) == (499, "cancelled")
    again = await call(worlds[0], "DELETE", attempt.rid)
    assert again == page == await call(worlds[1], "GET", attempt.rid)
    assert sum(isinstance(entry.record, End) for entry in await log_of(attempt, worlds[0])) == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (End(status="ok", n=1, usage=Usage(5, 1)), "completed"),
        (End(status="error", reason="engine_error"), "failed"),
        (End(status="expired", reason="queue_timeout"), "expired"),
    ],
)
async def test_deleting_what_is_finished_answers_with_how_it_finished(
    worlds: tuple[World, World], end: End, status: str
) -> None:
    asking, attempt = await ask(worlds[0])
    await attempt.tok("x")
    await attempt.end(end)
    await asking
    before = await call(worlds[0], "GET", attempt.rid)
    assert before["status"] == status
    assert await call(worlds[1], "DELETE", attempt.rid) == before
    assert await worlds[0].backend.end_of(attempt) == end
    assert attempt.rid not in worlds[0].backend.hints


def just_before_end(
    world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[object]]
) -> None:
    """`act` comes between the edge's look at the log and its END, the first time."""
    js = world.edge._closer._output_log._js
    publish, left = js.publish, [act]

    async def slow(subject: str, payload: bytes, **options: Any) -> PubAck:
        if left:
            await left.pop()()
        return await publish(subject, payload, **options)

    monkeypatch.setattr(js, "publish", slow)


async def test_an_owners_end_that_comes_first_wins(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, attempt = await ask(worlds[0])
    await attempt.tok("x")
    end = End(status="ok", n=1, usage=Usage(5, 1))
    just_before_end(worlds[1], monkeypatch, lambda: attempt.end(end))
    assert (await call(worlds[1], "DELETE", attempt.rid))["status"] == "completed"
    assert await worlds[0].backend.end_of(attempt) == end
    assert '"finish_reason":"stop"' in (await asking).text
    assert attempt.rid not in worlds[0].backend.hints


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_lease_that_comes_first_is_fenced(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    asking, attempt = await ask(worlds[0], lease=earlier)
    if earlier:
        await attempt.give_back(Handoff("n", 0))

    async def begin() -> None:
        await attempt.lease()
        await attempt.tok("x")

    just_before_end(worlds[1], monkeypatch, begin)
    page = await call(worlds[1], "DELETE", attempt.rid)
    assert (page["status"], page["output"]["tokens"]) == ("cancelled", 1)
    assert not await try_tok(attempt)
    assert '"code":"cancelled"' in (await asking).text


async def test_delete_against_an_attempt_at_any_moment(worlds: tuple[World, World]) -> None:
    for number in range(20):
        asking, attempt = await ask(worlds[0], lease=False)

        async def run(attempt: Attempt = attempt, delay_s: float = number * 0.001) -> bool:
            await asyncio.sleep(delay_s)
            attempt.lease_seq = await try_ctl(attempt, Lease("n", "w", 1, "first", view=attempt.meta.view))
            while attempt.lease_seq and attempt.n < 8:
                if not await try_tok(attempt):
                    return False
            return bool(attempt.lease_seq) and bool(await try_ctl(attempt, End(status="ok", n=attempt.n)))

        is_done, page = await asyncio.gather(run(), call(worlds[1], "DELETE", attempt.rid))
        assert page["status"] == ("completed" if is_done else "cancelled")
        records = [entry.record for entry in await log_of(attempt, worlds[0])]
        ends = [index for index, record in enumerate(records) if isinstance(record, End)]
        assert ends == [len(records) - 1], "one END, and nothing after it"
        assert page["usage"]["completion_tokens"] == attempt.n, "the page shows all that was ever stored"
        assert ('"code":"cancelled"' in (await asking).text) != is_done


async def test_two_deletes_are_one(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0])
    await attempt.tok("x")
    pages = await asyncio.gather(*[call(world, "DELETE", attempt.rid) for world in worlds * 3])
    assert all(page == pages[0] for page in pages)
    assert pages[0]["status"] == "cancelled"
    assert sum(isinstance(entry.record, End) for entry in await log_of(attempt, worlds[0])) == 1
    await asking


async def test_every_reader_of_a_cancelled_request_is_told(worlds: tuple[World, World]) -> None:
    asking, attempt = await ask(worlds[0])
    await attempt.tok("x")
    async with worlds[1].http as http:
        reading = asyncio.create_task(http.get(f"/v1/requests/{attempt.rid}/stream"))
        await until(lambda: worlds[1].edge._desk.audience.answers)
        await call(worlds[0], "DELETE", attempt.rid)
        assert (await reading).text == (await asking).text
        assert '"code":"cancelled"' in (await reading).text


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("GET", ""), ("GET", "/stream")])
async def test_where_no_leader_is_heard_what_is_not_found_may_exist(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Its broker may be cut off from the others, which go on."""
    world, unknown = worlds[0], f"/v1/requests/{'a' * 26}{path}"
    _, attempt = await ask(world)
    await attempt.end(End(status="ok", n=0))
    async with world.http as http:
        assert (await http.request(method, unknown)).status_code == 404
        world.backend.leading.cancel()
        monkeypatch.setattr("edge.registry.LEADER_SILENT_S", 0.0)
        answer = await http.request(method, unknown)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_away")
        assert float(answer.headers["retry-after"]) > 0
        assert (await http.get(f"/v1/requests/{attempt.rid}")).status_code == 200, "what is found, is"


async def test_without_a_broker_nothing_is_claimed(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "publish_timeout_s": 2})
    async with edge_on(settings) as world, world.http as http:
        asking, attempt = await ask(world)
        await attempt.tok("x")
        with paused(own_broker):
            calls = [("DELETE", ""), ("GET", ""), ("GET", "/stream")]
            for response in await asyncio.gather(
                *[http.request(method, f"/v1/requests/{attempt.rid}{path}") for method, path in calls]
            ):
                assert (response.status_code, response.json()["error"]["code"]) == (503, "broker_away")
                assert response.headers["retry-after"] == "1"
        assert (await call(world, "DELETE", attempt.rid))["status"] == "cancelled"
        await asking
