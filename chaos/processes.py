"""Processes of a simulated system: the real roles' code, on machines that can be killed, stopped and cut off."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Literal, NoReturn, Protocol

from chaos.loop import NOBODY, PROCESS, ProcessExit, VirtualLoop
from chaos.network import ClientTransport, Line
from infra import lifecycle
from infra.lifecycle import Serve
from infra.settings import Settings
from infra.tracing import Tracer

RoleName = Literal["scheduler", "worker", "edge", "publisher"]


class World(Protocol):
    """What a machine needs of the world it stands in."""

    loop: VirtualLoop

    def tell(self, who: str, what: str) -> None:
        """A line of the story."""
        ...

    def started(self, process: Process) -> None:
        """A process was started."""
        ...

    def died(self, process: Process) -> None:
        """A process was killed."""
        ...

    def ended(self, process: Process, code: int, error: BaseException | None) -> None:
        """A process has ended by itself: with an exit code, or by what it raised."""
        ...

    def surprised(self, what: str) -> None:
        """Something happened that a correct system never does."""
        ...

    def tracer_of(self, process: Process) -> Tracer:
        """Where its spans go."""
        ...


class Process:
    """One life of one role, from its start to its end. Callbacks are its own if they run in `context`."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.id = f"{machine.name}-{number}"
        self.state: Literal["running", "stopped", "dead"] = "running"
        self.is_leaving = False
        """Whether it was asked to end."""
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self.transports: dict[ClientTransport, None] = {}
        self.parts: dict[str, Any] = {}
        """Objects of the role's code that invariants look into, by the name of their class."""
        self.on_end: dict[Callable[[], None], None] = {}
        """Called when it is gone: what the kernel does for others that were connected to it."""
        self.exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None] | None = None
        self.randomness = Random(f"{machine.world_seed}/{self.id}")
        self._signals: dict[int, Callable[[], object]] = {}
        self._piled_up: list[asyncio.Handle] = []
        self._callbacks_left: int | None = None
        self._task: asyncio.Task[int] | None = None

    def start(self, serve: Serve, settings: Settings) -> None:
        """What exec does."""
        life = lifecycle.live(serve, settings, self.id, None, self.machine.world.tracer_of(self))
        self._task = self.machine.loop.create_task(life, name=self.id, context=self.context)
        self._task.add_done_callback(self._on_done, context=self.context)

    @property
    def line(self) -> Line:
        """What connects it with the broker."""
        return self.machine.line

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.state != "dead"

    def admits(self, handle: asyncio.Handle) -> bool:
        if self.state == "running":
            if self._callbacks_left is None:
                return True
            self._callbacks_left -= 1
            if self._callbacks_left >= 0:
                return True
            self.kill()
        elif self.state == "stopped":
            self._piled_up.append(handle)
        return False

    def failed(self, what: dict[str, Any]) -> None:
        if self.exception_handler is not None and self.alive:
            self.context.copy().run(self.exception_handler, self.machine.loop, what)

    def on_signal(self, number: int, callback: Callable[[], object]) -> None:
        self._signals[number] = callback

    def kill(self, *, after_callbacks: int = 0) -> None:
        """SIGKILL: nothing of it runs any more, after so many callbacks of the present moment."""
        if after_callbacks and self.state == "running":
            self._callbacks_left = after_callbacks
        elif self.alive:
            self.end()
            self.machine.lost(self)

    def exit(self, code: int) -> NoReturn:
        """`os._exit`."""
        self.end()
        self.machine.ended(self, code, None)
        raise ProcessExit(code)

    def die_of(self, number: int) -> NoReturn:
        """A signal it sent to itself."""
        self.end()
        self.machine.lost(self)
        raise ProcessExit(number)

    def stop(self) -> None:
        """SIGSTOP."""
        if self.state == "running":
            self.state = "stopped"

    def go_on(self) -> None:
        """SIGCONT: what came meanwhile is all there at once."""
        if self.state == "stopped":
            self.state = "running"
            piled_up, self._piled_up = self._piled_up, []
            self.machine.loop.resubmit(piled_up)

    def terminate(self) -> None:
        """SIGTERM; a process that does not handle it yet just ends."""
        self.is_leaving = True
        handler = self._signals.get(signal.SIGTERM)
        if handler is None:
            self.kill()
        else:
            self.machine.loop.call_soon(handler, context=self.context)

    def _on_done(self, task: asyncio.Task[int]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        code = 1 if error is not None else task.result()
        self.end()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.machine.ended(self, code, error)

    def end(self) -> None:
        """Nothing of it runs any more, and the kernel tells those who were connected to it."""
        self.state = "dead"
        self._piled_up.clear()
        for transport in list(self.transports):
            transport.hang_up()
        self.transports.clear()
        for tell in list(self.on_end):
            tell()


class Machine:
    """Where one role runs, in one process at a time, behind one line to the broker."""

    def __init__(
        self, world: World, world_seed: str, role: RoleName, number: int, serve: Serve, settings: Settings
    ) -> None:
        self.world = world
        self.world_seed = world_seed
        self.loop = world.loop
        self.role: RoleName = role
        self.number = number
        self.name = f"{role}-{number}"
        self.line = Line(world.loop, Random(f"{world_seed}/{self.name}"))
        self.clock_skew_s = 0.0
        """How far its wall clock is off."""
        self.process: Process | None = None
        self.restart_after_s: float | None = None
        """How long a supervisor waits before it starts a process anew that has ended; None: it does not."""
        self._serve = serve
        self._settings = settings
        self._lives = 0

    def start(self) -> None:
        """A new process, unless there is one."""
        if self.process is not None and self.process.alive:
            return
        self._lives += 1
        self.process = Process(self, self._lives)
        self.process.start(self._serve, self._settings)
        self.world.started(self.process)
        self.world.tell(self.process.id, "starts")

    def lost(self, process: Process) -> None:
        """The process was killed."""
        self.world.tell(process.id, "is dead")
        self.world.died(process)
        self._restart()

    def ended(self, process: Process, code: int, error: BaseException | None) -> None:
        """The process ended by itself."""
        reason = f": {type(error).__name__}: {error}" if error is not None else ""
        self.world.tell(process.id, f"exits with {code}{reason}")
        self.world.ended(process, code, error)
        self._restart()

    def _restart(self) -> None:
        if self.restart_after_s is not None:
            self.loop.call_later(self.restart_after_s, self.start, context=NOBODY)
