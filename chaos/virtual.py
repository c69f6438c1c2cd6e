"""What a world takes the place of: clocks, chance, and the few calls by which a process ends itself.

The roles read them from the standard library, as every program does, so for as long as a world runs the library's own
functions are replaced, here and nowhere else. That is coarser than handing a clock to every role, but it also covers
the client library, and nothing that a role begins to use later can slip through unnoticed.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import structlog

from chaos.loop import PROCESS, VirtualLoop
from chaos.processes import Process
from edge.counts.core import Counts
from edge.relay import Relay
from infra import lifecycle
from infra.bus import Bus
from scheduler.core import Core
from workers.core import WorkerCore
from workers.engines.simulator import Simulator
from workers.tracing import Spans

EPOCH_S = 1_800_000_000.0 - 1000.0
"""Unix time when the loop's clock reads 0: any fixed day."""

PARTS = (Bus, Core, WorkerCore, Spans, Simulator)
"""Classes whose objects the invariants look into, noted with the process that makes them."""

CHECKED = (Core, WorkerCore, Counts)
"""State machines with a `check` that holds after every event."""

Tell = Callable[[str, str], None]


@contextmanager
def virtual(loop: VirtualLoop, seed: str, *, checked: bool, log: Tell | None) -> Iterator[None]:
    """Everything here is the world's while this is open. `checked`: state machines are checked after each event;
    `log` gets (process, line) of what the roles log, None: nobody reads it."""
    world_randomness = Random(f"{seed}/library")
    unique_names = sys.modules["nats.nuid"]
    with ExitStack() as stack:
        for module, name, value in (
            (time, "time", _unix_time(loop)),
            (time, "monotonic", loop.time),
            (time, "clock_gettime", lambda _clock: loop.time()),
            (os, "urandom", _random_bytes),
            (os, "_exit", _exit),
            (os, "kill", _kill),
            (secrets, "token_bytes", _random_bytes),
            # The client library has taken these out of `secrets` already.
            (unique_names, "token_bytes", _random_bytes),
            (unique_names, "randbelow", world_randomness.randrange),
            # The collector belongs to this whole process, not to one of a world.
            (lifecycle, "_spare_the_collector", lambda: None),
        ):
            _replace(stack, module, name, value)
        for part in PARTS:
            _replace(stack, part, "__init__", _noted(part.__init__))
        if checked:
            for machine in CHECKED:
                _replace(stack, machine, "handle", _checked(machine.handle))
            _replace(stack, Relay, "live_tok", _checked(Relay.live_tok))
            _replace(stack, Relay, "stored", _checked(Relay.stored))
        stack.callback(random.setstate, random.getstate())
        random.seed(seed)
        stack.callback(structlog.configure, **structlog.get_config())
        _configure_logs(log)
        yield


def unix_s(loop: VirtualLoop) -> float:
    """The broker's wall clock."""
    return EPOCH_S + loop.time()


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _unix_time(loop: VirtualLoop) -> Callable[[], float]:
    def unix_time() -> float:
        process = PROCESS.get()
        return unix_s(loop) + (process.machine.clock_skew_s if isinstance(process, Process) else 0.0)

    return unix_time


def _random_bytes(count: int = 32) -> bytes:
    return _process().randomness.randbytes(count)


def _exit(code: int) -> None:
    _process().exit(code)


def _kill(_pid: int, number: int) -> None:
    _process().die_of(number)


def _process() -> Process:
    process = PROCESS.get()
    assert isinstance(process, Process), "only a process does this"
    return process


def _noted(init: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807
        init(self, *args, **named)
        process = PROCESS.get()
        if isinstance(process, Process):
            process.parts[type(self).__name__] = self

    return __init__


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    def and_check(self: Any, *args: Any) -> Any:
        result = method(self, *args)
        self.check()
        return result

    return and_check


def _configure_logs(log: Tell | None) -> None:
    if log is None:
        structlog.configure(
            processors=[], wrapper_class=_Silent, logger_factory=structlog.ReturnLoggerFactory()
        )
        return

    def render(_logger: object, _method: str, event: Any) -> str:
        fields = " ".join(
            f"{name}={value}" for name, value in event.items() if name not in ("event", "logger")
        )
        process = PROCESS.get()
        log(process.id if isinstance(process, Process) else "world", f"{event['event']} {fields}".rstrip())
        raise structlog.DropEvent

    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.ReturnLoggerFactory(),
    )


class _Silent(structlog.BoundLoggerBase):
    """Logs nothing, as fast as that can be done."""

    def _nothing(self, *_args: object, **_fields: object) -> None: ...

    debug = info = warning = error = critical = exception = log = _nothing
