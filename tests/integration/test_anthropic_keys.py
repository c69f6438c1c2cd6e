"""Keys and rates as Anthropic's official client meets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from infra.broker import Broker
from infra.keys import add_key, new_key
from infra.settings import load_settings
from schemas.output import End, Usage
from tests.integration.edge_under_test import MESSAGES, MODEL, World, begin_of_a_window, edge_on

BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": MESSAGES}
ENDED = End(status="ok", n=1, usage=Usage(1, 1), finish_reasons=["stop"])
BATCH = {"x-penstock-class": "batch"}


@dataclass
class Stage:
    """An edge that knows keys: one for everything, one for a single request per minute, one for batches."""

    world: World
    alice: str
    once: str
    bob: str

    def client(self, **credentials: Any) -> AsyncAnthropic:
        return AsyncAnthropic(base_url=self.world.url, max_retries=0, **credentials)

    async def answered(self, client: AsyncAnthropic, **fields: Any) -> Any:
        """The message of a request that a worker ran."""

        async def work() -> None:
            attempt = await self.world.backend.attempt()
            await attempt.tok("x")
            await attempt.end(ENDED)

        async with client:
            _, message = await asyncio.gather(work(), client.messages.create(**{**BODY, **fields}))
        return message


@pytest.fixture
async def stage(broker: Broker, tmp_path: Path) -> AsyncIterator[Stage]:
    file, texts = tmp_path / "keys.json", []
    for key, text in (
        new_key("alice"),
        new_key("once", requests_per_min=1),
        new_key("bob", classes=("batch",)),
    ):
        add_key(file, key)
        texts.append(text)
    async with edge_on(load_settings({"nats_url": broker.url, "keys_file": str(file)})) as world:
        yield Stage(world, *texts)


@pytest.mark.parametrize("name", ["api_key", "auth_token"])
async def test_a_key_gets_in_either_way(stage: Stage, name: str) -> None:
    assert (await stage.answered(stage.client(**{name: stage.alice}))).stop_reason == "end_turn"


async def test_a_bad_key_is_an_authentication_error(stage: Stage) -> None:
    async with stage.client(api_key="wrong") as client:
        for asking in (
            client.messages.create(**BODY),
            client.messages.create(**BODY, stream=True),
            client.messages.count_tokens(model=MODEL, messages=MESSAGES),
        ):
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await asking
            assert (refused.value.status_code, refused.value.type) == (401, "authentication_error")
            assert refused.value.response.headers["x-should-retry"] == "false"
        with pytest.raises(anthropic.AuthenticationError):
            await client.models.list()


async def test_a_class_that_a_key_may_not_ask_for_is_a_permission_error(stage: Stage) -> None:
    for asking in ("create", "count_tokens"):
        async with stage.client(api_key=stage.bob) as client:
            fields = BODY if asking == "create" else {"model": MODEL, "messages": MESSAGES}
            with pytest.raises(anthropic.PermissionDeniedError) as refused:
                await getattr(client.messages, asking)(**fields)
        assert (refused.value.status_code, refused.value.type) == (403, "permission_error")
    await stage.answered(stage.client(api_key=stage.bob, default_headers=BATCH))


async def test_too_many_requests_are_a_rate_limit_error(stage: Stage) -> None:
    await begin_of_a_window(60)
    await stage.answered(stage.client(api_key=stage.once))
    async with stage.client(api_key=stage.once) as client:
        with pytest.raises(anthropic.RateLimitError) as refused:
            await client.messages.create(**BODY)
    assert (refused.value.status_code, refused.value.type) == (429, "rate_limit_error")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert refused.value.request_id
