"""Clients that stream through whatever happens: each asks again, with its key, until it has the whole answer."""

from __future__ import annotations

import asyncio
import json
import random
import time

import httpx

from workers.engines.simulator import reference_text

GIVE_UP_S = 180.0
AGAIN_S = 0.3
INTERVAL_S = 0.2
CLIENTS_MAX = 40
CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 20.0
"""Longer than an edge holds back its head, and than it keeps a silent stream without a comment."""


class Load:
    """One more client every `INTERVAL_S`, between `start` and `finish`."""

    def __init__(self, doors: list[str], seed: int = 0) -> None:
        self.whole = 0
        self._doors = doors
        self._rng = random.Random(seed)
        self._clients: list[asyncio.Task[None]] = []
        self._coming = asyncio.create_task(self._come())
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=2 * CLIENTS_MAX),
            timeout=httpx.Timeout(CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            trust_env=False,
        )

    async def finish(self) -> int:
        """Nobody comes any more, and all have their answers: how many. Fails with the first who has not."""
        self._coming.cancel()
        await asyncio.gather(*self._clients)
        await self._http.aclose()
        return self.whole

    async def _come(self) -> None:
        while True:
            if sum(not client.done() for client in self._clients) < CLIENTS_MAX:
                number = len(self._clients)
                self._clients.append(asyncio.create_task(self._ask(number, self._rng.randrange(5, 150))))
            await asyncio.sleep(INTERVAL_S)

    async def _ask(self, number: int, max_tokens: int) -> None:
        prompt = f"wish {number}"
        body = {
            "model": "penstock-sim",
            "stream": True,
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
        deadline = time.monotonic() + GIVE_UP_S
        answer = None
        told: list[str] = []
        while answer is None:
            assert time.monotonic() < deadline, f"{prompt} has no whole answer: {told}"
            try:
                answer = await self._try(body, f"key-{number}", told)
            except httpx.HTTPError as error:
                told.append(type(error).__name__)
            if answer is None:
                await asyncio.sleep(AGAIN_S)
        assert answer == reference_text(f"user: {prompt}", 0, max_tokens)
        self.whole += 1

    async def _try(self, body: object, key: str, told: list[str]) -> str | None:
        """The whole answer; None, and why in `told`, where there is none yet."""
        text: list[str] = []
        url = f"{self._rng.choice(self._doors)}/v1/chat/completions"
        async with self._http.stream("POST", url, json=body, headers={"Idempotency-Key": key}) as answer:
            if not answer.is_success:
                told.append((await answer.aread()).decode())
                return None
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    return "".join(text)
                if data == line:
                    continue
                event = json.loads(data)
                if "error" in event:
                    told.append(data)
                    return None
                text += [choice["delta"].get("content") or "" for choice in event["choices"]]
        told.append("the stream broke off")
        return None
