"""Files and batches at edges whose worker does what the test says, on a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from edge.batches import patience
from edge.batches.files_api import UPLOADS_OF_TENANT_MAX
from edge.batches.jsonl import Line, Lines
from edge.lookup import Found, Lookup
from infra.broker import Broker
from infra.settings import load_settings
from schemas.errors import BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.output import End
from schemas.streams import BATCHES, FILES
from tests.integration.batches_under_test import (
    LINES,
    answer,
    jsonl,
    line,
    make,
    over,
    results,
    serve,
    upload,
    worlds_on,
)
from tests.integration.edge_under_test import CHAT, MESSAGES, World, backend_on, edge_at, until


@pytest.fixture
async def world(own_broker: Broker) -> AsyncIterator[World]:
    async with worlds_on(load_settings({"nats_url": own_broker.url})) as (one,):
        yield one


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


async def test_a_line_that_breaks_something_breaks_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_body: object, remotes: object, _bytes_max: int) -> bytes:
        raise IndexError("a bug of ours")

    monkeypatch.setattr(world.edge._images, "inline", broken)
    async with world.http as http:
        batch = await over(http, await make(http, jsonl(2)))
        assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
        told = await results(http, batch["error_file_id"])
        assert {one["response"]["status_code"] for one in told.values()} == {500}
    assert world.failures == [], "the edge would have ended of it, and then the next one"


async def test_a_line_that_the_broker_refuses_to_look_up_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP that is somebody's 503; nobody else's answer, and not the edge, ends of it."""
    monkeypatch.setattr(patience, "REFUSED_WAIT_S", 0.05)
    find, refusals = Lookup.find, iter(range(3))

    async def refuse_at_first(lookup: Lookup, tenant: TenantKey, rid: RequestId) -> Found | None:
        if next(refusals, None) is not None:
            raise BrokerRefused("resource limits exceeded for server (10023)")
        return await find(lookup, tenant, rid)

    monkeypatch.setattr(Lookup, "find", refuse_at_first)
    async with world.http as http:
        batch = await make(http, jsonl(1))
        await serve(world.backend, 1)
        assert (await over(http, batch))["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert next(refusals, None) is None


async def test_a_file_of_blank_lines_holds_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, at_feed = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def watched(self: Lines, data: bytes) -> list[Line]:
        at_feed.append((turns, len(data)))
        return feed(self, data)

    feed = Lines.feed
    monkeypatch.setattr(Lines, "feed", watched)
    going = asyncio.create_task(others())
    async with world.http as http:
        batch = await over(http, await make(http, b"\n" * (1 << 20)))
    going.cancel()
    assert batch["errors"]["data"][0]["code"] == "empty_file"
    assert sum(size for _, size in at_feed) == 1 << 20
    assert max(size for _, size in at_feed) <= 16 << 10
    assert len({turn for turn, _ in at_feed}) == len(at_feed), "others had a turn in between"


async def test_a_batch_that_is_out_of_time_says_so_of_each_line_that_is_left(world: World) -> None:
    async with world.http as http:
        batch = await make(http, ttl_s=5)
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
        async with asyncio.timeout(10):  # its message is acked after its end is told
            while await world.backend.js.queue_depth(BATCHES):
                await asyncio.sleep(0.05)


async def test_a_cancel_that_the_broker_refuses_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "REFUSED_WAIT_S", 0.05)
    find, refusals = Lookup.find, iter(range(3))

    async def refuse_at_first(lookup: Lookup, tenant: TenantKey, rid: RequestId) -> Found | None:
        if next(refusals, None) is not None:
            raise BrokerRefused("resource limits exceeded for server (10023)")
        return await find(lookup, tenant, rid)

    async with world.http as http:
        batch = await make(http, jsonl(2))
        attempts = [await world.backend.attempt() for _ in range(2)]
        monkeypatch.setattr(Lookup, "find", refuse_at_first)
        await http.post(f"/v1/batches/{batch['id']}/cancel")
        assert (await over(http, batch))["status"] == "cancelled"
        for attempt in attempts:
            assert (await world.backend.end_of(attempt)).status == "cancelled"
    assert world.failures == [], "the edge would have ended of it"


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


async def test_before_a_scheduler_has_made_the_streams_files_and_batches_wait_for_it(
    own_broker: Broker,
) -> None:
    settings = load_settings({"nats_url": own_broker.url, "publish_timeout_s": 1})
    async with backend_on(settings, has_streams=False) as backend, edge_at(settings, backend) as one:
        async with one.http as http:
            answers = [
                await upload(http, jsonl(1)),
                await http.get("/v1/files"),
                await http.get("/v1/batches"),
            ]
        one.edge.batches.start()
        await one.edge.batches.close()
    assert [found.status_code for found in answers] == [503] * 3
    assert {found.json()["error"]["code"] for found in answers} == {"broker_away"}


async def test_an_upload_that_does_not_fit_leaves_nothing_behind(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "files_bytes_max": 2 << 20})
    async with worlds_on(settings) as (world,), world.http as http:
        refused = await upload(http, b"x" * (3 << 20))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "files_full")
        assert await world.backend.js.queue_depth(FILES) == 0


async def test_uploads_that_are_none_are_clear_errors(own_broker: Broker) -> None:
    limits = {"file_bytes_max": 100_000, "body_timeout_s": 3}
    settings = load_settings({"nats_url": own_broker.url, **limits})
    async with worlds_on(settings) as (world,), world.http as http:

        async def chunks() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
            for _ in range(100):
                yield b"x" * 10_000

        async def stalls() -> AsyncIterator[bytes]:
            yield b"--b\r\n"
            await asyncio.sleep(4)
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


async def test_a_tenant_that_takes_its_places_for_uploads_leaves_those_of_others(world: World) -> None:
    form = (
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nX-Tenant: one\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    files = world.edge.batches._files
    slow = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(UPLOADS_OF_TENANT_MAX)]
    for _, writer in slow:
        writer.write(form)
    await until(lambda: files._uploads.total() == UPLOADS_OF_TENANT_MAX)
    async with world.http as one, world.http as two:
        one.headers["x-tenant"], two.headers["x-tenant"] = "one", "two"
        refused = await upload(one, jsonl(1))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "edge_full")
        assert (await upload(two, jsonl(1))).status_code == 200
        for _, writer in slow:
            writer.close()
        await until(lambda: not files._uploads)
        assert (await upload(one, jsonl(1))).status_code == 200


async def test_a_file_that_lost_a_part_is_never_shown_as_whole(world: World) -> None:
    async with world.http as http:
        data = bytes(range(256)) * (10 << 10) + b"the end"
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
