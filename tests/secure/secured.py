"""A broker as `penstock broker init --secure` makes it and `penstock broker run` runs it, and a stranger for it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

from infra.broker import is_healthy
from infra.ports import FREE_PORTS, claim, free_port
from infra.secure.directory import read_plan
from infra.secure.plan import MONITOR_PORT_OFFSET, ROUTE_PORT_OFFSET
from infra.settings import Settings, load_settings
from infra.tether import tethered
from schemas import subjects

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
TOLD_WITHIN_S = 20.0
POLL_S = 0.005

NOBODYS = "nobodys.subject"

CONNECT_S = 20
ANSWER_S = 20.0
"""The official client's own are 2 s and half a second: little on a busy machine."""


def free_base_port() -> int:
    """A port that is free together with those that are counted from it."""
    while True:
        port = free_port()
        others = [port + offset for offset in (ROUTE_PORT_OFFSET, MONITOR_PORT_OFFSET)]
        if max(others) in FREE_PORTS and all(claim(other) for other in others):
            return port


def penstock(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    command = [sys.executable, "-m", "infra.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


class SecuredBroker:
    """`directory` is what `init` wrote; the server is told to end by `stop`."""

    def __init__(self, directory: Path, *tenants: str) -> None:
        self.directory = directory
        self.port = free_base_port()
        made = penstock("broker", "init", str(directory), "--secure", "--port", str(self.port))
        assert made.returncode == 0, made.stderr
        for tenant in tenants:
            added = penstock("broker", "add-tenant", tenant, str(directory))
            assert added.returncode == 0, added.stderr
        self.log_path = directory.with_suffix(".log")
        self.start()

    def start(self) -> None:
        """Until it is healthy."""
        command = [sys.executable, "-m", "infra.cli", "broker", "run", str(self.directory)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(tethered(command), cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_healthy(f"http://127.0.0.1:{self.port + MONITOR_PORT_OFFSET}"):
            assert self._process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """In order."""
        self._process.terminate()
        self._process.wait(60)

    @property
    def url(self) -> str:
        """What `init` says that clients connect to."""
        return read_plan(self.directory).url

    def access(self) -> dict[str, Any]:
        """The settings of roles that run elsewhere than in the directory."""
        return {
            "nats_url": self.url,
            "nats_nkey_file": str(self.directory / "{role}" / "{role}.nk"),
            "nats_ca_file": str(self.directory / "ca.pem"),
        }

    def settings(self, **others: object) -> Settings:
        """All settings of a role."""
        return load_settings({**self.access(), **others})

    def tls(self) -> ssl.SSLContext:
        """That trusts this broker's CA."""
        return ssl.create_default_context(cafile=self.directory / "ca.pem")

    @asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[Stranger]:
        """A connection of the official client with a user's key: a role, or `tenants/<name>`."""
        plan = read_plan(self.directory)
        name = user.rpartition("/")[2]
        public_key = next((key for role, key in plan.users.items() if role == name), "")
        prefix = subjects.inbox_prefix(public_key) if public_key else subjects.INBOX
        stranger = Stranger()
        await stranger.connect(
            self.url,
            tls=self.tls(),
            nkeys_seed=str(self.directory / user / f"{name}.nk"),
            inbox_prefix=prefix,
            error_cb=stranger.note,
            allow_reconnect=False,
            connect_timeout=CONNECT_S,
        )
        try:
            yield stranger
        finally:
            await stranger.close()


class Stranger(Client):
    """The official client, and what the broker has told it is not allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[str] = []

    async def note(self, error: Exception) -> None:
        """One of the broker's errors."""
        self.refusals.append(str(error))

    async def may_publish(self, subject: str) -> bool:
        """Whether the broker takes a message on `subject`; it is an empty one."""
        self.refusals.clear()
        await self.publish(subject, b"")
        await self._settled()
        return not self._refused("publish", subject)

    async def may_subscribe(self, subject: str) -> bool:
        """Whether the broker lets this user listen to `subject`."""
        self.refusals.clear()
        subscription = await self.subscribe(subject)
        await self._settled()
        permitted = not self._refused("subscription", subject)
        if permitted:
            await subscription.unsubscribe()
        return permitted

    async def _settled(self) -> None:
        """The broker has answered everything before this: it refuses in order. (A PING may overtake a message.)"""
        await self.publish(NOBODYS, b"")
        await until(lambda: self._refused("publish", NOBODYS), "the broker refuses what it refuses everybody")

    def _refused(self, what: str, subject: str) -> bool:
        return any(f'violation for {what} to "{subject.lower()}"' in one for one in self.refusals)


async def open_client(url: str, **options: Any) -> Client:
    """A connection that is refused at once, instead of again and again."""
    return await nats.connect(url, allow_reconnect=False, connect_timeout=CONNECT_S, **options)


async def until(condition: Any, what: str, within_s: float = TOLD_WITHIN_S) -> None:
    """Polls."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(POLL_S)
