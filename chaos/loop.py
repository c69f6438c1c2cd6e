"""An event loop whose time is virtual: when nothing is left to do now, the clock jumps to the next timer.

One loop runs a whole system. Each of its processes is a name in the context that callbacks run in; the loop asks that
name whether the process still runs. So a killed process stops between two callbacks and no `finally` of it runs, and
a stopped one goes on later with everything that has piled up meanwhile.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from typing import Any, Protocol, TypeVarTuple, Unpack

ROUNDS_MAX = 300_000
"""Of one world. A typical one takes 10,000; one that never ends is a bug to be reported, not to be waited for."""

START_S = 1000.0
"""The clock's first reading: like a machine's that has been up for a while, so that 0 never passes for a time."""


Arguments = TypeVarTuple("Arguments")


class Life(Protocol):
    """What the loop has to know of a process."""

    exception_handler: Any

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether `handle` may run now. What a stopped process keeps for later and a dead one drops, is its own
        affair."""
        ...

    def failed(self, what: dict[str, Any]) -> None:
        """A callback of the process raised, or a task's exception was never looked at."""
        ...

    def on_signal(self, number: int, callback: Callable[[], object]) -> None:
        """The process wants `callback` to be called on a signal."""
        ...


PROCESS: ContextVar[Life | None] = ContextVar("process", default=None)
"""Whose callback it is; None: the world's own."""


NOBODY = Context()
"""For callbacks of the world itself, network and timers of the broker included, whatever process caused them."""


class ProcessExit(BaseException):
    """Raised where a real process would not return from `os._exit` or from killing itself."""


class WorldStuck(AssertionError):
    """Nothing is left that could ever happen, or no end is in sight."""


Dial = Callable[[Any, str, int, asyncio.Protocol], Awaitable[asyncio.Transport]]
"""Opens a connection of a process to host and port, and tells the protocol. Raises OSError."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order in which they were scheduled, and timers in the order of their times."""

    _ready: deque[asyncio.Handle]  # of the base class, which does not declare it

    def __init__(self) -> None:
        super().__init__()
        self.set_debug(False)
        self.dial: Dial | None = None
        self.current: Life | None = None
        self.tasks: list[tuple[Life | None, asyncio.Task[Any]]] = []
        """Every task ever made here, with its process: what a dead one left must not be collected in mid-life."""
        self._rounds = 0
        self._now = START_S
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Timers of the same time run in the order in which they were made."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any] | Any,
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """A task of the process that runs now."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, context=context)
        if name is not None:
            task.set_name(name)
        self.tasks.append((self.current if context is None else context.get(PROCESS), task))
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tells the process whose callback it was. What nobody owns is a bug of the simulation."""
        error = context.get("exception")
        if isinstance(error, ProcessExit):
            return
        if self.current is not None:
            self.current.failed(context)
        elif "handle" in context and isinstance(error, BaseException):
            raise error

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connects the process that runs now over the simulated network."""
        assert self.dial is not None, "a world has a network"
        assert self.current is not None, "only a process connects to anything"
        protocol = protocol_factory()
        return await self.dial(self.current, host, port, protocol), protocol

    def set_exception_handler(self, handler: Any) -> None:
        """Of the process that runs now."""
        assert self.current is not None, "only a process has an exception handler"
        self.current.exception_handler = handler

    def unwind(self) -> None:
        """Closes every task that will never run again. Their `finally` blocks run in a world that is over: what they
        raise means nothing, and one that awaits has to be closed again."""
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", RuntimeWarning
            )  # of coroutines that such a task was about to await
            for _, task in self.tasks:
                coroutine: Any = task.get_coro()
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                while coroutine.cr_frame is not None:
                    with suppress(Exception, BaseExceptionGroup, asyncio.CancelledError):
                        coroutine.close()
        self.tasks.clear()

    def resubmit(self, handles: list[asyncio.Handle]) -> None:
        """What a stopped process was not given, in its order."""
        self._ready.extend(handles)

    def add_signal_handler(
        self, sig: int, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments
    ) -> None:
        """Registers with the process that runs now."""
        assert self.current is not None, "only a process gets signals"
        self.current.on_signal(sig, lambda: callback(*args))

    def _run_once(self) -> None:
        """One round: the timers that are due, then everything that is ready by then. The base class's own, without a
        selector: this is what makes time virtual."""
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2].cancelled():
                heappop(timers)
            if not timers:
                raise WorldStuck("nothing is left that could ever happen")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is None or process.admits(handle):
                self.current = process
                handle._run()
                self.current = None
        self._rounds += 1
        if self._rounds == ROUNDS_MAX:
            raise WorldStuck(f"no end after {ROUNDS_MAX} rounds")

    def _write_to_self(self) -> None:
        """There is no selector to wake up."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when their time comes; a world does not live long enough to collect many."""

    def _process_events(self, event_list: Any) -> None:
        raise NotImplementedError("there is no I/O here")
