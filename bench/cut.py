"""A network that can be cut: a TCP forwarder between one process and the broker.

Cut, it does what a dead switch does: bytes stop in both directions, nothing is closed, a new connection gets no answer.
Healed, it forwards what was sent meanwhile, also what comes too late for anybody to want it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024


class Cut:
    """Forwards a free port of 127.0.0.1 to the broker at `nats_url`, in a thread of its own."""

    def __init__(self, nats_url: str) -> None:
        broker = urlsplit(nats_url)
        assert broker.hostname is not None
        assert broker.port is not None
        self._broker = (broker.hostname, broker.port)
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._stop = asyncio.Event()
        self._connections: dict[asyncio.Task[None], None] = {}
        listening = threading.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=[self._serve(listening)], name="cut"
        )
        self._thread.start()
        assert listening.wait(10), "the forwarder did not start"

    @property
    def nats_url(self) -> str:
        """The broker, as seen through this forwarder."""
        return f"nats://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """From now on nothing passes."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """Everything passes again, what was held back first."""
        self._loop.call_soon_threadsafe(self._open.set)

    def close(self) -> None:
        """Ends every connection and the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _serve(self, listening: threading.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        listening.set()
        await self._stop.wait()
        server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._connections[task] = None
        task.add_done_callback(self._connections.pop)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        writers = [writer]
        try:
            broker_reader, broker_writer = await asyncio.open_connection(*self._broker)
            writers.append(broker_writer)
            pumps = [
                asyncio.ensure_future(self._pump(reader, broker_writer)),
                asyncio.ensure_future(self._pump(broker_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the broker is away: the client finds its connection closed
        finally:
            for one in writers:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
            await self._open.wait()
