"""An edge served from the test's own event loop, and a worker and a leader that do what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from edge.images import Images
from edge.server import Server, listen
from edge.service import Edge
from infra import wire
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers, fence_headers
from infra.output_log import OutputLog
from infra.settings import Settings
from infra.stream_set import ensure_streams
from infra.tracing import Tracer
from schemas import dispatch, subjects
from schemas.dispatch import EdgeBeat, Leader, ModelCard, ModelState
from schemas.ids import RequestId, TenantKey, model_key
from schemas.output import CtlRecord, Delta, End, Failed, Handoff, Lease, Tok, encode
from schemas.requests import RequestMeta, parse_meta
from schemas.streams import REQUESTS

MODEL = "Test/Model-1B"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
STREAMED: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "stream": True}

TLS = httpx.create_ssl_context()
"""Made once: a client that makes its own stops the event loop for 36 ms, which the edge, its backend and all clients of
a test share; with 40 clients that was longer than a leader may be silent."""


def card(name: str = MODEL, *adapters: str) -> ModelCard:
    return ModelCard(model_key(name), name, "none", 4096, 256, list(adapters))


async def begin_of_a_window(window_s: int, room_s: float = 10.0) -> float:
    """Returns when at least `room_s` are left of what rates take for one window: in the next one what was counted
    before counts less. The time, in Unix seconds."""
    while window_s - time.time() % window_s < room_s:
        await asyncio.sleep(0.01)
    return time.time()


async def until(condition: Callable[[], object], within_s: float = 15.0) -> None:
    """Waits for `condition`; fails loudly when it does not hold in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


@dataclass
class Attempt:
    """A request as a worker sees it; writes its output log by hand."""

    js: JetStream
    tenant: TenantKey
    rid: RequestId
    headers: bytes
    body: bytes
    lease_seq: int = 0
    n: int = 0

    @property
    def meta(self) -> RequestMeta:
        """What its headers say."""
        meta = parse_meta(wire.parse_headers(self.headers))
        assert isinstance(meta, RequestMeta)
        return meta

    async def lease(self) -> None:
        meta = self.meta
        lease = Lease("n", "w", 1, "first", fingerprint=meta.fingerprint, view=meta.view)
        self.lease_seq = await self._ctl(lease, self.lease_seq)

    async def tok(self, *texts: str) -> None:
        """One record with one token and one delta for each text."""
        await self.append([Delta(text) for text in texts], [0] * len(texts))

    async def append(self, deltas: list[Delta], of: list[int]) -> None:
        """One record with a token of each choice in `of`."""
        ids = list(range(self.n, self.n + len(of)))
        record = Tok(self.lease_seq, self.n, ids, deltas, of if any(of) else [])
        fence = fence_headers(self.lease_seq, subjects.output_ctl(self.tenant, self.rid))
        subject = subjects.output_tok(self.tenant, self.rid)
        ack = await self.js.publish(subject, encode(record), headers=fence)
        assert ack.stored, ack
        self.n += len(of)

    async def end(self, end: End) -> None:
        await self._ctl(end, self.lease_seq)

    async def give_back(self, record: Failed | Handoff) -> None:
        """Ends the attempt, but not the request."""
        self.lease_seq = await self._ctl(record, self.lease_seq)

    async def settle(self) -> None:
        """Takes its message out of the queue, as an ack does."""
        subject = subjects.request_of_any_model(self.tenant, self.rid)
        stored = await self.js.last(REQUESTS, subject)
        assert stored is not None
        assert await self.js.delete(REQUESTS, stored.seq)

    async def _ctl(self, record: CtlRecord, expected: int) -> int:
        subject = subjects.output_ctl(self.tenant, self.rid)
        ack = await self.js.publish(subject, encode(record), headers=expect_headers(expected))
        assert ack.stored, ack
        return ack.seq


class Backend:
    """What stands behind the edge: a leader's heartbeat every 100 ms, and the requests that reach the queue."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.js = JetStream(bus)
        self.log = OutputLog(self.js)
        self.models = [ModelState(card(), 1, 4, 4, 0.0, idle=1)]
        self.hints: list[RequestId] = []
        self.beats: list[EdgeBeat] = []
        self._published: list[tuple[TenantKey, RequestId]] = []
        self._attempts: asyncio.Queue[Attempt] = asyncio.Queue()
        bus.subscribe(subjects.REQUESTS_ALL, self._on_request)
        bus.subscribe(subjects.CANCEL_ALL, self._on_hint)
        bus.subscribe(subjects.EDGE, self._on_beat)
        self.leading = asyncio.create_task(self._lead())

    @property
    def arrivals(self) -> int:
        """Requests that were published."""
        return len(set(self._published))

    async def assert_each_was_stored_once(self, last_seq_before: int) -> None:
        """What was published again was not stored again."""
        if len(self._published) > self.arrivals:
            _, last_seq = await self.js.bounds(REQUESTS)
            assert last_seq - last_seq_before <= self.arrivals, self._published

    async def attempt(self, *, lease: bool = True) -> Attempt:
        """The next request that was published, once it is stored: what is heard on its way need not be yet."""
        async with asyncio.timeout(15):
            attempt = await self._attempts.get()
            subject = subjects.request_of_any_model(attempt.tenant, attempt.rid)
            while await self.js.last(REQUESTS, subject) is None:
                await asyncio.sleep(0.005)
        if lease:
            await attempt.lease()
        return attempt

    async def end_of(self, attempt: Attempt) -> End:
        """The END in the log, once there is one."""
        async with asyncio.timeout(15):
            while True:
                last = await self.log.last_ctl(attempt.tenant, attempt.rid)
                if last is not None and isinstance(last.record, End):
                    return last.record
                await asyncio.sleep(0.01)

    async def _lead(self) -> None:
        while True:
            self.bus.publish(subjects.LEADER, dispatch.encode(Leader("s", 1, 7, self.models)))
            await asyncio.sleep(0.1)

    def _on_request(self, subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
        parsed = subjects.parse_request(subject)
        assert parsed is not None
        # The same publish twice is one request, and the stream keeps one.
        name = (parsed.tenant, parsed.rid)
        if name not in self._published:
            self._attempts.put_nowait(Attempt(self.js, parsed.tenant, parsed.rid, headers, payload))
        self._published.append(name)

    def _on_beat(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        self.beats.append(dispatch.decode_edge_beat(payload))

    def _on_hint(self, subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        parsed = subjects.parse_cancel(subject)
        assert parsed is not None
        self.hints.append(parsed[1])


@dataclass
class World:
    """An edge that serves, and what is behind it."""

    settings: Settings
    url: str
    port: int
    edge: Edge
    backend: Backend
    failures: list[Exception]

    @property
    def openai(self) -> AsyncOpenAI:
        """The official client, without its retries."""
        http = DefaultAsyncHttpxClient(verify=TLS)
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=http)

    @property
    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=30, verify=TLS)


async def raw_stream(port: int, **fields: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A streaming chat over a bare socket, for clients that misbehave."""
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True, **fields}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


@contextlib.asynccontextmanager
async def backend_on(settings: Settings, *, has_streams: bool = True) -> AsyncIterator[Backend]:
    """A backend on a connection of its own, and the streams, as if a scheduler had been there."""
    failures: list[Exception] = []
    bus = await Bus.connect(settings.nats_url, name="backend", fail=failures.append)
    last_seq = 0
    if has_streams:
        await ensure_streams(JetStream(bus), settings)
        _, last_seq = await JetStream(bus).bounds(REQUESTS)
    backend = Backend(bus)
    try:
        yield backend
        await backend.assert_each_was_stored_once(last_seq)
    finally:
        backend.leading.cancel()
        await bus.close()
    assert not failures


@contextlib.asynccontextmanager
async def edge_at(
    settings: Settings,
    backend: Backend,
    name: str = "edge-test",
    images: Images | None = None,
    tracer: Tracer | None = None,
) -> AsyncIterator[World]:
    """An edge that is ready, on a connection of its own; there may be several at one backend."""
    failures: list[Exception] = []
    bus = await Bus.connect(settings.nats_url, name=name, fail=failures.append)
    edge = Edge(settings, bus, name=name, fail=failures.append, images=images, tracer=tracer)
    server = Server(edge, linger_s=0.1, shutdown_timeout_s=5)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.accepting.wait()
    ready = asyncio.Event()
    edge.start()
    edge.when_ready(ready.set)
    await ready.wait()
    try:
        yield World(settings, f"http://127.0.0.1:{port}", port, edge, backend, failures)
    finally:
        server.should_exit = True
        edge.cut_off()
        await serving
        await edge.close(5)
        await bus.close()
    assert not failures


@contextlib.asynccontextmanager
async def edge_on(settings: Settings) -> AsyncIterator[World]:
    """An edge that is ready, and its backend."""
    async with backend_on(settings) as backend, edge_at(settings, backend) as world:
        yield world


def post(world: World, headers: dict[str, str] | None = None, **fields: Any) -> asyncio.Task[httpx.Response]:
    """A client that leaves when it is cancelled."""

    async def ask() -> httpx.Response:
        async with world.http as http:
            return await http.post(CHAT, json={**STREAMED, **fields}, headers=headers)

    return asyncio.create_task(ask())


def read(world: World, rid: str, headers: dict[str, str] | None = None) -> asyncio.Task[httpx.Response]:
    async def ask() -> httpx.Response:
        async with world.http as http:
            return await http.get(f"/v1/requests/{rid}/stream", headers=headers)

    return asyncio.create_task(ask())


async def readers_at(world: World, count: int) -> None:
    await until(lambda: len(world.edge._desk.audience.answers) == count)


async def leave(world: World, client: asyncio.Task[httpx.Response]) -> None:
    """Returns when the edge has noticed, and done what it does about it."""
    left = len(world.edge._desk.audience.answers) - 1
    client.cancel()
    await readers_at(world, left)
    await until(lambda: not world.edge._closer._tasks)
