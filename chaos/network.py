"""The network between processes and the broker: in order, late by the moment's latency, and cut where a fault says so.

Like TCP: bytes that were written before a process was killed, or before its connection was closed, still arrive; what
is sent into a partition arrives when it is over, the end of the connection included.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from random import Random
from typing import Any, Protocol

from chaos.broker import FakeBroker
from chaos.loop import NOBODY, VirtualLoop

BROKER_HOST = "broker"

LATENCY_S = (0.00005, 0.0006)
"""Least and most of one way between two processes of one host or rack."""


class Line:
    """What connects one process with the broker, for as long as the world lasts; its connections come and go.

    `extra_s` is added to every way through it.
    """

    def __init__(self, loop: VirtualLoop, randomness: Random) -> None:
        self.loop = loop
        self.extra_s = 0.0
        self.is_cut = False
        self._uniform = randomness.uniform
        self._waiting: list[Callable[[], object]] = []

    def latency_s(self) -> float:
        """Of what is sent now."""
        return self._uniform(*LATENCY_S) + self.extra_s

    def cut(self) -> None:
        """Nothing passes any more."""
        self.is_cut = True

    def mend(self) -> None:
        """Everything that was held back goes on its way."""
        self.is_cut = False
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            self.loop.call_soon(go_on, context=NOBODY)

    def when_mended(self, go_on: Callable[[], object]) -> None:
        """Calls back, once, after the cut."""
        assert self.is_cut
        self._waiting.append(go_on)


class Pipe:
    """One way of one connection. `deliver` gets what was sent, in the receiver's context, and None for its end."""

    def __init__(self, line: Line, context: Context, deliver: Callable[[Any], None]) -> None:
        self._line = line
        self._context = context
        self._deliver = deliver
        self._on_the_way: deque[tuple[float, Any]] = deque()
        self._last_at = 0.0
        self._is_armed = False
        self._is_over = False

    def send(self, what: Any) -> None:
        """Puts bytes, or the end, on the way; nothing follows the end."""
        if self._is_over:
            return
        self._is_over = what is None
        loop = self._line.loop
        self._last_at = at = max(self._last_at, loop.time() + self._line.latency_s())
        self._on_the_way.append((at, what))
        if not self._is_armed:
            self._is_armed = True
            loop.call_at(at, self._arrive, context=NOBODY)

    def lose(self) -> None:
        """What is on the way does not arrive."""
        self._on_the_way.clear()

    def break_off(self) -> None:
        """Nothing more arrives."""
        self._is_over = True
        self.lose()

    def _arrive(self) -> None:
        """In nobody's context: a stopped or dead receiver does not keep the network from doing its part."""
        if self._line.is_cut:
            self._line.when_mended(self._arrive)
            return
        loop, queue = self._line.loop, self._on_the_way
        while queue and queue[0][0] <= loop.time():
            what = queue.popleft()[1]
            if self._context is NOBODY:
                self._deliver(what)
            else:
                loop.call_soon(self._deliver, what, context=self._context)
        self._is_armed = bool(queue)
        if queue:
            loop.call_at(queue[0][0], self._arrive, context=NOBODY)


class ClientTransport(asyncio.Transport):
    """The process's end of a connection to the broker."""

    def __init__(self, line: Line, protocol: asyncio.Protocol, context: Context) -> None:
        super().__init__()
        self._line = line
        self._protocol = protocol
        self._context = context
        self._is_closing = False
        self._held_back: list[bytes | None] | None = None
        self.up: Pipe | None = None
        self.down = Pipe(line, context, self._on_bytes)

    def write(self, data: Any) -> None:
        """The kernel takes any amount: what a process of ours has in flight is far below its buffers."""
        if not self._is_closing and self.up is not None:
            self.up.send(bytes(data))

    def close(self) -> None:
        if not self._is_closing:
            self.hang_up()
            self._line.loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    def abort(self) -> None:
        self.close()

    def hang_up(self) -> None:
        """What the kernel does when the process closes the connection, or dies."""
        self._is_closing = True
        self.down.break_off()
        if self.up is not None:
            self.up.send(None)
            self.up = None

    def reset(self) -> None:
        """The network ends the connection: what is on the way is lost, and both ends find out."""
        up, self.up = self.up, None
        if up is not None:
            for pipe in (up, self.down):
                pipe.lose()
                pipe.send(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        if self._held_back is None:
            self._held_back = []

    def resume_reading(self) -> None:
        held_back, self._held_back = self._held_back, None
        for data in held_back or ():
            self._on_bytes(data)

    def _on_bytes(self, data: bytes | None) -> None:
        if self._held_back is not None:
            self._held_back.append(data)
        elif data is None:
            if not self._protocol.eof_received():
                self.close()
        elif not self._is_closing:
            self._protocol.data_received(data)


class Endpoint(Protocol):
    """A process as the network knows it."""

    context: Context
    transports: dict[ClientTransport, None]

    @property
    def line(self) -> Line: ...


class Network:
    """Where everybody finds the broker."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    async def dial(self, end: Endpoint, host: str, _port: int, protocol: asyncio.Protocol) -> ClientTransport:
        """Connects a process to the broker. Raises ConnectionRefusedError where that is down."""
        assert host == BROKER_HOST, f"there is nothing called {host}"
        line = end.line
        await asyncio.sleep(2 * line.latency_s())
        if line.is_cut:
            mended: asyncio.Future[None] = line.loop.create_future()
            line.when_mended(partial(_resolve, mended))
            await mended
        if not self._broker.up:
            raise ConnectionRefusedError("the broker is down")
        transport = ClientTransport(line, protocol, end.context)
        # In nobody's context: what the broker sets its timers for does not depend on who connects.
        connection = Context().run(
            self._broker.connect, transport.down.send, partial(transport.down.send, None)
        )
        transport.up = Pipe(
            line, NOBODY, lambda data: connection.closed() if data is None else connection.feed(data)
        )
        end.transports[transport] = None
        protocol.connection_made(transport)
        return transport


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
