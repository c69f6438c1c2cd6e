"""An OpenAI-compatible server that does what a test tells it, byte by byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from infra.ports import free_port

WORDS = ["river", "größe", "水門", "🌊", "of", "a", "gate"]


class Asked:
    """One request: its fields, its headers, and the connection to answer on."""

    def __init__(
        self,
        path: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.path = path
        self.headers = headers
        self.fields: dict[str, Any] = json.loads(body) if body else {}
        self.at = time.monotonic()
        self.is_stream = False
        self.port = int(writer.get_extra_info("peername")[1])
        self._reader = reader
        self._writer = writer

    async def answer(self, status: int, body: bytes, **headers: str) -> None:
        """A whole answer."""
        head = {name.replace("_", "-"): value for name, value in headers.items()}
        head |= {"content-length": str(len(body))}
        lines = "".join([f"{name}: {value}\r\n" for name, value in head.items()])
        await self.send(f"HTTP/1.1 {status} Told\r\n{lines}\r\n".encode() + body)

    async def open(self) -> None:
        """The head of a stream that ends with its connection."""
        self.is_stream = True
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Any bytes. Raises ConnectionError once the other side has gone."""
        self._writer.write(data)
        await self._writer.drain()

    async def event(self, **choice: Any) -> None:
        """A chunk with one choice."""
        chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}]}
        await self.send(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")

    async def gone(self) -> float:
        """Waits until the other side has closed the connection; when it did."""
        await self._reader.read()
        return time.monotonic()

    def cut(self) -> None:
        """Resets the connection."""
        self._writer.transport.abort()


Answer = Callable[[Asked], Awaitable[None]]


def words_of(fields: dict[str, Any], salt: str = "") -> list[str]:
    """The answer to a request: by its prompt, its seed and its `max_tokens`."""
    prompt = json.dumps(fields.get("messages") or fields.get("prompt"))
    count = fields.get("max_tokens") or 10
    key = f"{prompt} {fields.get('seed')} {salt}"
    numbers = [hashlib.sha256(f"{key} {at}".encode()).digest()[0] for at in range(count)]
    return [WORDS[number % len(WORDS)] + " " for number in numbers]


def telling(*, itl_s: float = 0.0, cut_at: int = -1, salt: str = "") -> Answer:
    """Streams the words of a request; before word `cut_at` the connection is reset. Another `salt` is another model."""

    async def tell(asked: Asked) -> None:
        await asked.open()
        words = words_of(asked.fields, salt)
        for at, word in enumerate(words):
            if at == cut_at:
                asked.cut()
                return
            await asked.event(delta={"content": word})
            if itl_s:
                await asyncio.sleep(itl_s)
        await asked.event(finish_reason="length")
        usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
        await asked.send(
            b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
        )

    return tell


def saying(status: int, message: str = "told so", **headers: str) -> Answer:
    """Refuses."""

    async def say(asked: Asked) -> None:
        await asked.answer(status, json.dumps({"error": {"message": message}}).encode(), **headers)

    return say


def listing(*models: dict[str, Any]) -> Answer:
    """Lists models."""

    async def tell(asked: Asked) -> None:
        await asked.answer(200, json.dumps({"object": "list", "data": models}).encode())

    return tell


class ScriptedUpstream:
    """`script` answers the next requests one by one, `then` all that follow. `knocked` answers `/health`, `listed`
    the list of models."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.then: Answer = telling()
        self.knocked: Answer = saying(200)
        self.listed: Answer = listing({"id": "penstock-sim"}, {"id": "m"})
        self.asked: list[Asked] = []
        self.port = free_port()
        self._server: asyncio.Server
        self._tasks: dict[asyncio.Task[None], None] = {}

    @property
    def url(self) -> str:
        """What the setting `upstream` takes."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Listens, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Closes the port and all connections."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(first.split()[1], headers, body, reader, writer)
                await self._answer(asked)
                if asked.is_stream:
                    break
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            del self._tasks[task]

    async def _answer(self, asked: Asked) -> None:
        match asked.path.partition("?")[0]:
            case "/health":
                await self.knocked(asked)
            case "/v1/models":
                await self.listed(asked)
            case _:
                self.asked.append(asked)
                await (self.script.pop(0) if self.script else self.then)(asked)


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """One that runs."""
    upstream = ScriptedUpstream()
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()
