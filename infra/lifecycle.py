"""The life of a role's process: arguments, settings, logs, event loop, signals, drain, deadline, exit code.

A `__main__` is two lines: `run_role("worker", serve)`, where `serve(context)` sets everything up, calls
`context.ready()`, waits for `context.stop`, drains and returns.

| exit code | meaning |
|---|---|
| 0 | stopped when asked to, everything drained |
| 1 | an error, a crashed background task, or a drain that missed its deadline: start it again |
| 2 | bad configuration: starting it again would change nothing |
| 128 + n | a second signal n: left at once |
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import Any, NoReturn

import uvloop

from infra.logs import configure_logs, get_logger
from infra.metrics.page import Page
from infra.metrics.server import PageServer
from infra.notices import ALIVE_INTERVAL_S, Notices
from infra.setting_topics import describe
from infra.settings import Settings, SettingsError, load_settings
from infra.trace_sinks import open_tracer
from infra.tracing import Tracer

log = get_logger("lifecycle")

GC_ALLOCATIONS = 50_000
"""Net allocations between two young collections; the default of 700 is reached several times in every engine step."""

# Ids go into subjects: the same alphabet as a subject token of ours.
_ID = re.compile(r"[a-z0-9_-]{1,64}")


class RoleContext:
    """What a role's `serve` gets:

    its settings, its name, when to stop, and an owner for its background tasks.
    """

    def __init__(
        self,
        settings: Settings,
        process_id: str,
        tasks: asyncio.TaskGroup,
        ready_fd: int | None,
        tracer: Tracer,
    ) -> None:
        self.settings = settings
        self.id = process_id
        self.stop = asyncio.Event()
        """Set by the first SIGTERM or SIGINT: take nothing new, finish or hand off what runs, return."""
        self.tracer = tracer
        self.metrics_port = 0
        """Where this process shows its own metrics; 0: nowhere."""
        self._tasks = tasks
        self._background: dict[asyncio.Task[None], None] = {}
        self._notices = Notices(ready_fd=ready_fd, ready_file=settings.ready_file)
        self._is_ready = False
        self._serving: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._page_server: PageServer | None = None

    def ready(self) -> None:
        """Tells whoever started this process, and the log, once, that it serves; later calls do nothing."""
        if self._is_ready:
            return
        self._is_ready = True
        _spare_the_collector()
        self._notices.ready(self.metrics_port)
        if self._notices.wanted:
            self.spawn(self._tell_alive(), "alive")
        log.info("ready")

    async def show_metrics(self, page: Page, first_port: int) -> None:
        """Serves `page` on the first port that is free, from this one on; 0: nowhere. Raises OSError."""
        if first_port:
            self._page_server = PageServer(page)
            await self._page_server.start(self.settings.host, first_port)
            self.metrics_port = self._page_server.port

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs a background task.

        If it raises, the whole process ends with 1; it is cancelled when `serve` returns.
        """
        task = self._tasks.create_task(coroutine, name=name)
        self._background[task] = None
        task.add_done_callback(self._on_done)
        return task

    def fail(self, error: Exception) -> None:
        """Ends the process with `error`: for callbacks, whose exceptions nobody would see."""
        self.spawn(_raise(error), "fail")

    async def _tell_alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_INTERVAL_S)
            self._notices.alive()

    def _begin_stop(self) -> None:
        self.stop.set()
        self._notices.stopping()
        self._arm_deadline()
        if not self._is_ready and self._serving is not None:
            # It still waits for a broker or loads a model: there is nothing to drain.
            self._serving.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._background[task]
        if not task.cancelled() and task.exception() is not None:
            self._arm_deadline()

    def _end(self) -> None:
        """`serve` is over: what still runs in the background has no purpose any more."""
        self._notices.gone()
        self._arm_deadline()
        if self._page_server is not None:
            self._page_server.close()
        for task in self._background:
            task.cancel()

    def _arm_deadline(self) -> None:
        """From the first sign of the end on, a hanging drain or cleanup must not keep the process alive."""
        if self._deadline is None:
            timeout_s = self.settings.drain_timeout_s
            self._deadline = asyncio.get_running_loop().call_later(timeout_s, _give_up, timeout_s)


Serve = Callable[[RoleContext], Awaitable[None]]
Complete = Callable[[Settings], Settings]


def run_role(role: str, serve: Serve, *, complete: Complete = lambda settings: settings) -> NoReturn:
    """Runs `serve` until it returns or fails, and exits the process. `complete` fills in settings that were left open;
    a SettingsError of it is bad configuration.

    The one place that catches everything.
    """
    arguments = _parser(role).parse_args()
    try:
        settings = load_settings(overrides_of(arguments.set))
        configure_logs(settings, role=role, process_id=arguments.id)
        settings = complete(settings)
        with (
            closing(open_tracer(settings, role, arguments.id)) as tracer,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            code = runner.run(live(serve, settings, arguments.id, arguments.ready_fd, tracer))
    except* SettingsError as errors:
        code = 2
        print(f"penstock {role}: {_leaf(errors)}", file=sys.stderr)
    except* Exception as errors:
        code = 1
        log.critical("crashed", exc_info=_leaf(errors))
    sys.exit(code)


async def live(
    serve: Serve, settings: Settings, process_id: str, ready_fd: int | None, tracer: Tracer
) -> int:
    """A process's life inside its event loop; its exit code. Raises what it crashed of."""
    async with asyncio.TaskGroup() as tasks:
        context = RoleContext(settings, process_id, tasks, ready_fd, tracer)
        _handle_signals(context)
        _watch_callbacks(context)
        context._serving = asyncio.ensure_future(serve(context))
        try:
            await context._serving
        except asyncio.CancelledError:
            if not context.stop.is_set():
                raise
        finally:
            context._end()
    if not context.stop.is_set():
        log.error("ended without being asked to")
        return 1
    log.info("stopped")
    return 0


def overrides_of(assignments: list[str]) -> dict[str, str]:
    """The settings in the words `NAME=VALUE` of `--set` options. Raises SettingsError."""
    overrides = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"--set {assignment}: expected NAME=VALUE")
        overrides[name.strip()] = value
    return overrides


def _spare_the_collector() -> None:
    """What start-up made stays for good, so the collector never walks it again; and it runs less often, because what a
    token allocates is freed by its reference count. At 256 streams this took the p99 between tokens from 45 to 33 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, *gc.get_threshold()[1:])


def _watch_callbacks(context: RoleContext) -> None:
    """A callback that raises has no caller: without this the loop would log it, and the process go on half dead."""

    def on_error(_loop: asyncio.AbstractEventLoop, what: dict[str, Any]) -> None:
        error = what.get("exception")
        if "handle" in what and isinstance(error, Exception):
            context.fail(error)
        else:  # a peer's broken connection, say: nothing of ours
            log.error("event loop", message=what["message"], error=repr(error))

    asyncio.get_running_loop().set_exception_handler(on_error)


def _handle_signals(context: RoleContext) -> None:
    def on_signal(number: signal.Signals) -> None:
        if context.stop.is_set():
            log.warning("second signal: leaving without a drain", signal=number.name)
            os._exit(128 + number)
        log.info("stopping", signal=number.name, drain_timeout_s=context.settings.drain_timeout_s)
        context._begin_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


def _give_up(timeout_s: float) -> None:
    log.critical("not drained in time: leaving", drain_timeout_s=timeout_s)
    os._exit(1)


async def _raise(error: Exception) -> None:
    raise error


def _leaf(error: BaseException) -> BaseException:
    """The one exception inside nested groups, or the group where there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _parser(role: str) -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:24} {meaning} [{default}]" for name, default, meaning, _ in describe())
    parser = argparse.ArgumentParser(
        prog=f"penstock {role}",
        description=f"One {role} process of Penstock.",
        epilog=f"settings (also PENSTOCK_<NAME> in the environment, or penstock.toml):\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated"
    )
    parser.add_argument(
        "--id",
        default=f"{role}-{secrets.token_hex(3)}",
        type=_process_id,
        help="name of this process (default: a new one)",
    )
    parser.add_argument(
        "--ready-fd", type=int, metavar="FD", help="file descriptor to write to once the process serves"
    )
    return parser


def _process_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must match {_ID.pattern}")
    return text
