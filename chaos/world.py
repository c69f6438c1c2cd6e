"""One world: a whole system in virtual time, what its plan does to it, and whether it keeps its promises.

Safety is checked with every record that the broker stores and every event that a client reads. Then everything is
mended, and the system has to come to an end with all requests and to rest, within a bounded time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from chaos import http, steps
from chaos.bounds import Bounds
from chaos.broker import FakeBroker
from chaos.cancels import Canceller
from chaos.clients import NatsClient, Reader
from chaos.keys import check_keys
from chaos.ledger import Ledger
from chaos.loop import NOBODY, VirtualLoop
from chaos.network import Network
from chaos.plan import LEADER, LETTER_MODEL, RUNNER, Plan, Step
from chaos.processes import Machine, Process, RoleName
from chaos.rest import Baseline
from chaos.traces import Traces
from chaos.virtual import EPOCH_S, unix_s, virtual
from chaos.watcher import Watcher
from chaos.weather import Weather
from edge.counts.leftover import LOOK_EVERY_S
from infra.lifecycle import Serve
from infra.settings import Settings
from infra.tracing import Tracer
from scheduler.__main__ import serve as serve_scheduler
from scheduler.core import Core
from schemas import subjects
from schemas.streams import REQUESTS
from workers.service import EngineStalled
from workers.service import serve as serve_worker

UP_S = 10.0
"""A healthy system of a few processes comes up within one."""

SETTLED_S = 0.2
"""After it is up: a scheduler may still make consumers."""

OVER_S = 60.0
"""After everything is mended, all requests end within this: elections, reconnects, a few ack waits, and the longest
time-out of the worlds' settings stay below."""

REST_S = 16.0 + LOOK_EVERY_S
"""What is left of the load is gone by then: reads that nobody waits for, offers, and attempts of requests that others
have settled, of which not even the log is left: a worker gives those up at their time-out. An edge that counts a
request whose reader left, and whose END was lost on its way, looks that seldom."""

POLL_S = 0.05

SERVES: dict[RoleName, Serve] = {
    "scheduler": serve_scheduler,
    "worker": serve_worker,
    "edge": http.serve,
    "publisher": NatsClient.serve,
}


class Result(NamedTuple):
    """What became of a world. `violation`: the first broken promise, as (invariant, what)."""

    seed: int
    violation: tuple[str, str] | None
    exercised: Counter[str]
    virtual_s: float
    story: list[str]


class World:
    """One seed's world. `with_story`: every line of it is kept; `checked`: state machines are checked all the time."""

    def __init__(self, plan: Plan, *, with_story: bool = False, checked: bool = False) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.randomness = Random(f"{plan.seed}/network")
        self.count: Counter[str] = Counter()
        self.violation: tuple[str, str] | None = None
        self.story: list[str] = []
        self.lives: dict[str, Process] = {}
        """Every process that was ever started here, by its id."""
        self.readers: list[Reader] = []
        self.cancellers: list[Canceller] = []
        self.sending: list[asyncio.Task[None]] = []
        self.weather = Weather(self.randomness, self.count)
        self.broker = FakeBroker(
            now=lambda: unix_s(self.loop), call_at=self._call_at, faults=self.weather.faults
        )
        self.loop.dial = Network(self.broker).dial
        settings = Settings.model_construct(engine="simulator", model=LETTER_MODEL, **plan.shape.settings)
        self.ledger = Ledger(self.loop.time, self.violated, self.count, attempts_max=settings.attempts_max)
        self.traces = Traces(plan.seed, self.violated, self.count)
        self.watcher = Watcher(self, self.violated, strikes_max=settings.strikes_max)
        self.ledger.on_ctl.append(self.watcher.on_ctl)
        self.machines = self._machines(settings)
        self._bounds = Bounds(self, plan.shape, settings, self.violated)
        self._may_hang = any("hang_at_token" in step.what.get("body", "") for step in plan.steps)
        self._tells = with_story
        self._checked = checked
        self._is_mended = self._is_buried = False
        self._armed: dict[str, list[Step]] = {}
        self._undo: dict[int, Callable[[], object]] = {}
        self._last_undo = 0
        self._began_at = self.loop.time()

    def run(self) -> Result:
        """Lives through the whole plan."""
        self.broker.on_stored(self._on_stored)
        self.broker.on_removed(self._on_removed)
        log = self.tell if self._tells else None
        with virtual(self.loop, str(self.plan.seed), checked=self._checked, log=log):
            life = self.loop.create_task(self._live(), context=NOBODY)
            life.add_done_callback(lambda _: self.loop.stop())
            try:
                self.loop.run_forever()
            except Exception as error:  # noqa: BLE001  # a finding, whoever raised it: the world goes on to its burial
                self.violated("world", f"{type(error).__name__}: {error}")
            if life.done() and (raised := life.exception()) is not None:
                self.violated("world", f"{type(raised).__name__}: {raised}")
            virtual_s = self.loop.time() - self._began_at
            self._is_buried = True
            self.loop.call_soon(self._bury, context=NOBODY)
            self.loop.run_forever()
        self.loop.close()
        return Result(self.plan.seed, self.violation, self.count, virtual_s, self.story)

    # What steps, processes and checks use.

    def machine(self, name: str) -> Machine:
        """A machine by its name, or by what it is just now."""
        if name == RUNNER:
            runner = self.watcher.newest_runner()
            return self.machines["worker-0"] if runner is None else runner.machine
        if name == LEADER:
            schedulers = [machine for machine in self.machines.values() if machine.role == "scheduler"]
            leading = [one for one in schedulers if one.process and one.process.alive and _leads(one.process)]
            return (leading or schedulers)[0]
        return self.machines[name]

    def tell(self, who: str, what: str) -> None:
        """Notes a line of the story."""
        if self._tells and not self._is_buried:
            self.story.append(f"{self.loop.time() - self._began_at:9.4f}  {who:14} {what}")

    def violated(self, invariant: str, what: str) -> None:
        """A promise was broken: the world ends here."""
        if self.violation is None and not self._is_buried:
            self.violation = (invariant, what)
            self.tell("VIOLATION", f"{invariant}: {what}")
            self.loop.stop()

    def surprised(self, what: str) -> None:
        """Something happened that a correct system never does."""
        self.violated("crash", what)

    def tracer_of(self, process: Process) -> Tracer:
        """Where its spans go."""
        return self.traces.tracer_of(process)

    def count_one(self, what: str) -> None:
        """Notes that something was exercised."""
        self.count[what] += 1

    def started(self, process: Process) -> None:
        """A process was started."""
        self.lives[process.id] = process
        self.watcher.disturbed(process.machine.name)

    def died(self, process: Process) -> None:
        """A process ended as nobody wanted it."""
        self.watcher.disturbed(process.machine.name)
        self.seems_dead(process.machine)

    def seems_dead(self, machine: Machine) -> None:
        """Nothing is heard of a machine any more: if it is a worker's, that may count against its requests."""
        self.watcher.worker_deaths += machine.role == "worker"

    def ended(self, process: Process, code: int, error: BaseException | None) -> None:
        """A process ended by itself: right if it was told to, or if its engine was made to hang."""
        if code:
            self.died(process)
        if isinstance(error, EngineStalled) and self._may_hang:
            self.count["engine stalled"] += 1
        elif error is not None:
            self.violated("crash", f"{process.id} crashed: {type(error).__name__}: {error}")
        elif code and process.is_leaving:
            self.count["drained late"] += 1
        elif code or not process.is_leaving:
            self.violated("crash", f"{process.id} left with {code}")
        else:
            self.count["drained"] += 1

    def later(self, after_s: float, do: Callable[..., object], *args: Any) -> None:
        """Does something after a while, whatever process is running now."""
        self.loop.call_later(after_s, do, *args, context=NOBODY)

    def until(
        self, for_s: float, undo: Callable[[], object], machine: str | None = None, *, deafens: bool = False
    ) -> None:
        """Takes a fault (of a machine) back after a while, or when all is mended. `deafens`: messages get lost."""
        self.watcher.disturbed(machine, deafens=deafens)
        over = self.watcher.begun(machine)

        def take_back() -> None:
            self.watcher.disturbed(machine, deafens=deafens)
            over()
            undo()

        self._last_undo = number = self._last_undo + 1
        self._undo[number] = take_back
        self.later(for_s, self._take_back, number)

    def redeliver(self, count: int) -> None:
        """The broker delivers again what somebody holds."""
        for message in self.broker.messages(REQUESTS)[:count]:
            named = subjects.parse_request(message.subject)
            assert named is not None, "every subject in this world names a request"
            # As `schemas.streams.requests_consumer` calls them.
            if self.broker.redeliver(REQUESTS, f"{named.klass}-{named.model}", message.seq):
                self.count["spurious redelivery"] += 1

    # The life of a world.

    async def _live(self) -> None:
        for machine in self.machines.values():
            self.later(self.randomness.uniform(0.0, 0.05), machine.start)
        if not await self._comes_true(self._is_up, UP_S):
            self.violated("liveness", f"not up after {UP_S:g} s")
            return
        self.tell("world", "is up")
        await asyncio.sleep(SETTLED_S)
        baseline = Baseline(self.machines, self.loop)
        self.watcher.touched.clear()
        for step in self.plan.steps:
            self.later(step.at_s, self._when_due, step)
        await asyncio.sleep(self.plan.mended_at_s + 0.01)
        self._mend()
        if not await self._comes_true(self._is_over, OVER_S):
            self.violated("liveness", f"not over {OVER_S:g} s after everything was mended: {self._left()}")
            return
        for reader in self.readers:
            reader.check(self.ledger)
        self._check_ends()
        check_keys(self.readers, self.ledger, self.violated, self.count)
        if not await self._comes_true(lambda: not baseline.excess() and not self._bounds.counted(), REST_S):
            what = f"{baseline.excess()}, counted {self._bounds.counted()}"
            self.violated("I12", f"not at rest after {REST_S:g} s: {what}")
        none_died = all(process.alive for process in self.lives.values())
        self.traces.check(self.ledger, self._life_of, none_died=none_died)
        self.tell("world", "is at rest")

    async def _comes_true(self, condition: Callable[[], bool], within_s: float) -> bool:
        until = self.loop.time() + within_s
        while not condition():
            if self.loop.time() > until:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _when_due(self, step: Step) -> None:
        if "on" in step.what:
            self._armed.setdefault(step.what["on"], []).append(step)
        else:
            self._do(step)

    def _happened(self, moment: str) -> None:
        """Steps that waited for this begin when the broker is done with what it does now: its answer is on the way."""
        for step in self._armed.pop(moment, ()):
            if not self._is_mended:
                self.count[f"on {moment}"] += 1
                self.loop.call_soon(self._do, step, context=NOBODY)

    def _do(self, step: Step) -> None:
        self.tell("plan", str(step))
        self.count[f"{step.kind}"] += 1
        if step.kind in steps.COMMANDS:
            steps.COMMANDS[step.kind](self, step.what)
        else:
            steps.FAULTS[step.kind](self, step.what)

    def _take_back(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    def _mend(self) -> None:
        """The faults are over; where it is lonely, one machine of each role has to be enough."""
        self.tell("world", "everything is mended")
        self._is_mended = True
        for number in list(self._undo):
            self._take_back(number)
        lonely = self.plan.shape.is_lonely
        for machine in self.machines.values():
            if lonely and machine.number and machine.role != "publisher":
                machine.restart_after_s = None
                if machine.process is not None and machine.process.alive:
                    machine.process.kill()
            else:
                machine.restart_after_s = machine.restart_after_s or 0.2
                machine.start()

    def _is_up(self) -> bool:
        doors = [
            http.Door.of(machine.process) for machine in self.machines.values() if machine.role == "edge"
        ]
        publisher = self.machines["publisher-0"].process
        is_there = publisher is not None and "NatsClient" in publisher.parts
        workers = sum(machine.role == "worker" for machine in self.machines.values())
        return is_there and all(
            door is not None
            and sum(model.workers for model in door.edge.registry.health(0, connected=True).models) == workers
            for door in doors
        )

    def _is_over(self) -> bool:
        return not self._left()

    def _left(self) -> list[str]:
        """What is still to come: requests in the queue, answers, confirmations."""
        queued = [message.subject for message in self.broker.messages(REQUESTS)]
        reading = [reader.who for reader in self.readers if not reader.is_over]
        sending = sum(not task.done() for task in self.sending)
        reading += [f"cancel {one.rid}" for one in self.cancellers if one.exchange.ending is None]
        return queued + reading + (["letters"] if sending else [])

    def _check_ends(self) -> None:
        for log in self.ledger.logs.values():
            if log.end is None and not log.was_lost:
                self.violated("I1", f"{log.name[1]} is neither queued nor over")
        publisher = self.machines["publisher-0"].process
        client = None if publisher is None else publisher.parts.get("NatsClient")
        for rid in client.confirmed if client is not None else ():
            if self.ledger.log_of(rid) is None:
                self.violated("I1", f"{rid} was confirmed and is unknown")
        for reader in self.readers:
            outcome = reader.exchange.ending
            if reader.gave_up:
                outcome = "broken"
            self.count[f"client {outcome if outcome != 'complete' else reader.reason or 'ok'}"] += 1

    def _life_of(self, worker: str) -> Process | None:
        """A worker's name is its process's, and something new."""
        return self.lives.get(worker.rpartition("-")[0])

    def _bury(self) -> None:
        """Nothing of this world stirs during the next one."""
        for process in self.lives.values():
            process.end()
        self.loop.unwind()
        self.loop.stop()

    # Wiring.

    def _machines(self, settings: Settings) -> dict[str, Machine]:
        shape = self.plan.shape
        counts: dict[RoleName, int] = {
            "scheduler": shape.schedulers,
            "worker": shape.workers,
            "edge": shape.edges,
            "publisher": 1,
        }
        machines = {}
        for role, count in counts.items():
            for number in range(count):
                machine = Machine(self, str(self.plan.seed), role, number, SERVES[role], settings)
                machine.clock_skew_s = self.randomness.uniform(-1, 1) * shape.clock_skew_s
                machine.restart_after_s = 0.5
                machines[machine.name] = machine
        return machines

    def _call_at(self, when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_at(when - EPOCH_S, call, context=NOBODY)

    def _on_stored(self, stream: str, seq: int, subject: str, headers: bytes, payload: bytes) -> None:
        if self._tells:
            self.tell("broker", f"{stream} {seq} {subject} {payload.decode(errors='replace')}")
        moment = self.ledger.stored(stream, seq, subject, headers, payload)
        if moment == "queued":
            self._bounds.on_queued(subject.rpartition(".")[2])
        if moment is not None:
            self._happened(moment)

    def _on_removed(self, stream: str, seq: int, subject: str, why: str) -> None:
        if self._tells:
            self.tell("broker", f"{stream} {seq} {subject} {why}")
        self.ledger.removed(stream, seq, subject, why)
        if stream == REQUESTS:
            self._happened("settled")


def _leads(scheduler: Process) -> bool:
    core = scheduler.parts.get("Core")
    return isinstance(core, Core) and core.leading
