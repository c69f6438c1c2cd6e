"""A workload under way: clients come one after another, and everything that they see is told at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from chaos.real.clients import CONNECT_TIMEOUT_S, SILENCE_S, Client, Surroundings
from chaos.real.clients_nats import PUBLISH_TIMEOUT_S, Publisher
from chaos.real.history import Line
from chaos.real.workload import Options, gap_s, wish
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.keys import add_key, new_key
from schemas.ids import ANONYMOUS


def make_tenants(keys_file: Path, names: list[str]) -> dict[str, str]:
    """API keys by tenant, and the file of them that edges read by the setting `keys_file`."""
    texts: dict[str, str] = {}
    for name in names:
        key, texts[name] = new_key(name, tenant=name)
        add_key(keys_file, key)
    return texts


class Workload:
    """Its clients come from `run` on, for as long as the options say, and stay until they have what they want."""

    def __init__(
        self, options: Options, *, doors: list[str], nats_url: str, tell: Callable[[Line], None]
    ) -> None:
        self.begun: Counter[str] = Counter()
        """Wishes by their way."""
        self._options = options
        self._doors = doors
        self._nats_url = nats_url
        self._tell = tell
        self._tenants = tuple(sorted(options.tenants)) or (ANONYMOUS,)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._died: list[BaseException] = []
        self._is_room = asyncio.Event()

    @property
    def active(self) -> int:
        """Clients that want something still."""
        return len(self._tasks)

    async def run(self, patience_s: float) -> None:
        """Returns when all clients are through; those that are not so long after the last one came are sent home, and
        their history says `no_answer`. Raises what a client died of: that is a mistake in it."""
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        bus = await Bus.connect(self._nats_url, name="publishers", fail=self._died.append)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as http:
            around = Surroundings(http, self._doors, self._options.tenants, self._tell)
            try:
                await self._come(around, JetStream(bus, timeout_s=PUBLISH_TIMEOUT_S))
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=patience_s)
            finally:
                late = list(self._tasks)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
        await bus.close()
        if self._died:
            raise self._died[0]

    async def _come(self, around: Surroundings, js: JetStream) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._options.duration_s
        number, due = 0, loop.time()
        while not self._died:
            number += 1
            due += gap_s(self._options, number)
            if due >= ends_at:
                return
            await asyncio.sleep(max(0.0, due - loop.time()))
            while len(self._tasks) >= self._options.clients_max:
                self._is_room.clear()
                await self._is_room.wait()
                due = max(due, loop.time())
            drawn = wish(self._options, number, self._tenants)
            self.begun[drawn.way] += 1
            client = Publisher(drawn, around, js) if drawn.way == "direct" else Client(drawn, around)
            task = asyncio.create_task(client.run(), name=f"client-{number}")
            self._tasks[task] = None
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task)
        self._is_room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._died.append(error)
