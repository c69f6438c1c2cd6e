"""What one tenant may keep, so that there is room for others, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from edge.responses.quota import ResponsesQuota
from edge.responses.record import Record
from infra.broker import Broker
from infra.keys import add_key, new_key
from infra.settings import Settings, load_settings
from schemas.ids import TenantKey
from tests.integration.batches_under_test import jsonl, make, over, serve, upload, worlds_on
from tests.integration.edge_under_test import CHAT, MODEL, World

STORE_BYTES = 1 << 20
SHARE_BYTES = STORE_BYTES // 2


def settings_of(broker: Broker, directory: Path, **settings: object) -> Settings:
    add_key(directory / "keys.json", new_key("someone")[0])
    told = {"nats_url": broker.url, "keys_file": str(directory / "keys.json")}
    sizes = {"files_bytes_max": STORE_BYTES, "responses_bytes_max": STORE_BYTES}
    return load_settings({**told, **sizes, **settings})


@contextlib.asynccontextmanager
async def two_tenants(world: World) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    async with world.http as one, world.http as two:
        one.headers["x-tenant"], two.headers["x-tenant"] = "one", "two"
        yield one, two


def is_over_share(answer: httpx.Response) -> bool:
    if answer.status_code == 200:
        return False
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"]["code"] == "quota_exceeded"
    assert "tenant_store_share" in answer.json()["error"]["message"]
    return True


async def test_a_tenant_fills_its_share_of_the_files_and_no_more(own_broker: Broker, tmp_path: Path) -> None:
    part = b"x" * (SHARE_BYTES // 4)
    async with worlds_on(settings_of(own_broker, tmp_path)) as (world,), two_tenants(world) as (one, two):
        kept = [await upload(one, part) for _ in range(4)]
        assert not any(map(is_over_share, kept))
        assert is_over_share(await upload(one, b"x"))
        assert not is_over_share(await upload(two, part)), "there is room for others"
        assert (await one.delete(f"/v1/files/{kept[0].json()['id']}")).status_code == 200
        assert not is_over_share(await upload(one, part))


async def test_uploads_that_race_do_not_pass_the_share_together(own_broker: Broker, tmp_path: Path) -> None:
    part = b"x" * (SHARE_BYTES // 2)
    async with (
        worlds_on(settings_of(own_broker, tmp_path), 2) as worlds,
        two_tenants(worlds[0]) as (here, _),
        two_tenants(worlds[1]) as (there, _),
    ):
        await asyncio.gather(*[upload(http, part) for http in (here, there, here, there)])
        files = (await here.get("/v1/files")).json()["data"]
        assert sum(file["bytes"] for file in files) <= SHARE_BYTES


async def test_the_results_of_a_batch_count_until_both_of_their_files_are_gone(
    own_broker: Broker, tmp_path: Path
) -> None:
    settings = settings_of(own_broker, tmp_path, tenant_store_share=0.005)
    async with worlds_on(settings) as (world,), two_tenants(world) as (one, _):
        batch = await make(one, jsonl(12))
        body = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": batch["input_file_id"]}
        await serve(world.backend, 12)
        batch = await over(one, batch)
        results = (await one.get(f"/v1/files/{batch['output_file_id']}")).json()
        input_bytes = len(jsonl(12))
        assert input_bytes < 0.005 * STORE_BYTES < input_bytes + results["bytes"]
        assert is_over_share(await upload(one, b"x")), "results are kept, whatever their size, and count"
        assert is_over_share(await one.post("/v1/batches", json=body))
        assert (await one.delete(f"/v1/files/{results['id']}")).status_code == 200
        assert not is_over_share(await upload(one, b"x"))


async def keep(http: httpx.AsyncClient, size: int) -> httpx.Response:
    body = {"model": MODEL, "input": "x" * size, "background": True}
    return await http.post("/v1/responses", json=body)


async def test_a_tenant_fills_its_share_of_the_responses_and_no_more(
    own_broker: Broker, tmp_path: Path
) -> None:
    async with (
        worlds_on(settings_of(own_broker, tmp_path), 2, run=False) as worlds,
        two_tenants(worlds[0]) as (one, two),
        two_tenants(worlds[1]) as (there, _),
    ):
        size = int(SHARE_BYTES / 4.5)
        answers = await asyncio.gather(*[keep(http, size) for http in (one, there, one, there)])
        assert not any(map(is_over_share, answers))
        refused = await keep(there, size)
        assert is_over_share(refused)
        assert int(refused.headers["retry-after"]) > 1, "room comes when records expire"
        assert worlds[0].backend.arrivals == 4
        assert not is_over_share(await keep(two, size)), "there is room for others"
        gone = f"/v1/responses/{answers[0].json()['id']}"
        assert {(await one.delete(gone)).status_code for _ in range(3)} == {200, 404}
        assert not is_over_share(await keep(there, size))
        assert is_over_share(await keep(one, size)), "what was deleted is given back once"


async def test_a_response_that_is_not_stored_takes_nothing_of_the_share(
    own_broker: Broker, tmp_path: Path
) -> None:
    settings = settings_of(own_broker, tmp_path, queue_max=1)
    async with worlds_on(settings, run=False) as (world,), two_tenants(world) as (one, two):
        size = int(SHARE_BYTES / 2.5)
        assert (await keep(two, 1)).status_code == 200
        for _ in range(4):
            answer = await keep(one, size)
            assert answer.json()["error"]["code"] == "queue_full"


async def test_a_share_of_responses_is_of_what_has_not_expired(own_broker: Broker, tmp_path: Path) -> None:
    settings = settings_of(own_broker, tmp_path)
    async with worlds_on(settings, run=False) as (world,):
        life_s = settings.request_timeout_max_s + settings.result_ttl_s
        tenant, half = TenantKey("one"), SHARE_BYTES // 2 - 1000
        begun = (time.time() // life_s) * life_s

        async def enter(at: float) -> bool:
            quota = ResponsesQuota(settings, world.edge.bus, now=lambda: at)
            record = Record("f", MODEL, int(at), {}, [])
            return await quota.enter(tenant, record, half) is None

        assert await enter(begun)
        assert await enter(begun + life_s / 2)
        assert not await enter(begun + life_s - 1), "both are still there"
        # The first one has expired; what the refused one had counted is given back soon.
        async with asyncio.timeout(10):
            while not await enter(begun + life_s * 1.25):
                await asyncio.sleep(0.02)
        assert not await enter(begun + life_s * 1.25)


async def test_without_keys_all_of_a_store_is_everybody_s(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "files_bytes_max": STORE_BYTES})
    async with worlds_on(settings) as (world,), world.http as http:
        assert not is_over_share(await upload(http, b"x" * (SHARE_BYTES + 1)))
