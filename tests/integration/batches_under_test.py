"""Edges that run batches, a client of theirs, and a worker that answers when the test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from edge.call import Caller
from infra.settings import Settings
from schemas.ids import TenantKey
from schemas.output import End
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
