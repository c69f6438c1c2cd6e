"""The scheduler as a process, alone against a real broker; workers and edges are played by hand."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers
from infra.output_log import OutputLog
from infra.settings import load_settings
from infra.wire import encode_headers
from schemas import dispatch, subjects
from schemas.dispatch import Leader, ModelCard, Pull, Running, WorkItem, WorkReply
from schemas.output import End, Lease, encode
from schemas.requests import MAX_TOKENS, QUEUE_TIMEOUT_S
from schemas.streams import REQUESTS

TENANT = "public"
CARD = ModelCard("m", "m", "simulator", 4096, 256)
ACK_WAIT_S = 6.0
"""Long enough that a test which waits for it instead of for the rule under test fails."""


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    settings = load_settings({"store_dir": tmp_path / "store", "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as running:
        yield running


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

    async def scheduler(self, name: str) -> asyncio.subprocess.Process:
        """A scheduler process that is ready: it leads or stands by."""
        settings = {"nats_url": self.broker.url, "ack_wait_s": ACK_WAIT_S, "leader_ttl_s": 1.5}
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "scheduler", "--id", name, *options, stderr=log
            )
        self.processes.append(process)
        await until(lambda: '"ready"' in path.read_text())
        return process

    async def worker(self, name: str, slots: int = 4) -> FakeWorker:
        """A worker on a connection of its own that has pulled and whose model is announced."""
        worker = FakeWorker(name, slots, await Bus.connect(self.broker.url, name=name, fail=print))
        self.workers.append(worker)
        await until(lambda: any(model.workers for model in self.newest.models))
        return worker

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
        self._work_seq = 0
        bus.subscribe(subjects.work(name), self._on_work)
        self._pulling = asyncio.create_task(self._pull_on())

    def pull(self) -> None:
        running = [Running(item.rid, item.ack) for item in self.items.values()]
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


@pytest.fixture
async def system(own_broker: Broker, tmp_path: Path) -> AsyncIterator[System]:
    system = System(own_broker, tmp_path, await Bus.connect(own_broker.url, name="test", fail=print))
    yield system
    for worker in system.workers:
        await worker.kill()
    for process in system.processes:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await system.bus.close()
    _show_logs(tmp_path)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def until_depth(system: System, depth: int, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while await system.depth() != depth:
        assert time.monotonic() < deadline, f"the queue did not come to {depth} in time"
        await asyncio.sleep(0.02)


def _show_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text()}")


def rid(number: int) -> str:
    return f"request{number:016}"


async def test_a_request_goes_to_a_worker_and_leaves_the_queue_with_its_end(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1")
    await system.publish(rid(1), {MAX_TOKENS: "12"}, b'{"prompt":"a"}')
    await until(lambda: worker.items)
    item = worker.items[rid(1)]
    assert (item.tenant, item.body, item.meta.max_tokens) == (TENANT, b'{"prompt":"a"}', 12)
    assert (item.attempt, item.ctl_seq, item.cause) == (1, 0, "first")
    assert 0 <= item.age_s < 5
    assert await system.depth() == 1
    await worker.finish(system, rid(1))
    await until_depth(system, 0)


async def test_requests_wait_for_slots_and_none_is_lost(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=3)
    for number in range(12):
        await system.publish(rid(number))
    done: set[str] = set()
    while len(done) < 12:
        await until(lambda: worker.items)
        assert len(worker.items) <= 3
        finished = next(iter(worker.items))
        await worker.finish(system, finished)
        done.add(finished)
    await until_depth(system, 0)
    assert len(worker.offers) == 12, "nobody was offered anything twice"


async def test_what_a_killed_worker_ran_is_elsewhere_within_two_seconds(system: System) -> None:
    await system.scheduler("s1")
    ready_at = time.monotonic()
    first = await system.worker("w1")
    for number in range(3):
        await system.publish(rid(number))
    await until(lambda: len(first.items) == 3)
    for number in range(3):
        lease = encode(Lease(nonce="a", worker="w1", attempt=1, cause="first"))
        assert (await system.js.publish(subjects.output_ctl(TENANT, rid(number)), lease)).stored
    second = await system.worker("w2")
    await until(lambda: system.newest.models[0].workers == 2)
    # Evidence against a worker counts only once the scheduler has been connected for two seconds.
    await until(lambda: time.monotonic() - ready_at > 2)
    killed_at = time.monotonic()
    await first.kill()
    await until(lambda: len(second.items) == 3)
    assert max(at for at, _ in second.offers) - killed_at < 2
    for item in list(second.items.values()):
        last = await system.log.last_ctl(TENANT, item.rid)
        assert last is not None
        assert (item.attempt, item.cause, item.ctl_seq) == (2, "worker_dead", last.seq)
        await second.finish(system, item.rid)
    await until_depth(system, 0)


async def test_a_worker_that_does_not_answer_is_passed_over(system: System) -> None:
    await system.scheduler("s1")
    deaf = await system.worker("w1", slots=8)
    deaf.is_deaf = True
    other = await system.worker("w2", slots=1)
    await until(lambda: system.newest.models[0].workers == 2)
    await system.publish(rid(1))
    await until(lambda: other.items, within_s=2)
    await other.finish(system, rid(1))
    await until_depth(system, 0)


async def test_a_request_nobody_takes_ends_as_expired(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=1)
    await system.publish(rid(1))
    await until(lambda: worker.items)
    await system.publish(rid(2), {QUEUE_TIMEOUT_S: "0.5"})
    await until_depth(system, 1)
    last = await system.log.last_ctl(TENANT, rid(2))
    assert last is not None
    assert isinstance(last.record, End)
    assert (last.record.status, last.record.reason) == ("expired", "queue_timeout")


async def test_a_direct_publishers_nonsense_ends_as_an_error(system: System) -> None:
    await system.scheduler("s1")
    await system.worker("w1")
    await system.publish(rid(1), {MAX_TOKENS: "many"})
    await until_depth(system, 0)
    last = await system.log.last_ctl(TENANT, rid(1))
    assert last is not None
    assert isinstance(last.record, End)
    assert last.record.reason == "bad_request"


async def test_a_cancelled_request_leaves_the_queue(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=1)
    for number in range(30):
        await system.publish(rid(number))
    await until(lambda: worker.items)
    # 5 waits in the scheduler's window, 29 in the stream.
    for number in (5, 29):
        await system.log.close(TENANT, rid(number), End(status="cancelled", reason="cancelled"))
        system.bus.publish(subjects.cancel(TENANT, rid(number)), dispatch.encode(dispatch.Cancel()))
    await until_depth(system, 28)
    # Not cancelled, whatever a hint says: nothing may happen to it.
    system.bus.publish(subjects.cancel(TENANT, rid(28)), dispatch.encode(dispatch.Cancel()))
    for number in range(29):
        if number != 5:
            await until(lambda number=number: rid(number) in worker.items)  # type: ignore[misc]
            await worker.finish(system, rid(number))
    await until_depth(system, 0)


async def test_a_killed_leader_is_followed_by_the_standby(system: System) -> None:
    first = await system.scheduler("s1")
    await until(lambda: system.newest.scheduler == "s1")
    await system.scheduler("s2")
    worker = await system.worker("w1", slots=1)
    term = system.newest.term
    for number in range(4):
        await system.publish(rid(number))
    await until(lambda: worker.items)
    first.kill()
    await until(lambda: system.newest.scheduler == "s2")
    assert system.newest.term > term
    for _ in range(4):
        await until(lambda: worker.items, within_s=2 * ACK_WAIT_S)
        await worker.finish(system, next(iter(worker.items)))
    await until_depth(system, 0)


async def test_a_stopped_leader_hands_over_at_once(system: System) -> None:
    first = await system.scheduler("s1")
    await until(lambda: system.newest.scheduler == "s1")
    await system.scheduler("s2")
    worker = await system.worker("w1", slots=1)
    for number in range(4):
        await system.publish(rid(number))
    await until(lambda: worker.items)
    stopped_at = time.monotonic()
    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 0
    await until(lambda: system.newest.scheduler == "s2")
    for _ in range(4):
        await until(lambda: worker.items)
        await worker.finish(system, next(iter(worker.items)))
    await until_depth(system, 0)
    assert time.monotonic() - stopped_at < ACK_WAIT_S / 2, "what was held came back at once"
