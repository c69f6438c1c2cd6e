"""What the simulation does to processes is what a kernel and a network do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from chaos.broker import FakeBroker
from chaos.loop import NOBODY, VirtualLoop, WorldStuck
from chaos.network import Network
from chaos.processes import Machine, Process
from chaos.virtual import EPOCH_S, unix_s, virtual
from infra.lifecycle import RoleContext
from infra.settings import Settings
from infra.tracing import NoTracer, Tracer

SETTINGS = Settings.model_construct(nats_url="nats://broker:4222", drain_timeout_s=1.0)


class Bench:
    """A loop, a broker and one machine."""

    def __init__(self, serve: Callable[[RoleContext], Awaitable[None]]) -> None:
        self.loop = VirtualLoop()
        self.ends: list[tuple[int, BaseException | None]] = []
        self.broker = FakeBroker(now=lambda: unix_s(self.loop), call_at=self.call_at)
        self.loop.dial = Network(self.broker).dial
        self.machine = Machine(self, "seed", "worker", 0, serve, SETTINGS)

    def run(self, for_s: float) -> None:
        """Lets virtual time pass."""
        with virtual(self.loop, "seed", checked=False, log=None):
            self.loop.call_later(for_s, self.loop.stop, context=NOBODY)
            self.loop.run_forever()

    def tracer_of(self, _process: Process) -> Tracer:
        return NoTracer()

    def close(self) -> None:
        self.process.end()
        self.loop.unwind()
        self.loop.close()

    def call_at(self, at: float, ring: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_at(at - EPOCH_S, ring, context=NOBODY)

    @property
    def process(self) -> Process:
        assert self.machine.process is not None
        return self.machine.process

    def tell(self, who: str, what: str) -> None: ...

    def started(self, process: Process) -> None: ...

    def died(self, process: Process) -> None: ...

    def surprised(self, what: str) -> None:
        raise AssertionError(what)

    def ended(self, process: Process, code: int, error: BaseException | None) -> None:
        self.ends.append((code, error))


async def forever(context: RoleContext) -> None:
    context.ready()
    await context.stop.wait()


def test_time_jumps_to_the_next_timer_and_a_world_without_one_is_stuck() -> None:
    loop = VirtualLoop()
    began = loop.time()
    loop.run_until_complete(asyncio.sleep(3600.0))
    assert loop.time() == began + 3600.0
    with pytest.raises(WorldStuck):
        loop.run_until_complete(loop.create_future())
    loop.unwind()
    loop.close()


def test_a_killed_process_runs_nothing_any_more_not_even_its_finally() -> None:
    said: list[str] = []

    async def serve(context: RoleContext) -> None:
        context.ready()
        try:
            while True:
                said.append("alive")
                await asyncio.sleep(1.0)
        finally:
            said.append("finally")

    bench = Bench(serve)
    bench.machine.start()
    bench.run(1.5)
    bench.process.kill()
    bench.run(10.0)
    assert said == ["alive", "alive"]
    assert not bench.process.alive
    bench.close()


def test_a_process_can_be_killed_between_two_callbacks_of_one_moment() -> None:
    said: list[int] = []

    async def serve(context: RoleContext) -> None:
        context.ready()
        await asyncio.sleep(1.0)
        for number in range(10):
            said.append(number)
            await asyncio.sleep(0)

    bench = Bench(serve)
    bench.machine.start()
    bench.run(0.5)
    bench.process.kill(after_callbacks=4)
    bench.run(10.0)
    assert 0 < len(said) < 10
    bench.close()


def test_a_stopped_process_does_later_what_it_missed() -> None:
    at: list[float] = []

    async def serve(context: RoleContext) -> None:
        context.ready()
        loop = asyncio.get_running_loop()
        for due_s in (1.0, 2.0, 9.0):
            loop.call_at(loop.time() + due_s, lambda: at.append(round(loop.time() - 1000.0, 3)))
        await context.stop.wait()

    bench = Bench(serve)
    bench.machine.start()
    bench.run(0.5)
    bench.process.stop()
    bench.run(4.5)
    assert at == []
    bench.process.go_on()
    bench.run(5.0)
    assert at == [5.0, 5.0, 9.0]
    bench.close()


def test_a_term_signal_ends_it_well_and_a_raised_error_does_not() -> None:
    bench = Bench(forever)
    bench.machine.start()
    bench.run(0.5)
    bench.process.terminate()
    bench.run(1.0)
    assert bench.ends == [(0, None)]
    bench.close()

    async def broken(_context: RoleContext) -> None:
        raise ValueError("broken")

    bench = Bench(broken)
    bench.machine.start()
    bench.run(0.5)
    ((code, error),) = bench.ends
    assert code == 1
    assert isinstance(error, ValueError)
    bench.close()


def test_a_drain_that_hangs_is_cut_off_by_the_process_itself() -> None:
    async def serve(context: RoleContext) -> None:
        context.ready()
        await asyncio.Event().wait()

    bench = Bench(serve)
    bench.machine.start()
    bench.run(0.5)
    bench.process.terminate()
    bench.run(0.9)
    assert bench.ends == []
    bench.run(0.2)
    assert bench.ends == [(1, None)]
    bench.close()


class Wire(asyncio.Protocol):
    """The process's end of a raw connection."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport


def talkers() -> tuple[Bench, list[Wire]]:
    """A process that is connected to the broker by hand, and publishes what the test writes."""
    wires: list[Wire] = []

    async def serve(context: RoleContext) -> None:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, "broker", 4222)
        wire.transport.write(b'CONNECT {"verbose":false}\r\n')
        wires.append(wire)
        context.ready()
        await context.stop.wait()

    return Bench(serve), wires


def published(bench: Bench) -> list[bytes]:
    return [message.payload for message in bench.broker.messages("S")]


PUB = b"PUB s 2\r\n%b\r\n"
CREATE = b'PUB $JS.API.STREAM.CREATE.S 29\r\n{"name":"S","subjects":["s"]}\r\n'


def test_what_was_written_before_a_kill_still_arrives() -> None:
    bench, wires = talkers()
    bench.machine.start()
    bench.run(1.0)
    transport = wires[0].transport
    transport.write(CREATE + PUB % b"m1")
    bench.process.kill()
    transport.write(PUB % b"m2")
    bench.run(1.0)
    assert published(bench) == [b"m1"]
    bench.close()


def test_a_partition_holds_back_and_a_reset_loses() -> None:
    bench, wires = talkers()
    bench.machine.start()
    bench.run(1.0)
    transport = wires[0].transport
    transport.write(CREATE)
    bench.run(0.1)
    bench.machine.line.cut()
    transport.write(PUB % b"m1")
    bench.run(3.0)
    assert published(bench) == []
    bench.machine.line.mend()
    bench.run(0.1)
    assert published(bench) == [b"m1"]
    transport.write(PUB % b"m2")
    for connection in list(bench.process.transports):
        connection.reset()
    bench.run(1.0)
    assert published(bench) == [b"m1"]
    bench.close()


def test_nobody_connects_to_a_broker_that_is_down() -> None:
    errors: list[OSError] = []

    async def serve(_context: RoleContext) -> None:
        try:
            await asyncio.get_running_loop().create_connection(Wire, "broker", 4222)
        except ConnectionRefusedError as error:
            errors.append(error)

    bench = Bench(serve)
    bench.broker.kill()
    bench.machine.start()
    bench.run(1.0)
    assert len(errors) == 1
    bench.close()


def test_chance_depends_on_the_seed_and_the_process_alone() -> None:
    first, second = Bench(forever), Bench(forever)
    for bench in (first, second):
        bench.machine.start()
        bench.run(0.1)
    assert first.process.randomness.random() == second.process.randomness.random()
    assert first.machine.line.latency_s() == second.machine.line.latency_s()
    assert first.process.randomness.random() != Random("seed/worker-1-1").random()
    first.close()
    second.close()
