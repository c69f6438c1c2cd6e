"""The witness of real chaos runs: it sees what is stored and what goes, through a broker that is killed, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from chaos.real.history import Line, Missed, Removed, Stored
from chaos.real.tap import Tap
from infra.broker import Broker
from infra.bus import Bus
from infra.consumers import Delivered
from infra.jetstream import JetStream
from infra.settings import load_settings
from infra.stream_set import ensure_streams
from schemas import subjects
from schemas.errors import BrokerAway
from schemas.ids import ModelKey
from schemas.output import Delta, End, Tok, encode
from schemas.streams import OUTPUT, REQUESTS, requests_consumer

MODEL = ModelKey("penstock-sim")
WITHIN_S = 20.0


def rid(number: int) -> str:
    return f"r{number:025d}"


def fail(error: Exception) -> None:
    raise error


@dataclass
class Stage:
    broker: Broker
    bus: Bus
    js: JetStream
    tap: Tap
    lines: list[Line]

    def of(self, kind: type[Line], stream: str) -> list[Line]:
        return [line for line in self.lines if isinstance(line, kind) and line.stream == stream]  # type: ignore[union-attr]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def publish(self, subject: str, payload: bytes) -> int:
        """Until it is stored; its sequence."""
        while True:
            try:
                return (await self.js.publish(subject, payload, timeout_s=1.0)).seq
            except BrokerAway:
                await asyncio.sleep(0.05)

    async def queue(self, number: int) -> int:
        subject = subjects.request("standard", MODEL, "public", rid(number))
        return await self.publish(subject, b'{"prompt":"%d"}' % number)

    async def end(self, number: int) -> int:
        return await self.publish(subjects.output_ctl("public", rid(number)), encode(End(status="ok")))

    async def deliver(self) -> Delivered:
        """The next message of the queue."""
        got: asyncio.Queue[Delivered] = asyncio.Queue()
        spec = requests_consumer("standard", MODEL, ack_wait_s=10.0, queue_max=10_000)
        await self.js.ensure_consumer(spec)
        consumer = self.js.consume(spec, got.put_nowait, lambda _unused: None)
        consumer.fetch(1, 5.0)
        delivered = await got.get()
        consumer.close()
        return delivered


@pytest.fixture
async def stage(own_broker: Broker) -> AsyncIterator[Stage]:
    lines: list[Line] = []
    bus = await Bus.connect(own_broker.url, name="test", fail=fail)
    js = JetStream(bus)
    await ensure_streams(js, load_settings({"nats_url": own_broker.url}))
    tap = await Tap.connect(own_broker.url, lines.append, fail)
    tap.start()
    yield Stage(own_broker, bus, js, tap, lines)
    await bus.close()


async def test_what_is_stored_is_told_with_the_brokers_time(stage: Stage) -> None:
    seq = await stage.queue(1)
    await stage.until(lambda: stage.of(Stored, REQUESTS))
    (line,) = stage.of(Stored, REQUESTS)
    assert isinstance(line, Stored)
    assert (line.seq, bytes(line.record)) == (seq, b'{"prompt":"1"}')
    assert 0 <= line.at - line.stored_at < WITHIN_S
    await stage.tap.finish()


async def test_who_acked_is_told_after_the_end_and_with_the_time_of_the_ack(stage: Stage) -> None:
    await stage.queue(1)
    delivered = await stage.deliver()
    await stage.end(1)
    stage.js.ack(delivered.ack)
    await stage.until(lambda: stage.of(Removed, REQUESTS))
    (line,) = stage.of(Removed, REQUESTS)
    (end,) = stage.of(Stored, OUTPUT)
    assert isinstance(line, Removed)
    assert isinstance(end, Stored)
    assert line.how == "acked"
    assert end.stored_at <= line.asked_at <= line.gone_at <= line.at
    await stage.tap.finish()


async def test_a_deletion_is_told_as_one(stage: Stage) -> None:
    seq = await stage.queue(1)
    await stage.until(lambda: stage.of(Stored, REQUESTS))
    await stage.end(1)
    assert await stage.js.delete(REQUESTS, seq)
    await stage.until(lambda: stage.of(Removed, REQUESTS))
    (line,) = stage.of(Removed, REQUESTS)
    assert isinstance(line, Removed)
    assert line.how == "deleted"
    await stage.tap.finish()


async def test_what_goes_without_an_end_is_doubted_for_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = await stage.queue(1)
    await stage.until(lambda: stage.of(Stored, REQUESTS))
    assert await stage.js.delete(REQUESTS, seq)
    looks_at = asyncio.get_running_loop().time() + 1.0
    await stage.until(lambda: asyncio.get_running_loop().time() > looks_at)
    assert not stage.of(Removed, REQUESTS)
    monkeypatch.setattr("chaos.real.tap.DOUBT_S", 0.0)
    await stage.until(lambda: stage.of(Removed, REQUESTS))
    await stage.tap.finish()


async def test_nothing_of_output_is_missed_while_the_broker_is_killed(stage: Stage) -> None:
    """The tap has no connection for a while, and what was stored meanwhile is told in order all the same."""
    stored: list[int] = []
    subject = subjects.output_tok("public", rid(1))
    for number in range(600):
        if number == 300:
            stage.broker.kill()
            stage.broker.start()
        stored.append(await stage.publish(subject, encode(Tok(1, number, [number], [Delta("x")]))))
    await stage.tap.finish()
    told = [line.seq for line in stage.of(Stored, OUTPUT) if isinstance(line, Stored)]
    assert told == sorted(told)
    assert set(told) >= set(stored)


async def test_what_came_and_went_unseen_is_counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Line] = []
    slow = await Tap.connect(stage.broker.url, lines.append, fail)
    read, may_look, looks_away = slow._read_requests, asyncio.Event(), asyncio.Event()

    async def read_when_it_may() -> bool:
        if not may_look.is_set():
            looks_away.set()
            await may_look.wait()
        return await read()

    monkeypatch.setattr(slow, "_read_requests", read_when_it_may)
    may_look.set()
    slow.start()
    await stage.queue(1)
    await stage.until(lambda: any(isinstance(line, Stored) for line in lines))
    may_look.clear()
    await looks_away.wait()
    seq = await stage.queue(2)
    await stage.js.delete(REQUESTS, seq)
    await stage.queue(3)
    may_look.set()
    await slow.finish()
    assert [(line.first, line.last) for line in lines if isinstance(line, Missed)] == [(seq, seq)]
    await stage.tap.finish()
