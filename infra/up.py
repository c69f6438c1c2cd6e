"""`penstock up`: broker, schedulers, workers and edges as supervised child processes of one terminal.

The shell around `infra.supervisor`: it spawns and signals processes, passes on their logs, tells the core
what happened to them and keeps the state file. Each child is tethered, so none outlives a killed `up`, and
has a session of its own, so that a Ctrl-C reaches it in the order of the drain and not all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from infra import commands, supervisor
from infra.broker import BrokerPlan, is_healthy, plan_broker
from infra.child_logs import ChildLogs
from infra.engine_choice import EngineChoice, ask_worker
from infra.logs import configure_logs, get_logger, is_pretty
from infra.ports import free_port
from infra.settings import Settings, aliases_taken, hand_down, load_settings, redact, source_of
from infra.store import (
    MetricsTarget,
    ProcessState,
    StoreState,
    lock_store,
    remove_state,
    write_state,
    write_targets,
)
from infra.supervisor import Role, SupervisorCore
from infra.tether import tethered

log = get_logger("up")

PACKAGES: dict[Role, str] = {"edge": "edge", "scheduler": "scheduler", "worker": "workers"}
HEALTH_POLL_S = 0.02


class UpError(Exception):
    """`up` cannot start; the message says what to do."""


def role_command(role: Role, arguments: list[str]) -> list[str]:
    """The command line of one role's process."""
    root = Path(__file__).parent.parent
    # `-m` would look in the working directory first, and a user's project may well have a `workers` of its
    # own.
    isolated = [] if Path.cwd() == root else ["-P"]
    return [sys.executable, *isolated, "-m", PACKAGES[role], *arguments]


def run_up(cli: Mapping[str, str]) -> int:
    """Runs until stopped; the exit code.

    Raises SettingsError, BrokerError, StoreInUseError, NoEngine or UpError at start.
    """
    settings = load_settings(cli)
    configure_logs(settings, role="up", process_id="up")
    lock = lock_store(settings.store_dir)
    try:
        embedded = source_of("nats_url", cli) == "default"
        broker = plan_broker(settings) if embedded else None
        with reserve_port(settings.host, settings.port) as reserved:
            choice = choose_engine(settings, cli)
            _say_aliases(settings, cli)
            _say(choice, settings)
            up = _Up(settings, cli, broker, choice, port=reserved.getsockname()[1])
            return asyncio.run(up.run())
    finally:
        remove_state(settings.store_dir)
        os.close(lock)


def choose_engine(settings: Settings, cli: Mapping[str, str]) -> EngineChoice:
    """What the workers run, the same for all of them and after each restart: a worker's process says it. Raises
    NoEngine."""
    if settings.workers == 0:
        return EngineChoice(settings.engine, settings.model, settings.model, "no worker here")
    handed = hand_down(cli)
    return ask_worker(role_command("worker", ["--choose", *handed.words]), handed.environment)


def reserve_port(host: str, port: int) -> socket.socket:
    """A bound, not listening socket: it keeps the port for the edges, which share it with SO_REUSEPORT."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Without SO_REUSEPORT this fails where anyone listens; with it we would silently share their
            # port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise UpError(
            f"cannot listen on {host}:{port} ({error.strerror}): "
            "choose another with --port (0 takes a free one) or --host"
        ) from None
    return reserved


class _Running:
    """A child. `metrics_port`: 0 until it has told."""

    def __init__(self, process: asyncio.subprocess.Process, process_id: str) -> None:
        self.process = process
        self.id = process_id
        self.metrics_port = 0


class _Up:
    def __init__(
        self,
        settings: Settings,
        cli: Mapping[str, str],
        broker: BrokerPlan | None,
        choice: EngineChoice,
        *,
        port: int,
    ) -> None:
        self._settings = settings
        self._choice = choice
        self._broker = broker
        self._url = f"http://{_reachable(settings.host)}:{port}"
        self._nats_url = broker.url if broker else settings.nats_url
        pretty = is_pretty(settings)
        overrides = {**cli, "port": str(port), "log_format": "pretty" if pretty else "json"}
        overrides |= {"engine": choice.engine, "model": choice.model}
        overrides |= metrics_ports(settings)
        if broker:
            overrides["nats_url"] = broker.url
            overrides["broker_monitor_port"] = broker.monitor_url.rpartition(":")[2]
        self._handed = hand_down(overrides)
        self._roles = _children(settings, with_broker=broker is not None)
        self._core = SupervisorCore(self._roles, drain_timeout_s=settings.drain_timeout_s)
        self._logs = ChildLogs(list(self._roles), pretty=pretty)
        self._running: dict[str, _Running] = {}
        self._events: asyncio.Queue[supervisor.Event] = (
            asyncio.Queue()
        )  # a few per child: bounded by their number

    async def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._events.put_nowait, supervisor.Stop())
        self._events.put_nowait(supervisor.Start())
        async with asyncio.TaskGroup() as tasks:
            while True:
                event = await self._next_event()
                for action in self._core.handle(event, time.monotonic()):
                    if isinstance(action, supervisor.Finish):
                        return self._finish(action)
                    await self._act(action, tasks)
                self._write_state()

    async def _next_event(self) -> supervisor.Event:
        deadline = self._core.next_deadline()
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return await asyncio.wait_for(self._events.get(), timeout_s)
        except TimeoutError:
            return supervisor.Tick()

    async def _act(self, action: supervisor.Action, tasks: asyncio.TaskGroup) -> None:
        match action:
            case supervisor.Spawn(name):
                await self._spawn(name, tasks)
            case supervisor.Terminate(name):
                log.info("stopping", child=name, drain_timeout_s=self._settings.drain_timeout_s)
                self._signal(name, signal.SIGTERM)
            case supervisor.Kill(name):
                log.warning("killing", child=name)
                self._signal(name, signal.SIGKILL)
            case supervisor.Announce():
                self._announce()

    async def _spawn(self, name: str, tasks: asyncio.TaskGroup) -> None:
        # A new id for every start: to the scheduler a restarted worker is a new one, and the old one is dead.
        process_id = "broker" if name == "broker" else f"{name}-{secrets.token_hex(2)}"
        read_end, write_end = os.pipe()
        # A pipe of our own: with asyncio's, `wait` would wait for whoever still holds it, not only for the child.
        output, output_end = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *tethered(self._command(name, process_id, write_end)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output_end,
            stderr=asyncio.subprocess.STDOUT,
            env=None if self._roles[name] == "broker" else self._handed.environment,
            pass_fds=(write_end,),
            start_new_session=True,
        )
        os.close(write_end)
        os.close(output_end)
        self._running[name] = _Running(process, process_id)
        tasks.create_task(self._watch(name, process, read_end, output), name=f"watch {name}")

    def _command(self, name: str, process_id: str, ready_fd: int) -> list[str]:
        role = self._roles[name]
        if role == "broker":
            assert self._broker is not None
            return self._broker.command
        return role_command(role, ["--id", process_id, "--ready-fd", str(ready_fd), *self._handed.words])

    async def _watch(
        self, name: str, process: asyncio.subprocess.Process, ready_fd: int, output_fd: int
    ) -> None:
        """One child from its start to its end."""
        async with asyncio.TaskGroup() as tasks:
            pump = tasks.create_task(self._pump(name, output_fd))
            ready = tasks.create_task(self._wait_ready(name, ready_fd))
            code = await process.wait()
            ready.cancel()
            # What it started (an engine's processes) would keep the device that its successor needs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # Others may still hold the pipe: read what is there, but do not wait for them.
            await asyncio.wait([pump], timeout=1.0)
            pump.cancel()
        log.log(_level(code), "ended", child=name, pid=process.pid, code=code)
        del self._running[name]
        self._events.put_nowait(supervisor.Exited(name, code))

    async def _pump(self, name: str, output_fd: int) -> None:
        async with _reading(output_fd) as reader:
            await self._logs.pump(name, reader)

    async def _wait_ready(self, name: str, ready_fd: int) -> None:
        if self._broker is not None and name == "broker":
            os.close(ready_fd)
            while not await asyncio.to_thread(is_healthy, self._broker.monitor_url):
                await asyncio.sleep(HEALTH_POLL_S)
        else:
            said = await _read_line(ready_fd)
            if not said:
                return
            self._running[name].metrics_port = int(said.removeprefix(b"ready").strip() or 0)
        self._events.put_nowait(supervisor.Ready(name))

    def _signal(self, name: str, number: signal.Signals) -> None:
        if name in self._running:
            with contextlib.suppress(
                ProcessLookupError
            ):  # it ended by itself; its Exited event is on its way
                self._running[name].process.send_signal(number)

    def _write_state(self) -> None:
        running = {name: self._running[name] for name in self._roles if name in self._running}
        address = _reachable(self._settings.host)
        shown = {name: f"{address}:{one.metrics_port}" for name, one in running.items() if one.metrics_port}
        processes = [
            ProcessState(
                self._roles[name],
                one.id,
                one.process.pid,
                self._core.is_ready(name),
                f"http://{shown[name]}/metrics" if name in shown else "",
            )
            for name, one in running.items()
        ]
        targets = [
            MetricsTarget([target], {"role": self._roles[name], "process": name})
            for name, target in shown.items()
        ]
        write_targets(self._settings.store_dir, targets)
        monitor_url = self._broker.monitor_url if self._broker else None
        state = StoreState(self._url, redact(self._nats_url), monitor_url, self._choice.name, processes)
        write_state(self._settings.store_dir, state)

    def _announce(self) -> None:
        log.info("serving", url=self._url, nats_url=redact(self._nats_url), processes=len(self._roles))
        _print_banner(self._settings, self._choice, self._url, self._nats_url, self._roles)

    def _finish(self, finish: supervisor.Finish) -> int:
        if finish.culprit is not None:
            said = self._logs.last_line(finish.culprit)
            print(f"penstock up: stopped because of {finish.culprit}: {said}", file=sys.stderr)
        return finish.code


def _children(settings: Settings, *, with_broker: bool) -> dict[str, Role]:
    """Names and roles: broker, scheduler-1, worker-1, edge-1 …"""
    counts: dict[Role, int] = {
        "scheduler": settings.schedulers,
        "worker": settings.workers,
        "edge": settings.edges,
    }
    children: dict[str, Role] = {"broker": "broker"} if with_broker else {}
    return children | {f"{role}-{n}": role for role, count in counts.items() for n in range(1, count + 1)}


def metrics_ports(settings: Settings) -> dict[str, str]:
    """Where the roles begin to look for a port for their metrics, where the settings do not say it."""
    first = {
        "edge_metrics_port": settings.edge_metrics_port,
        "scheduler_metrics_port": settings.scheduler_metrics_port,
        "worker_metrics_port": settings.worker_metrics_port,
    }
    return {name: str(port or free_port()) for name, port in first.items()}


def _say(choice: EngineChoice, settings: Settings) -> None:
    """At once, since the first answer may be minutes away while a model is loaded."""
    if not is_pretty(settings):
        log.info("engine chosen", engine=choice.engine, model=choice.model, why=choice.line)
    Console(highlight=False).print(f"[bold]penstock[/] runs {escape(choice.line)}", soft_wrap=True)


def _say_aliases(settings: Settings, cli: Mapping[str, str]) -> None:
    """A variable of another server's name may have been meant for that one."""
    taken = {one.variable: name for name, one in aliases_taken(cli).items()}
    if not taken:
        return
    if not is_pretty(settings):
        log.info("took variables of other servers", **taken)
    line = ", ".join(f"{variable} as {name}" for variable, name in taken.items())
    Console(highlight=False).print(f"[bold]penstock[/] takes {line}, from the environment", soft_wrap=True)


def _print_banner(
    settings: Settings, choice: EngineChoice, url: str, nats_url: str, roles: Mapping[str, Role]
) -> None:
    counts = [f"{count} {role}" for role, count in Counter(roles.values()).items()]
    message = {
        "model": choice.name or "MODEL",
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    store = "" if settings.store_dir == Path(".penstock") else f" --store {settings.store_dir}"
    lines = [
        ("url", f"{url}/v1"),
        ("model", choice.name or "what workers elsewhere serve"),
        ("engine", choice.line),
        ("broker", redact(nats_url)),
        ("running", ", ".join(counts)),
        ("try", f'{commands.penstock()} chat{store} "Tell me about rivers"'),
        (
            "or",
            f"curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{json.dumps(message)}'",
        ),
        *zip(("next", *[""] * len(choice.commands)), choice.commands, strict=False),
    ]
    console = Console(highlight=False)
    console.rule("[bold green]penstock is up", align="left", style="green")
    for name, line in lines:
        # No box and no wrapping: the commands are there to be copied.
        console.print(f"[dim]{name:8}[/] {escape(line)}", soft_wrap=True)
    console.rule(style="green")


async def _read_line(descriptor: int) -> bytes:
    """What the child wrote to its ready pipe before it closed it."""
    async with _reading(descriptor) as reader:
        return await reader.readline()


@contextlib.asynccontextmanager
async def _reading(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """The end of a pipe, which is closed afterwards."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield reader
    finally:
        transport.close()


def _reachable(host: str) -> str:
    """The address to show for a listener: one for all interfaces is reached locally."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _level(code: int) -> int:
    return logging.INFO if code == 0 else logging.WARNING
