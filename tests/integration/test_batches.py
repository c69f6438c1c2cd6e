"""Files and batches at edges whose worker does what the test says, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from edge.batches.runner import Run
from edge.call import Caller
from infra.broker import Broker
from infra.settings import Settings, load_settings
from scheduler.__main__ import ensure_streams
from schemas.ids import TenantKey
from schemas.output import End
from schemas.streams import BATCHES, FILES
from tests.integration.edge_under_test import (
    CHAT,
    MESSAGES,
    MODEL,
    Attempt,
    Backend,
    World,
    backend_on,
    edge_at,
)

LINES = 6
OVER = ("completed", "failed", "expired", "cancelled")


class TenantNamed:
    """Whoever asks is of the tenant that a header names."""

    def identify(self, headers: Mapping[str, str], address: str) -> Caller:
        return Caller(TenantKey(headers.get("x-tenant", "public")), address)


@contextlib.asynccontextmanager
async def worlds_on(settings: Settings, count: int = 1, *, run: bool = True) -> AsyncIterator[list[World]]:
    """Edges at one backend; with `run` they run batches."""
    async with backend_on(settings) as backend, contextlib.AsyncExitStack() as stack:
        await ensure_streams(backend.js, settings.model_copy(update={"request_timeout_max_s": 3000}))
        worlds = [
            await stack.enter_async_context(edge_at(settings, backend, f"edge-{number}"))
            for number in range(count)
        ]
        for world in worlds:
            world.edge.access = TenantNamed()  # type: ignore[assignment]
            if run:
                world.edge.batches.start()
        try:
            yield worlds
        finally:
            for world in worlds:
                await world.edge.batches.close()


@pytest.fixture
async def world(own_broker: Broker) -> AsyncIterator[World]:
    async with worlds_on(load_settings({"nats_url": own_broker.url})) as (one,):
        yield one


def line(number: int) -> dict[str, Any]:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 5}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": body}


def jsonl(count: int = LINES) -> bytes:
    return b"".join(json.dumps(line(number)).encode() + b"\n" for number in range(count))


async def upload(http: httpx.AsyncClient, data: bytes, **fields: str) -> httpx.Response:
    form = {"purpose": "batch", **fields}
    return await http.post("/v1/files", files={"file": ("in.jsonl", data)}, data=form)


async def make(http: httpx.AsyncClient, data: bytes | None = None, ttl_s: int = 3600) -> dict[str, Any]:
    ages = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(ttl_s)}
    file = await upload(http, jsonl() if data is None else data, **ages)
    assert file.status_code == 200, file.text
    body = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    made = await http.post("/v1/batches", json=body)
    assert made.status_code == 200, made.text
    return dict(made.json())


async def over(http: httpx.AsyncClient, batch: dict[str, Any], within_s: float = 20.0) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while batch["status"] not in OVER:
        assert time.monotonic() < deadline, batch
        await asyncio.sleep(0.05)
        batch = (await http.get(f"/v1/batches/{batch['id']}")).json()
    return batch


async def results(http: httpx.AsyncClient, file_id: str) -> dict[str, dict[str, Any]]:
    lines = [json.loads(one) for one in (await http.get(f"/v1/files/{file_id}/content")).text.splitlines()]
    by_id = {one["custom_id"]: one for one in lines}
    assert len(by_id) == len(lines)
    return by_id


async def answer(attempt: Attempt) -> None:
    await attempt.tok("fine")
    await attempt.end(End(status="ok", n=1, finish_reasons=["stop"]))


async def serve(backend: Backend, count: int) -> None:
    for _ in range(count):
        await answer(await backend.attempt())


async def test_a_tenant_sees_and_uses_only_its_own(world: World) -> None:
    async with world.http as mine, world.http as theirs:
        mine.headers["x-tenant"], theirs.headers["x-tenant"] = "one", "two"
        batch = await make(mine)
        await serve(world.backend, LINES)
        batch = await over(mine, batch)
        assert batch["status"] == "completed"
        for file_id in (batch["input_file_id"], batch["output_file_id"]):
            for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
                assert (await theirs.get(path)).status_code == 404
                assert (await mine.get(path)).status_code == 200
            assert (await theirs.delete(f"/v1/files/{file_id}")).status_code == 404
        assert (await theirs.get(f"/v1/batches/{batch['id']}")).status_code == 404
        assert (await theirs.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 404
        body = {"input_file_id": batch["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
        assert (await theirs.post("/v1/batches", json=body)).status_code == 404
        for path in ("/v1/files", "/v1/batches"):
            assert (await theirs.get(path)).json()["data"] == []
            assert len((await mine.get(path)).json()["data"]) == (2 if path == "/v1/files" else 1)


async def test_requests_are_of_the_batch_s_tenant_and_class(world: World) -> None:
    async with world.http as http:
        http.headers["x-tenant"] = "one"
        await make(http, jsonl(1))
        attempt = await world.backend.attempt()
        assert attempt.tenant == "one"
        assert attempt.meta.grace_s is None, "nobody waits for it, and it runs on"
        assert json.loads(attempt.body) == line(0)["body"]


async def test_an_edge_that_stops_hands_its_batches_over_at_once(own_broker: Broker) -> None:
    async with worlds_on(load_settings({"nats_url": own_broker.url}), 2, run=False) as (first, second):
        first.edge.batches.start()
        async with second.http as http:
            batch = await make(http)
            attempts = [await first.backend.attempt() for _ in range(LINES)]
            for attempt in attempts[:2]:
                await answer(attempt)
            second.edge.batches.start()
            await first.edge.batches.close()
            for attempt in attempts[2:]:
                await answer(attempt)
            batch = await over(http, batch, 4.0)
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            assert len(await results(http, batch["output_file_id"])) == LINES
            assert first.backend.arrivals == LINES, "what ran already is read, not run again"


async def test_two_runners_at_once_come_to_one_result_for_each_line(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url})
    async with worlds_on(settings, 2, run=False) as worlds, worlds[0].http as http:
        made = await make(http)
        runs = []
        for number, world in enumerate(worlds):
            means = world.edge.batches._runners._means
            record = await means.batches.get(TenantKey("public"), made["id"])
            assert record is not None
            runs.append(asyncio.create_task(Run(means, record, f"run-{number}").run()))
        await serve(worlds[0].backend, LINES)
        ended = await asyncio.gather(*runs)
        assert sorted(ended) in ([False, True], [True, True])
        assert any(ended)
        batch = await over(http, made)
        assert len(await results(http, batch["output_file_id"])) == LINES
        assert worlds[0].backend.arrivals == LINES


async def test_a_line_that_no_worker_had_time_for_is_asked_for_again(world: World) -> None:
    async with world.http as http:
        batch = await make(http, jsonl(1))
        first = await world.backend.attempt()
        await first.end(End(status="expired", reason="queue_timeout"))
        second = await world.backend.attempt()
        assert second.rid != first.rid
        await answer(second)
        batch = await over(http, batch)
        assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


async def test_a_batch_that_is_out_of_time_says_so_of_each_line_that_is_left(world: World) -> None:
    async with world.http as http:
        batch = await make(http, ttl_s=3)
        attempts = [await world.backend.attempt() for _ in range(LINES)]
        await answer(attempts[0])
        batch = await over(http, batch)
        assert batch["status"] == "expired"
        assert batch["expired_at"] >= batch["expires_at"]
        assert batch["request_counts"] == {"total": LINES, "completed": 1, "failed": LINES - 1}
        assert len(await results(http, batch["output_file_id"])) == 1
        late = await results(http, batch["error_file_id"])
        assert {one["error"]["code"] for one in late.values()} == {"batch_expired"}
        assert {one["response"] for one in late.values()} == {None}
        ends = [await world.backend.end_of(attempt) for attempt in attempts[1:]]
        assert {end.status for end in ends} == {"cancelled"}, "nobody wants them any more"
        assert (await http.get(f"/v1/files/{batch['input_file_id']}")).status_code == 404


async def test_cancelling_ends_what_runs(world: World) -> None:
    async with world.http as http:
        batch = await make(http)
        attempts = [await world.backend.attempt() for _ in range(LINES)]
        await answer(attempts[3])
        assert (await http.post(f"/v1/batches/{batch['id']}/cancel")).json()["status"] == "cancelling"
        batch = await over(http, batch)
        assert batch["status"] == "cancelled"
        assert batch["error_file_id"] is None
        assert set(await results(http, batch["output_file_id"])) <= {f"c{number}" for number in range(LINES)}
        for attempt in (*attempts[:3], *attempts[4:]):
            assert (await world.backend.end_of(attempt)).status == "cancelled"
        again = await http.post(f"/v1/batches/{batch['id']}/cancel")
        assert (again.status_code, again.json()["status"]) == (200, "cancelled")
        assert await world.backend.js.queue_depth(BATCHES) == 0


async def test_a_batch_nobody_runs_yet_is_cancelled_at_once_and_without_its_input_fails(
    own_broker: Broker,
) -> None:
    async with (
        worlds_on(load_settings({"nats_url": own_broker.url}), run=False) as (world,),
        world.http as http,
    ):
        cancelled, orphan = await make(http), await make(http)
        shown = await http.post(f"/v1/batches/{cancelled['id']}/cancel")
        assert shown.json()["status"] == "cancelled"
        assert (await http.delete(f"/v1/files/{orphan['input_file_id']}")).json()["deleted"]
        world.edge.batches.start()
        orphan = await over(http, orphan)
        assert orphan["status"] == "failed"
        assert orphan["errors"]["data"][0]["code"] == "input_file_missing"
        js = world.backend.js
        async with asyncio.timeout(10):
            while await js.queue_depth(BATCHES):
                await asyncio.sleep(0.05)
        assert world.backend.arrivals == 0


async def test_deleting_both_files_of_a_batch_deletes_its_results(world: World) -> None:
    async with world.http as http:
        bad = {**line(9), "body": {"model": "nothing", "messages": MESSAGES}}
        batch = await make(http, jsonl(1) + json.dumps(bad).encode())
        await serve(world.backend, 1)
        batch = await over(http, batch)
        js = world.backend.js
        assert await js.queue_depth(FILES) == 3, "the input and two results"
        await http.delete(f"/v1/files/{batch['output_file_id']}")
        assert set(await results(http, batch["error_file_id"])) == {"c9"}
        await http.delete(f"/v1/files/{batch['error_file_id']}")
        await http.delete(f"/v1/files/{batch['input_file_id']}")
        assert await js.queue_depth(FILES) == 0


async def test_a_full_store_refuses_new_files_and_leaves_room_for_results(own_broker: Broker) -> None:
    settings = load_settings(
        {"nats_url": own_broker.url, "files_bytes_max": 4 << 20, "batch_inflight_max": 2}
    )
    async with worlds_on(settings) as (world,), world.http as http:
        batch = await make(http)
        for _ in range(2):
            assert (await upload(http, b"x" * (7 << 18))).status_code == 200
        for refused in (
            await upload(http, b"x"),
            await http.post(
                "/v1/batches",
                json={
                    "input_file_id": batch["input_file_id"],
                    "endpoint": CHAT,
                    "completion_window": "24h",
                },
            ),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "files_full")
            assert refused.headers["retry-after"]
        await serve(world.backend, LINES)
        assert (await over(http, batch))["status"] == "completed"


async def test_an_upload_that_does_not_fit_leaves_nothing_behind(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "files_bytes_max": 2 << 20})
    async with worlds_on(settings) as (world,), world.http as http:
        refused = await upload(http, b"x" * (3 << 20))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "files_full")
        assert await world.backend.js.queue_depth(FILES) == 0


async def test_uploads_that_are_none_are_clear_errors(own_broker: Broker) -> None:
    limits = {"file_bytes_max": 100_000, "body_timeout_s": 0.5}
    settings = load_settings({"nats_url": own_broker.url, **limits})
    async with worlds_on(settings) as (world,), world.http as http:

        async def chunks() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
            for _ in range(100):
                yield b"x" * 10_000

        async def stalls() -> AsyncIterator[bytes]:
            yield b"--b\r\n"
            await asyncio.sleep(3)
            yield b"--b--\r\n"

        form = {"content-type": "multipart/form-data; boundary=b"}
        answers = [
            (await upload(http, b"x" * 100_001), 413),
            (await upload(http, b"x" * 300_000), 413),
            (await http.post("/v1/files", content=chunks(), headers=form), 413),
            (await http.post("/v1/files", content=stalls(), headers=form), 408),
            (await upload(http, b""), 400),
            (await upload(http, b"x", purpose="vision"), 400),
            (await upload(http, b"x", **{"expires_after[seconds]": "60"}), 400),
            (await http.post("/v1/files", json={"purpose": "batch"}), 400),
            (await http.post("/v1/files", content=b"nonsense", headers=form), 400),
            (await http.post("/v1/files", files={"other": b"x"}, data={"purpose": "batch"}), 400),
            (
                await http.post("/v1/files", content=b"x", headers={"content-type": "multipart/form-data"}),
                400,
            ),
        ]
        for refused, status in answers:
            assert refused.status_code == status, refused.text
            assert refused.json()["error"]["message"]
        assert (await upload(http, b"x" * 100_000)).status_code == 200


async def test_a_file_that_lost_a_part_is_never_shown_as_whole(world: World) -> None:
    async with world.http as http:
        data = b"x" * (1 << 20)
        file = (await upload(http, data)).json()
        assert (await http.get(f"/v1/files/{file['id']}/content")).content == data
        _, last = await world.backend.js.bounds(FILES)
        assert await world.backend.js.delete(FILES, last)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"/v1/files/{file['id']}/content")


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "/v1/responses"},
        {"completion_window": "48h"},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {str(number): "v" for number in range(17)}},
        {"input_file_id": 7},
    ],
)
async def test_a_batch_that_cannot_be_made_names_why(world: World, change: dict[str, Any]) -> None:
    async with world.http as http:
        body = {"input_file_id": "file-a", "endpoint": CHAT, "completion_window": "24h"}
        refused = await http.post("/v1/batches", json=body | change)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, None)
        assert (await http.post("/v1/batches", content=b"[" * 100_000)).status_code == 400
