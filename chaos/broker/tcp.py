"""The fake broker on a TCP socket, in a thread of its own: for tests and tools that connect by URL."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from chaos.broker.broker import FakeBroker
from chaos.broker.connection import Connection

HOST = "127.0.0.1"
CALL_TIMEOUT_S = 10.0
"""Nothing the thread is asked to do takes longer than milliseconds."""

T = TypeVar("T")


class ServedBroker:
    """Starts, stops and kills like the embedded broker: `start`, `stop`, `kill`, `url`, and as a context manager."""

    def __init__(self) -> None:
        self.url = ""
        self._port = 0
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-broker", daemon=True)
        self._broker = FakeBroker(now=time.time, call_at=self._call_at)

    def start(self) -> None:
        """Listens, on the same port after a kill; returns when clients can connect."""
        if not self._thread.is_alive():
            self._thread.start()
        self._run(self._listen())

    def kill(self) -> None:
        """What SIGKILL does to the real one: every connection is reset, memory is lost."""
        self._run(self._crash())

    def stop(self) -> None:
        """Kills it if it runs, and ends the thread."""
        if not self._thread.is_alive():
            return
        self._run(self._crash())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def do(self, work: Callable[[FakeBroker], T]) -> T:
        """`work(broker)` in the broker's thread; its result."""

        async def done() -> T:
            return work(self._broker)

        return self._run(done())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _listen(self) -> None:
        assert self._server is None, "the broker runs already"
        if not self._broker.up:
            self._broker.start()
        self._server = await self._loop.create_server(
            lambda: _Client(self._broker), HOST, self._port, reuse_address=True
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"nats://{HOST}:{self._port}"

    async def _crash(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._broker.kill()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    def _call_at(self, when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.0, when - time.time()), call)


class _Client(asyncio.Protocol):
    """One accepted socket."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._broker.up:
            transport.abort()
            return
        self._connection = self._broker.connect(transport.write, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.feed(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._connection is not None:
            self._connection.closed()
