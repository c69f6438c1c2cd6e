"""One process of the system under test: started, started again when it ended, signalled, and told of to the history."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaos.real.history import Lived
from chaos.real.shape import Record
from infra.tether import tethered

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {"edge": "edge", "scheduler": "scheduler", "worker": "workers"}

RESTART_MIN_S, RESTART_MAX_S = 0.1, 5.0
"""As `penstock up` does it: the wait doubles with each start that did not get ready."""

LOG_TAIL_BYTES = 2000


class Running(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Its exit code, negative for a signal."""

    async def ready(self) -> bool:
        """Returns when it serves. False: it will not."""


Launch = Callable[[], Awaitable[Running]]


@dataclass(frozen=True)
class Installation:
    """Where the code of a process comes from: words that run a module of it, such as `python -m`, and from where."""

    words: tuple[str, ...]
    directory: Path


CHECKOUT = Installation((sys.executable, "-m"), REPOSITORY)


class Member:
    """A process by the name that it keeps over its restarts: `worker-1`."""

    def __init__(self, name: str, role: str, launch: Launch, log_path: Path, record: Record) -> None:
        self.name = name
        self.role = role
        self.launch = launch
        self.log_path = log_path
        self.is_ready = False
        self.readied = 0
        """How often it got ready."""
        self._record = record
        self._running: Running | None = None
        self._ending = False
        self._held = 0
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self._running.pid if self._running else None

    async def run(self) -> None:
        """Its life, until `end`."""
        failures = 0
        while not self._ending:
            if self._held:
                await self._changed.wait()
                continue
            self.is_ready = False
            running = self._running = await self.launch()
            self._tell("started", running.pid)
            if self._ending:  # it was not there yet for whoever ended it
                self.kill()
            watching = asyncio.create_task(self._watch(running))
            code = await running.wait()
            watching.cancel()
            failures = 0 if self.is_ready else failures + 1
            self.is_ready, self._running = False, None
            self._tell("ended", running.pid, code)
            if self._is_wanted():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._changed.wait(), min(RESTART_MIN_S * 2**failures, RESTART_MAX_S)
                    )

    def hold(self) -> None:
        """From now on it is not started again, until as many calls of `release`."""
        self._held += 1

    def release(self) -> None:
        """Takes back one `hold`."""
        self._held -= 1
        assert self._held >= 0, self.name
        self._notify()

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: it drains."""
        self._signal(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; nothing happens to one that was not paused."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """The next time it ends is the last one."""
        self._ending = True
        self._notify()

    async def wait_ready(self, within_s: float, *, after: int = 0) -> bool:
        """Whether it serves within that time, after it got ready more than `after` times."""
        deadline = time.monotonic() + within_s
        while not (self.is_ready and self.readied > after):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log_path.read_text(errors="replace")[-LOG_TAIL_BYTES:] if self.log_path.exists() else ""

    async def _watch(self, running: Running) -> None:
        if await running.ready():
            self.is_ready = True
            self.readied += 1
            self._tell("ready", running.pid)

    def _is_wanted(self) -> bool:
        return not self._ending and not self._held

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(self._running.pid, number)

    def _tell(self, what: str, pid: int, code: int | None = None) -> None:
        self._record(Lived(at=time.time(), process=self.name, pid=pid, what=what, code=code))  # type: ignore[arg-type]


class RoleLaunch:
    """Starts an edge, a scheduler or a worker. Each start has a new id: to the others it is a new process."""

    def __init__(self, name: str, role: str, settings: dict[str, str], log_path: Path) -> None:
        self.installation = CHECKOUT
        self._name = name
        self._package = PACKAGES[role]
        self._words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        self._log_path = log_path

    async def __call__(self) -> Running:
        read_end, write_end = os.pipe()
        try:
            identity = ["--id", f"{self._name}-{secrets.token_hex(2)}", "--ready-fd", str(write_end)]
            process = await start(
                [*self.installation.words, self._package, *identity, *self._words],
                self._log_path,
                directory=self.installation.directory,
                pass_fds=(write_end,),
            )
        finally:
            os.close(write_end)
        return _Role(process, read_end)


async def start(
    command: list[str], log_path: Path, *, directory: Path, pass_fds: tuple[int, ...] = ()
) -> asyncio.subprocess.Process:
    """A child that dies with us, in a session of its own, so that a Ctrl-C does not reach it before we say so."""
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *tethered(command),
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )


class _Role:
    def __init__(self, process: asyncio.subprocess.Process, ready_fd: int) -> None:
        self.pid = process.pid
        self.wait = process.wait
        self._ready_fd = ready_fd

    async def ready(self) -> bool:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._ready_fd, told.set)
        try:
            await told.wait()
            return bool(os.read(self._ready_fd, 16))
        finally:
            loop.remove_reader(self._ready_fd)
            os.close(self._ready_fd)
