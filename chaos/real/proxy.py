"""A TCP proxy for one link, which can do to its connections what networks do.

Bytes are never reordered and none is ever missing from the middle of a connection that goes on: where a fault has
swallowed some, the connection is reset when the fault is over, as TCP itself would end it.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

from infra.ports import free_port

CHUNK_BYTES = 64 * 1024
CHUNKS_IN_FLIGHT_MAX = 64
"""Of each direction: with a delay of 0.5 s these still carry 8 MB/s."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: close sends RST and throws away what was not sent."""

Way = Literal["up", "down"]
"""From who dials to who listens, and back."""

BOTH: frozenset[Way] = frozenset({"up", "down"})


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How a link behaves now. The default carries everything at once."""

    swallow: frozenset[Way] = frozenset()
    """Reads and throws away, as a gateway does that forgot the connection: the sender sees nothing of it."""
    hold: frozenset[Way] = frozenset()
    """Carries nothing, and what was sent arrives when this is over: a partition shorter than TCP's patience."""
    refuse: bool = False
    """Nobody listens: who dials gets a RST. Connections that are there stay."""
    half_open: bool = False
    """When one end goes away the other is not told."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Each chunk is `delay_s` late, and up to `jitter_s` more."""
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""


CLEAR = Weather()


class Link:
    """Listens on a port of 127.0.0.1 and carries to `target`, a (host, port). `name` says whose link it is."""

    def __init__(self, name: str, target: tuple[str, int], rng: random.Random) -> None:
        self.name = name
        self.target = target
        self.port = free_port()
        self.weather = CLEAR
        self.rng = rng
        self.changed = asyncio.Event()
        self._connections: dict[_Connection, None] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. Raises OSError."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=CHUNK_BYTES, backlog=256
        )

    async def set(self, weather: Weather) -> None:
        """From now on. What a fault that is over has damaged is reset."""
        before, self.weather = self.weather, weather
        for connection in list(self._connections):
            if connection.is_damaged(weather):
                connection.reset()
        if weather.refuse and self._server is not None:
            self._server.close()
            self._server = None
        elif before.refuse and not weather.refuse:
            await self.start()
        self.changed.set()
        self.changed = asyncio.Event()

    def reset(self) -> int:
        """RST to both ends of every connection; how many there were."""
        connections = list(self._connections)
        for connection in connections:
            connection.reset()
        return len(connections)

    def drop_far(self) -> int:
        """Goes away from the listener alone, with RST, on every connection; how many there were."""
        connections = list(self._connections)
        for connection in connections:
            connection.drop_far()
        return len(connections)

    @property
    def connections(self) -> int:
        """How many it carries now."""
        return len(self._connections)

    async def stop(self) -> None:
        """Ends all of it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [connection.task for connection in self._connections]
        self.reset()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self, task, reader, writer)
        self._connections[connection] = None
        try:
            await connection.run()
        except* (OSError, asyncio.CancelledError):
            pass  # an end is gone, or both are reset: either is how connections end
        finally:
            connection.abort()
            del self._connections[connection]


class _Connection:
    def __init__(
        self,
        link: Link,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.task = task
        self._link = link
        self._near = (reader, writer)
        self._far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._swallowed: dict[Way, None] = {}
        self._hides_end = False

    async def run(self) -> None:
        # Whoever dials into a black hole is never connected to anybody, and never told.
        while self._link.weather.hold or self._link.weather.swallow:
            await self._link.changed.wait()
        self._far = await asyncio.open_connection(*self._link.target, limit=CHUNK_BYTES)
        async with asyncio.TaskGroup() as ways:
            ways.create_task(self._carry("up", self._near[0], self._far[1]))
            ways.create_task(self._carry("down", self._far[0], self._near[1]))

    def is_damaged(self, weather: Weather) -> bool:
        """Whether it cannot go on in this weather: bytes of it are lost, or an end that was hidden is not any more."""
        lost = any(way not in weather.swallow for way in self._swallowed)
        return lost or (self._hides_end and not weather.half_open)

    def reset(self) -> None:
        self.abort()
        self.task.cancel()

    def abort(self) -> None:
        _reset(self._near[1])
        self.drop_far()

    def drop_far(self) -> None:
        if self._far is not None:
            _reset(self._far[1])

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its end. Two tasks, so that a delay does not limit how much is on its way."""
        flying: asyncio.Queue[_Flying] = asyncio.Queue(CHUNKS_IN_FLIGHT_MAX)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._depart(way, reader, flying))
            tasks.create_task(self._land(way, flying, writer))

    async def _depart(self, way: Way, reader: asyncio.StreamReader, flying: asyncio.Queue[_Flying]) -> None:
        clock = asyncio.get_running_loop().time
        due, data = 0.0, b"-"
        while data:
            broken = None
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError as error:
                data, broken = b"", error
            weather = self._link.weather
            if not data and (weather.half_open or way in weather.swallow):
                await self._hide_end()
            elif way in weather.swallow:
                self._swallowed[way] = None
            else:
                due = max(due, clock() + weather.delay_s + self._link.rng.uniform(0, weather.jitter_s))
                await flying.put(_Flying(due, data, broken))

    async def _land(self, way: Way, flying: asyncio.Queue[_Flying], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data, broken = await flying.get()
            if (wait_s := due - clock()) > 0:
                await asyncio.sleep(wait_s)
            while way in self._link.weather.hold:
                await self._link.changed.wait()
            if broken is not None:
                raise broken
            if not data:
                writer.write_eof()
                return
            if way in self._link.weather.swallow:
                self._swallowed[way] = None
                continue
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                if not self._link.weather.half_open:
                    raise
                await self._hide_end()
            if self._link.weather.bytes_per_s:
                await asyncio.sleep(len(data) / self._link.weather.bytes_per_s)

    async def _hide_end(self) -> NoReturn:
        """Until `Link.set` finds the connection damaged."""
        self._hides_end = True
        while True:
            await self._link.changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()


class _Flying(NamedTuple):
    due: float
    data: bytes
    """Empty: the end of this direction, broken off if `broken` says by what."""
    broken: OSError | None
