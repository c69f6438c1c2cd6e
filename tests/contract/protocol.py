"""The protocol's publishes, by hand, and what the contract tests share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator

from chaos.broker.tcp import ServedBroker
from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream, PubAck, expect_headers, fence_headers
from infra.output_log import OutputLog
from schemas import subjects
from schemas.output import CtlRecord, Delta, Lease, Tok, encode
from schemas.streams import output_stream, requests_stream

AnyBroker = Broker | ServedBroker
"""What a contract holds for: both start, stop and are killed alike, and have a URL."""

QUEUE_MAX = 3
OUTPUT_BYTES_MAX = 256 << 10
PROGRESS_INTERVAL_S = 0.125


class Contract:
    """One connection and the publishes that edges and workers make, one at a time."""

    tenant = "public"
    model = "m"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.js = JetStream(bus)
        self.log = OutputLog(self.js)

    async def streams(self) -> None:
        await self.js.ensure_stream(requests_stream(queue_max=QUEUE_MAX, queue_bytes_max=1 << 20))
        await self.js.ensure_stream(
            output_stream(
                output_bytes_max=OUTPUT_BYTES_MAX, retention_s=60, first_seq=int(time.time() * 1000) * 1000
            )
        )

    async def request(self, rid: str, body: bytes = b"{}", *, headers: bytes = b"") -> PubAck:
        subject = subjects.request("standard", self.model, self.tenant, rid)
        return await self.js.publish(subject, body, headers=headers)

    async def ctl(self, rid: str, record: CtlRecord, expected: int) -> PubAck:
        subject = subjects.output_ctl(self.tenant, rid)
        return await self.js.publish(subject, encode(record), headers=expect_headers(expected))

    async def tok(self, rid: str, lease_seq: int, off: int, text: str = "x") -> PubAck:
        record = Tok(lease=lease_seq, off=off, ids=[off], deltas=[Delta(text)])
        fence = fence_headers(lease_seq, subjects.output_ctl(self.tenant, rid))
        return await self.js.publish(subjects.output_tok(self.tenant, rid), encode(record), headers=fence)


def lease(nonce: str = "a", attempt: int = 1) -> Lease:
    """A lease record with nothing special about it."""
    return Lease(nonce=nonce, worker="w1", attempt=attempt, cause="first")


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Waits for `condition` to hold; fails loudly when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def progress_until(contract: Contract, ack: str, done: Callable[[], object]) -> float:
    """Says progress of a delivery until `done`. How long it was silent at most: where that is an ack wait, the machine
    paused, and nothing follows from what the broker did."""
    silent_s, said_at = 0.0, time.monotonic()
    while not done():
        contract.js.progress(ack)
        now = time.monotonic()
        silent_s, said_at = max(silent_s, now - said_at), now
        await asyncio.sleep(PROGRESS_INTERVAL_S)
    return max(silent_s, time.monotonic() - said_at)


@contextlib.contextmanager
def paused(broker: AnyBroker) -> Iterator[None]:
    """SIGSTOP and SIGCONT: the broker's sockets stay open, and nothing behind them moves."""
    if isinstance(broker, ServedBroker):
        broker.do(lambda fake: fake.pause())
        try:
            yield
        finally:
            broker.do(lambda fake: fake.resume())
        return
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        # The signal takes its time: on a busy machine a thread that has not seen it yet goes on answering. The parent
        # is told once the last thread stands still.
        os.waitid(os.P_PID, broker.pid, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


async def restart(broker: AnyBroker, bus: Bus) -> None:
    """kill -9 and a new start on the same store; returns when `bus` has a new connection.

    Not when it is connected: for a moment it may not have noticed the kill, and what it sends then is lost.
    """
    before = bus.connected_since
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)
    await until(lambda: bus.connected_since not in (None, before))


class Wire:
    """A connection without any client library: bytes in, bytes out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, broker: AnyBroker, **options: object) -> Wire:
        host, port = broker.url.removeprefix("nats://").split(":")
        wire = cls(*await asyncio.open_connection(host, int(port)))
        assert (await wire._reader.readline()).startswith(b"INFO {")
        said = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, **options}
        wire.send(b"CONNECT " + json.dumps(said).encode() + b"\r\n")
        return wire

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answers(self, data: bytes = b"") -> bytes:
        """Everything the server says to `data`; complete, because a PING goes after it."""
        self.send(data + b"PING\r\n")
        return (await self._said(b"PONG\r\n")).removesuffix(b"PONG\r\n")

    async def last_words(self, data: bytes) -> bytes:
        """What the server says to `data` before it closes the connection."""
        self.send(data)
        async with asyncio.timeout(10):
            return (await self._reader.read(-1)).replace(b"PING\r\n", b"")

    async def until(self, end: bytes) -> bytes:
        """What the server says up to and including `end`."""
        return await self._said(end)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _said(self, end: bytes) -> bytes:
        async with asyncio.timeout(10):
            # A real server also measures the round trip now and then.
            return (await self._reader.readuntil(end)).replace(b"PING\r\n", b"")
