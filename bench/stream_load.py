"""A closed loop of streamed chats against any OpenAI-compatible server: how fast tokens come, how soon the first one.

It knows nothing of the server behind the address. One thread, HTTP/1.1 with a connection per client, no HTTP library:
what is measured is the server, not a client. Tokens are counted by the server's own `usage`, which is checked against
what was asked for.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

CHUNK_BYTES_MAX = 1 << 20


class Chat(NamedTuple):
    """One request: exactly `tokens` of output are asked for."""

    prompt: str
    tokens: int


class Answer(NamedTuple):
    """From the first byte sent: seconds to the first token and to the last byte. `events` are those with text."""

    ttft_s: float
    total_s: float
    tokens: int
    events: int


class Result(NamedTuple):
    """A load: how long all of it took, and every answer, in the order of the chats."""

    wall_s: float
    answers: list[Answer]
    clients: int

    @property
    def steady(self) -> list[Answer]:
        """All but the first one of each client: those came in one burst, which is no steady load."""
        return self.answers[self.clients :]

    @property
    def tokens_per_s(self) -> float:
        """Of all clients together."""
        return sum(answer.tokens for answer in self.answers) / self.wall_s


class Broken(Exception):
    """An answer that is not a whole, right one; the message has what came instead."""


def run_load(
    url: str, model: str, chats: Iterable[Chat], *, clients: int, sampling: dict[str, object]
) -> Result:
    """Sends all chats, `clients` at a time. Raises Broken at the first answer that is not right."""
    return asyncio.run(_run_load(url, model, list(chats), clients, sampling))


async def _run_load(
    url: str, model: str, chats: list[Chat], clients: int, sampling: dict[str, object]
) -> Result:
    waiting = iter(enumerate(chats))
    answers: dict[int, Answer] = {}

    async def client() -> None:
        async with _Connection(url) as connection:
            for number, chat in waiting:
                answers[number] = await connection.ask(_body(model, chat, sampling), chat.tokens)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    wall_s = time.perf_counter() - started
    return Result(wall_s, [answers[number] for number in range(len(chats))], clients)


def _body(model: str, chat: Chat, sampling: dict[str, object]) -> bytes:
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": chat.prompt}],
            "max_tokens": chat.tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
        }
    ).encode()


class _Connection:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._host, self._port = address.hostname, address.port

    async def __aenter__(self) -> _Connection:
        self._reader, self._writer = await asyncio.open_connection(
            self._host, self._port, limit=CHUNK_BYTES_MAX
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, body: bytes, tokens: int) -> Answer:
        """Sends a request and reads its answer to the end."""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        started = time.perf_counter()
        self._writer.write(head.encode() + body)
        status = await self._reader.readuntil(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 200") or b"chunked" not in status:
            raise Broken(status.decode() + (await self._reader.read(CHUNK_BYTES_MAX)).decode())
        first_at, events, used, is_done = 0.0, 0, 0, False
        async for data in self._events():
            if data == b"[DONE]":
                is_done = True
            elif b'"usage":{' in data:
                used = json.loads(data)["usage"]["completion_tokens"]
            elif b'"error":' in data:  # a key: in text a quotation mark has a backslash before it
                raise Broken(data.decode())
            elif b'"content":"' in data and b'"content":""' not in data:
                first_at = first_at or time.perf_counter()
                events += 1
        if not (is_done and first_at and used == tokens):
            raise Broken(f"{used} of {tokens} tokens, {events} events, done: {is_done}")
        return Answer(first_at - started, time.perf_counter() - started, used, events)

    async def _events(self) -> AsyncIterator[bytes]:
        """The data of each SSE event, up to the end of the answer."""
        rest = b""
        async for chunk in self._chunks():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                for line in event.split(b"\n"):
                    if line.startswith(b"data:"):
                        yield line[5:].strip()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readuntil(b"\r\n")
