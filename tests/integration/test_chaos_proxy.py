"""Each thing the proxy of the chaos runs can do to a link, seen from both of its ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from chaos.real.proxy import BOTH, CLEAR, Link, Weather

SOON_S = 20.0
NOTHING_S = 0.2
"""A loopback answers in a tenth of a millisecond: what did not come within this does not come."""


class Far:
    """A server behind the link; `accepted` has the ends it was dialled."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[End] = asyncio.Queue()
        self.ends: list[End] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ends.append(End(reader, writer))
        await self.accepted.put(self.ends[-1])

    async def dial(self, link: Link) -> End:
        self.ends.append(End(*await asyncio.open_connection("127.0.0.1", link.port)))
        return self.ends[-1]


class End:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), SOON_S)

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), NOTHING_S)
        except TimeoutError:
            return True
        return False

    async def is_reset(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), SOON_S)
        except ConnectionResetError:
            return True
        return False


@pytest.fixture
async def far() -> AsyncIterator[tuple[Far, Link]]:
    far = Far()
    server = await asyncio.start_server(far.accept, "127.0.0.1", 0)
    link = Link("worker-1", server.sockets[0].getsockname()[:2], random.Random(1))
    await link.start()
    yield far, link
    await link.stop()
    assert link.connections == 0
    for end in far.ends:
        end.writer.transport.abort()
    server.close()
    await asyncio.sleep(0)


async def connect(far: Far, link: Link) -> tuple[End, End]:
    here = await far.dial(link)
    there = await asyncio.wait_for(far.accepted.get(), SOON_S)
    return here, there


async def test_a_clear_link_carries_both_ways_and_ends(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    data = random.Random(2).randbytes(3_000_000)
    sending = asyncio.create_task(here.send(data))
    assert await there.receive(len(data)) == data
    await sending
    await there.send(b"answer")
    assert await here.receive(6) == b"answer"
    here.writer.close()
    assert await asyncio.wait_for(there.reader.read(), SOON_S) == b""


async def test_held_bytes_come_late_and_whole(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(hold=BOTH))
    await here.send(b"up")
    await there.send(b"down")
    assert await here.hears_nothing()
    assert await there.hears_nothing()
    await far[1].set(CLEAR)
    assert await there.receive(2) == b"up"
    assert await here.receive(4) == b"down"


async def test_one_direction_is_held_and_the_other_is_not(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(hold=frozenset({"down"})))
    await here.send(b"up")
    assert await there.receive(2) == b"up"
    await there.send(b"down")
    assert await here.hears_nothing()
    await far[1].set(CLEAR)
    assert await here.receive(4) == b"down"


async def test_the_end_of_a_connection_is_held_too(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(hold=BOTH))
    there.writer.transport.abort()
    assert await here.hears_nothing()
    await far[1].set(CLEAR)
    assert await asyncio.wait_for(here.reader.read(1), SOON_S) == b""


async def test_a_connection_that_lost_bytes_is_reset_when_the_black_hole_is_over(
    far: tuple[Far, Link],
) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(swallow=BOTH))
    await here.send(b"lost")
    assert await there.hears_nothing()
    await far[1].set(CLEAR)
    assert await here.is_reset()
    assert await there.is_reset()


async def test_a_connection_that_lost_nothing_goes_on(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(swallow=BOTH))
    await far[1].set(CLEAR)
    await here.send(b"still here")
    assert await there.receive(10) == b"still here"


async def test_who_dials_into_a_black_hole_is_connected_when_it_is_over(far: tuple[Far, Link]) -> None:
    await far[1].set(Weather(swallow=BOTH))
    here = await far[0].dial(far[1])
    await here.send(b"first")
    assert await here.hears_nothing()
    assert far[0].accepted.empty()
    await far[1].set(CLEAR)
    there = await asyncio.wait_for(far[0].accepted.get(), SOON_S)
    assert await there.receive(5) == b"first"


async def test_a_hidden_end_is_told_as_a_reset_when_it_is_over(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(half_open=True))
    there.writer.close()
    assert await here.hears_nothing()
    await far[1].set(CLEAR)
    assert await here.is_reset()


async def test_a_reset_reaches_both_ends(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    assert far[1].reset() == 1
    assert await here.is_reset()
    assert await there.is_reset()


async def test_nobody_listens_while_it_refuses(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(refuse=True))
    with pytest.raises(ConnectionRefusedError):
        await far[0].dial(far[1])
    await here.send(b"old connections stay")
    assert await there.receive(20) == b"old connections stay"
    await far[1].set(CLEAR)
    await connect(*far)


async def test_a_delay_is_one_delay_however_much_is_on_its_way(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(delay_s=0.3, jitter_s=0.1))
    began = time.monotonic()
    for number in range(20):
        await here.send(b"%02d" % number)
        await asyncio.sleep(0.005)
    assert await there.receive(40) == b"".join(b"%02d" % number for number in range(20))
    assert 0.3 <= time.monotonic() - began < 20 * 0.3


async def test_a_narrow_link_takes_its_time(far: tuple[Far, Link]) -> None:
    here, there = await connect(*far)
    await far[1].set(Weather(bytes_per_s=1_000_000))
    began = time.monotonic()
    await here.send(bytes(300_000))
    assert await there.receive(300_000) == bytes(300_000)
    assert time.monotonic() - began > 0.2
