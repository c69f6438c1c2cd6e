"""HTTP without a server: an edge's answers go straight to simulated clients, over simulated connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, Literal

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from chaos.loop import NOBODY, PROCESS
from chaos.network import Line, Pipe
from chaos.processes import Process
from edge.call import Call, Caller
from edge.dialect import Dialect
from edge.dialects import CHAT, COMPLETION
from edge.registry import LEADER_SILENT_S
from edge.server import LAST_WORDS_S
from edge.service import Edge
from infra.bus import Bus
from infra.lifecycle import RoleContext

DIALECTS: dict[str, Dialect] = {"chat": CHAT, "completion": COMPLETION}

UNREAD_BYTES_MAX = 2048
"""What a server and two kernels buffer for a client that does not read. Really some hundred KiB; outputs here are
short, and a slow client should meet the end of the buffers, too."""

CLIENT_ADDRESS = "192.0.2.1"
"""Without keys, limits count by address."""

Message = MutableMapping[str, Any]


async def serve(context: RoleContext) -> None:
    """What `edge.server.serve` does, with a door in place of the HTTP server."""
    settings = context.settings
    bus = await Bus.connect(settings.nats_url, name=context.id, fail=context.fail)
    edge = Edge(settings, bus, name=context.id, fail=context.fail)
    edge.start()
    await edge.first_word(LEADER_SILENT_S)
    last_words_s = min(LAST_WORDS_S, settings.drain_timeout_s / 2)
    process = PROCESS.get()
    assert isinstance(process, Process)
    door = Door(edge, process)
    edge.when_ready(context.ready)
    await context.stop.wait()
    edge.drain()
    door.is_open = False
    cutter = asyncio.get_running_loop().call_later(settings.drain_timeout_s - last_words_s, edge.cut_off)
    await door.drained(settings.drain_timeout_s - last_words_s / 2)
    cutter.cancel()
    await edge.close(last_words_s / 2)
    await bus.close()


class Door:
    """Where an edge takes connections while it serves."""

    def __init__(self, edge: Edge, process: Process) -> None:
        self.edge = edge
        self.is_open = True
        self._process = process
        self._tasks: dict[asyncio.Task[None], None] = {}
        process.parts["Door"] = self

    @staticmethod
    def of(process: Process | None) -> Door | None:
        """The door of a process that takes connections; one that is stopped takes them, too, and says nothing."""
        if process is None or not process.alive:
            return None
        door = process.parts.get("Door")
        return door if isinstance(door, Door) and door.is_open else None

    def enter(self, exchange: Exchange) -> None:
        """A connection with a request on it."""
        connection = Connection(exchange, self._process)
        process = self._process
        process.on_end[connection.lost] = None

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(self._serve(exchange, connection))
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

        process.machine.loop.call_soon(begin, context=process.context)

    async def drained(self, timeout_s: float) -> None:
        """Returns when every answer is over; those that take longer are dropped."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _answer(self, exchange: Exchange) -> Response:
        """More endpoints: choose here what the exchange asks for."""
        edge = self.edge
        caller = edge.access.identify(Headers(exchange.headers), CLIENT_ADDRESS)
        assert isinstance(caller, Caller), "nobody needs a key here"
        match exchange.verb:
            case "generate":
                call = Call(caller, exchange.headers, exchange.body)
                return await edge.generate(DIALECTS[exchange.dialect], call)
            case "stream":
                count_in = partial(edge.open_answer, caller)
                return await edge.requests.stream(caller.tenant, exchange.rid, exchange.headers, {}, count_in)
            case "cancel":
                return await edge.requests.cancel(caller.tenant, exchange.rid)

    async def _serve(self, exchange: Exchange, connection: Connection) -> None:
        process = self._process
        try:
            response = await self._answer(exchange)
            await response({"type": "http"}, connection.receive, connection.send)
        except Exception as error:  # noqa: BLE001  # an HTTP server logs it and goes on: here it is a finding
            process.machine.world.surprised(f"{process.id} raised {type(error).__name__}: {error}")
        finally:
            connection.close()
            process.on_end.pop(connection.lost, None)


class Connection:
    """The edge's end of one HTTP connection: what a server gives to an ASGI application."""

    def __init__(self, exchange: Exchange, process: Process) -> None:
        self._exchange = exchange
        self._is_gone = False
        self._is_over = False
        self._unread_bytes = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._down = Pipe(exchange.line, NOBODY, exchange.arrived)
        self._up = Pipe(exchange.line, process.context, self._on_client)
        exchange.connected(self._took, lambda: self._up.send("leaves"))

    async def receive(self) -> Message:
        """The request's body has been read; what is left is to wait for the client to leave."""
        while not (self._is_gone or self._is_over):
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Returns when the buffers have room again."""
        if self._is_gone or self._is_over:
            return
        self._unread_bytes += len(message.get("body", b""))
        self._down.send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_over = True
            self._wake()
        while self._unread_bytes > UNREAD_BYTES_MAX and not self._is_gone:
            await self._wait()

    def close(self) -> None:
        """The application has returned."""
        self._is_over = True
        self._down.send(None)

    def lost(self) -> None:
        """The process is gone: the kernel closes the connection."""
        self._down.send(None)

    def _on_client(self, _what: object) -> None:
        self._is_gone = True
        self._wake()

    def _took(self, count: int) -> None:
        self._unread_bytes -= count
        self._wake()

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


Verb = Literal["generate", "stream", "cancel"]
"""POST of a generation, GET of the stream of a request, DELETE of a request."""

Ending = Literal["complete", "broken", "refused", "left"]
"""Everything came; the connection closed before that; there was nobody to connect to; the client went away."""


class Event(msgspec.Struct, frozen=True):
    """One server-sent event: `at` is its id as (offset, index), None if it has none."""

    at: tuple[int, int] | None
    data: bytes


class Exchange:
    """One HTTP request of a client, and everything that came back.

    `rid`: of the request that a verb other than "generate" is about.
    `read_every_s` > 0: the client takes one message, then pauses. `on_event` gets each server-sent event, `on_end` is
    called once.
    """

    def __init__(
        self,
        line: Line,
        dialect: Literal["chat", "completion"],
        body: bytes,
        headers: dict[str, str],
        *,
        verb: Verb = "generate",
        rid: str = "",
        read_every_s: float = 0.0,
        on_event: Callable[[Event], None],
        on_end: Callable[[], None],
    ) -> None:
        self.line = line
        self.verb: Verb = verb
        self.rid = rid
        self.dialect = dialect
        self.body = body
        self.headers = headers
        self.status: int | None = None
        self.answer_headers: dict[str, str] = {}
        self.answer = bytearray()
        self.events: list[Event] = []
        self.ending: Ending | None = None
        self._read_every_s = read_every_s
        self._on_event = on_event
        self._on_end = on_end
        self._inbox: list[Message | None] = []
        self._is_reading = False
        self._is_whole = False
        self._rest = b""
        self._took: Callable[[int], None] = lambda _count: None
        self._leave: Callable[[], None] = lambda: None

    def ask(self, door: Door | None) -> None:
        """Sends the request to an edge."""
        if door is None:
            self._end("refused")
        else:
            door.enter(self)

    def connected(self, took: Callable[[int], None], leave: Callable[[], None]) -> None:
        """The other end says how it is told of bytes that were read and of a client that leaves."""
        self._took, self._leave = took, leave

    def leave(self) -> None:
        """The client closes the connection."""
        if self.ending is None:
            self._leave()
            self._end("left")

    def arrived(self, message: Message | None) -> None:
        """Something came over the connection; None: its end."""
        self._inbox.append(message)
        if not self._is_reading:
            self._read()

    @property
    def streams(self) -> bool:
        """Whether what comes back is an event stream."""
        return self.answer_headers.get("content-type", "").startswith("text/event-stream")

    def _read(self) -> None:
        self._is_reading = bool(self._inbox) and self.ending is None
        if not self._is_reading:
            return
        self._take(self._inbox.pop(0))
        self.line.loop.call_later(self._read_every_s, self._read, context=NOBODY)

    def _take(self, message: Message | None) -> None:
        if message is None:
            self._end("complete" if self._is_whole else "broken")
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            body: bytes = message.get("body", b"")
            self.answer += body
            self._took(len(body))
            if self.streams:
                self._parse(body)
            if not message.get("more_body", False):
                self._is_whole = True
                self._end("complete")

    def _parse(self, body: bytes) -> None:
        *frames, self._rest = (self._rest + body).split(b"\n\n")
        for frame in frames:
            at: tuple[int, int] | None = None
            for line in frame.split(b"\n"):
                if line.startswith(b"id: "):
                    offset, _, index = line[4:].partition(b"-")
                    at = (int(offset), int(index))
                elif line.startswith(b"data: "):
                    event = Event(at, line[6:])
                    self.events.append(event)
                    self._on_event(event)

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self._on_end()
