"""Batches run in the name of the key that made them: at its rates, and for as long as it is good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from edge.access.identity import Access
from edge.access.keyring import KeyRing
from infra.broker import Broker
from infra.keys import Key, add_key, new_key, remove_key
from infra.settings import load_settings
from tests.integration.batches_under_test import answer, jsonl, line, make, over, results, serve, worlds_on
from tests.integration.edge_under_test import CHAT, World, begin_of_a_window, until

CANCELLED_WITHIN_S = 20.0


class Stage:
    """An edge with a key file, and a client that has one of the keys in there."""

    def __init__(self, world: World, file: Path, key: Key, http: httpx.AsyncClient) -> None:
        self.world = world
        self.file = file
        self.key = key
        self.http = http

    async def cancelled(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch, seen with another key of its tenant."""
        other, text = new_key("other", tenant=self.key.tenant)
        add_key(self.file, other)
        self.http.headers["authorization"] = f"Bearer {text}"
        async with asyncio.timeout(10):  # an edge looks at the file once a second
            while (await self.http.get("/v1/batches")).status_code != 200:
                await asyncio.sleep(0.05)
        batch = await over(self.http, batch, CANCELLED_WITHIN_S)
        assert batch["status"] == "cancelled"
        assert [error["code"] for error in batch["errors"]["data"]] == ["key_not_valid"]
        return batch


@contextlib.asynccontextmanager
async def stage_on(broker: Broker, directory: Path, *, run: bool = True, **told: int) -> AsyncIterator[Stage]:
    file = directory / "keys.json"
    key, text = new_key("alice")
    add_key(file, key)
    settings = load_settings(
        {"nats_url": broker.url, "keys_file": str(file), "batch_inflight_max": 2, **told}
    )
    async with worlds_on(settings, run=run) as (world,):
        world.edge.access = Access(settings)
        async with world.http as http:
            http.headers["authorization"] = f"Bearer {text}"
            yield Stage(world, file, key, http)


@pytest.mark.parametrize("how", ["revoked", "not for batches"])
async def test_a_batch_ends_with_the_key_that_made_it(own_broker: Broker, tmp_path: Path, how: str) -> None:
    async with stage_on(own_broker, tmp_path) as stage:
        batch = await make(stage.http)
        await serve(stage.world.backend, 1)
        running = [await stage.world.backend.attempt() for _ in range(2)]
        remove_key(stage.file, stage.key.id)
        if how != "revoked":
            add_key(stage.file, replace(stage.key, classes=("interactive",)))
        batch = await stage.cancelled(batch)
        assert batch["request_counts"] == {"total": 6, "completed": 1, "failed": 0}
        ends = [await stage.world.backend.end_of(attempt) for attempt in running]
        assert [end.status for end in ends] == ["cancelled"] * 2
        assert stage.world.backend.arrivals == 3
        assert len(await results(stage.http, batch["output_file_id"])) == 1


async def test_lines_wait_for_the_rate_of_their_key(own_broker: Broker, tmp_path: Path) -> None:
    async with stage_on(own_broker, tmp_path, rate_requests_max=3, rate_window_s=3600) as stage:
        await begin_of_a_window(3600)
        batch = await make(stage.http)
        await serve(stage.world.backend, 3)
        await until(lambda: stage.world.backend.arrivals == 3)
        refused = await stage.http.post(CHAT, json=line(0)["body"])
        assert refused.status_code == 429, "they are requests of the key as any"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        async with asyncio.timeout(10):
            while batch["request_counts"]["completed"] < 3:
                batch = (await stage.http.get(f"/v1/batches/{batch['id']}")).json()
                await asyncio.sleep(0.05)
        assert batch["status"] == "in_progress"
        assert batch["request_counts"] == {"total": 6, "completed": 3, "failed": 0}
        assert stage.world.backend.arrivals == 3


async def test_a_line_that_its_key_can_never_pay_for_fails(own_broker: Broker, tmp_path: Path) -> None:
    async with stage_on(own_broker, tmp_path, rate_tokens_max=2) as stage:
        batch = await over(stage.http, await make(stage.http, jsonl(1)))
        assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
        (told,) = (await results(stage.http, batch["error_file_id"])).values()
        assert told["response"]["status_code"] == 429


async def test_a_key_that_an_edge_does_not_know_yet_is_waited_for(
    own_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One edge may have read the key file a moment before the one that runs the batch."""
    looked: list[bool] = []
    named = KeyRing.named

    def watched(self: KeyRing, id_: str, now: datetime) -> Key | None:
        found = named(self, id_, now)
        looked.append(found is not None)
        return found

    monkeypatch.setattr(KeyRing, "named", watched)
    async with stage_on(own_broker, tmp_path, run=False) as stage:
        batch = await make(stage.http, jsonl(1))
        remove_key(stage.file, stage.key.id)
        monkeypatch.setattr("edge.access.key_source.LOOK_INTERVAL_S", 0.0)
        stage.world.edge.batches.start()
        await until(lambda: len(looked) >= 3)  # not once and no more
        assert not any(looked)
        add_key(stage.file, stage.key)
        await answer(await stage.world.backend.attempt())
        assert (await over(stage.http, batch))["status"] == "completed"
