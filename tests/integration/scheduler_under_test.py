"""A scheduler process alone against a real broker; workers and edges are played by hand."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers
from infra.output_log import OutputLog
from infra.settings import load_settings
from infra.wire import encode_headers
from schemas import dispatch, subjects
from schemas.dispatch import Leader, ModelCard, Pull, Running, WorkItem, WorkReply
from schemas.ids import ModelKey
from schemas.output import End, Lease, encode
from schemas.streams import REQUESTS, consumers_of

TENANT = "public"
CARD = ModelCard("m", "m", "simulator", 4096, 256)
ACK_WAIT_S = 20.0
"""Long enough that a test which waits for it instead of for the rule under test fails, also on a busy machine."""

OFFER_TIMEOUT_S = 5.0
"""A worker here answers from the test's own event loop: one that pauses is not to be offered the same again, where
offers are counted."""

LEADER_TTL_S = 12.0
"""A leader steps down when it could not renew for two thirds of it: not for a busy machine's pauses."""


class System:
    """A broker, the test's own connection to it, and whatever the test starts beside it."""

    def __init__(self, broker: Broker, logs: Path, bus: Bus) -> None:
        self.broker = broker
        self.bus = bus
        self.js = JetStream(bus)
        self.log = OutputLog(self.js)
        self.heartbeats: list[Leader] = []
        self.processes: list[asyncio.subprocess.Process] = []
        self.workers: list[FakeWorker] = []
        self._logs = logs
        bus.subscribe(subjects.LEADER, self._on_leader)

    async def scheduler(self, name: str, **more: object) -> asyncio.subprocess.Process:
        """A scheduler process that is ready: it leads or stands by. `more`: settings."""
        settings = {
            "nats_url": self.broker.url,
            "ack_wait_s": ACK_WAIT_S,
            "offer_timeout_s": OFFER_TIMEOUT_S,
            "leader_ttl_s": LEADER_TTL_S,
        } | more
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "scheduler", "--id", name, *options, stderr=log
            )
        self.processes.append(process)
        await until(lambda: '"ready"' in path.read_text(), within_s=60)
        return process

    async def worker(self, name: str, slots: int = 4) -> FakeWorker:
        """A worker on a connection of its own that has pulled and whose model is announced and has its consumers: what
        was stored before them is looked at once more, and comes later than what follows it."""
        worker = FakeWorker(name, slots, await Bus.connect(self.broker.url, name=name, fail=print))
        self.workers.append(worker)
        await until(lambda: any(model.workers for model in self.newest.models))
        await self._until_made()
        return worker

    async def _until_made(self, within_s: float = 15.0) -> None:
        deadline = time.monotonic() + within_s
        for spec in consumers_of(ModelKey(CARD.key), ack_wait_s=ACK_WAIT_S, queue_max=1):
            while await self.js.undelivered(spec) is None:
                assert time.monotonic() < deadline, f"{spec.name} was not made in time"
                await asyncio.sleep(0.01)

    @property
    def newest(self) -> Leader:
        """The last heartbeat of a leader, or one that says nothing."""
        return self.heartbeats[-1] if self.heartbeats else Leader("", 0, 0, [])

    async def publish(self, rid: str, headers: dict[str, str] | None = None, body: bytes = b"{}") -> None:
        block = encode_headers(headers or {})
        ack = await self.js.publish(subjects.request("standard", "m", TENANT, rid), body, headers=block)
        assert ack.stored, ack

    async def depth(self) -> int:
        return await self.js.queue_depth(REQUESTS)

    def _on_leader(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        self.heartbeats.append(dispatch.decode_leader(payload))


class FakeWorker:
    """Accepts what it has slots for and then does what the test says. It pulls like a real one until it is killed."""

    def __init__(self, name: str, slots: int, bus: Bus) -> None:
        self.name = name
        self.slots = slots
        self.bus = bus
        self.items: dict[str, WorkItem] = {}
        self.offers: list[tuple[float, WorkItem]] = []
        self.is_deaf = False
        self.tokenless: set[str] = set()
        """Requests that it says have no token yet."""
        self.hints: list[str] = []
        bus.subscribe(subjects.CANCEL_ALL, self._on_hint)
        self._work_seq = 0
        bus.subscribe(subjects.work(name), self._on_work)
        self._pulling = asyncio.create_task(self._pull_on())

    def pull(self) -> None:
        running = [
            Running(item.rid, item.ack, item.tenant, item.meta.grace_s, item.rid not in self.tokenless)
            for item in self.items.values()
        ]
        free = self.slots - len(self.items)
        pull = Pull(self.name, CARD, self.slots, free, self._work_seq, 0, running)
        self.bus.publish(subjects.PULL, dispatch.encode(pull))

    async def finish(self, system: System, rid: str) -> None:
        """Lease, END and ack, as a worker does them."""
        item = self.items.pop(rid)
        ctl = subjects.output_ctl(TENANT, rid)
        lease = Lease(nonce=self.name, worker=self.name, attempt=item.attempt, cause=item.cause)
        leased = await system.js.publish(ctl, encode(lease), headers=expect_headers(item.ctl_seq))
        assert leased.stored, leased
        ended = await system.js.publish(ctl, encode(End(status="ok")), headers=expect_headers(leased.seq))
        assert ended.stored, ended
        system.js.ack(item.ack)
        self.pull()

    async def kill(self) -> None:
        """Its connection is gone, as when the process dies."""
        self._pulling.cancel()
        await self.bus.close()

    async def _pull_on(self) -> None:
        while True:
            self.pull()
            await asyncio.sleep(0.2)

    def _on_hint(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        """A real worker reads the log first; this one is only told by those who have written END."""
        name = subjects.parse_cancel(subject)
        if name is not None and not dispatch.decode_cancel(payload).close:
            self.hints.append(name[1])
            if item := self.items.pop(name[1], None):
                self.bus.publish(item.ack, b"+ACK")

    def _on_work(self, _subject: str, reply: str, _headers: bytes, payload: bytes) -> None:
        if not payload or self.is_deaf:
            return
        work = dispatch.decode_work(payload)
        self._work_seq = work.seq
        answers: list[dispatch.Answer] = []
        for item in work.items:
            self.offers.append((time.monotonic(), item))
            mine = item.rid in self.items
            full = not mine and len(self.items) >= self.slots
            answers.append("mine" if mine else "full" if full else "accepted")
            if not full:
                self.items[item.rid] = item
        self.bus.publish(reply, dispatch.encode(WorkReply(answers)))


@contextlib.asynccontextmanager
async def system_on(folder: Path) -> AsyncIterator[System]:
    """A broker of its own; everything that was started is gone afterwards."""
    settings = load_settings({"store_dir": folder / "store", "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as broker:
        system = System(broker, folder, await Bus.connect(broker.url, name="test", fail=print))
        try:
            yield system
        finally:
            for worker in system.workers:
                await worker.kill()
            for process in system.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()
            await system.bus.close()
            _show_logs(folder)


async def until(condition: Callable[[], object], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def until_depth(system: System, depth: int, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while await system.depth() != depth:
        assert time.monotonic() < deadline, f"the queue did not come to {depth} in time"
        await asyncio.sleep(0.02)


def _show_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text()}")


def rid(number: int) -> str:
    return f"request{number:016}"
