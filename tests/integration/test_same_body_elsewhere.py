"""The same key and bytes at another endpoint are another request: it is refused, not shown in a wrong shape."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from infra.broker import Broker
from infra.settings import load_settings
from schemas.output import End
from tests.integration.edge_under_test import MODEL, edge_on

SHORT = {"model": MODEL, "prompt": "a river"}
COMPLETE = {"prompt": "a river", "max_tokens": 5, "temperature": 0.5, "stream": False, "model": MODEL}
"""What `/v1/generate` makes of it for the engine has the same bytes."""


@pytest.mark.parametrize("body", [SHORT, COMPLETE])
async def test_a_key_belongs_to_its_endpoint(broker: Broker, body: dict[str, object]) -> None:
    sent = msgspec.json.encode(body)
    paths = ["/generate", "/v1/generate", "/v1/completions"]
    async with edge_on(load_settings({"nats_url": broker.url})) as world, world.http as http:
        for number, path in enumerate(paths):
            key = {"idempotency-key": f"river-{len(body)}-{number}"}
            asking = asyncio.create_task(http.post(path, content=sent, headers=key))
            attempt = await world.backend.attempt()
            await attempt.tok("so")
            await attempt.end(End(status="ok", n=1))
            first = await asking
            assert first.status_code == 200
            again = await http.post(path, content=sent, headers=key)
            assert again.json().keys() == first.json().keys(), "its own repeat is the same request"
            for other in paths[:number] + paths[number + 1 :]:
                refused = await http.post(other, content=sent, headers=key)
                assert refused.status_code == 422, (path, other)
