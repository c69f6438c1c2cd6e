"""One worker process on a real broker; edge and scheduler are played by hand."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from infra.broker import Broker
from infra.bus import Bus
from infra.consumers import Delivered
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from infra.wire import encode_headers
from schemas import dispatch, streams, subjects
from schemas.dispatch import Leader, Pull, Work, WorkItem, WorkReply
from schemas.ids import ANONYMOUS, ModelKey
from schemas.log import Fold, fold
from schemas.output import Cause, End, Lease
from schemas.requests import RequestMeta

MODEL = ModelKey("penstock-sim")
REFUSED_NAK_S = 0.1
HEARTBEAT_S = 0.02


class Stage:
    """A queue, one worker, and a scheduler that offers what it is given, one request at a time."""

    def __init__(self, broker: Broker, bus: Bus, log_path: Path, program: str = "workers") -> None:
        self.bus = bus
        self.js = JetStream(bus)
        self.log = OutputLog(self.js)
        self.log_path = log_path
        self.output_used: Callable[[], float] = lambda: 0.0
        self.pulls: list[Pull] = []
        self.items: list[WorkItem] = []
        """What was offered."""
        self.outcomes: list[str] = []
        """What the worker answered to each offer."""
        self.process: asyncio.subprocess.Process | None = None
        self._broker = broker
        self._program = program
        self._term = 0
        self._seq = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        bus.subscribe(subjects.PULL, self._on_pull)
        spec = streams.requests_consumer("standard", MODEL, ack_wait_s=10, queue_max=1000)
        self._consumer = self.js.consume(spec, self._on_delivery, lambda _unused: None)

    async def start_worker(self, **settings: object) -> None:
        """Returns when it pulls."""
        self.pulls.clear()
        all_settings = {
            "nats_url": self._broker.url,
            "engine": "simulator",
            "model": MODEL,
            "itl_ms": 2,
            "ttft_ms": 1,
        } | settings
        options = [word for name, value in all_settings.items() for word in ("--set", f"{name}={value}")]
        with self.log_path.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._program, "--id", "w1", *options, stderr=log
            )
        await until(lambda: self.pulls)
        if self._term == 0:
            self._spawn(self._lead())

    async def kill_worker(self) -> None:
        """kill -9. What it held is delivered again when its time is over or the test says so by a NAK."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def request(self, rid: str, body: bytes) -> None:
        """Publishes a request."""
        subject = subjects.request("standard", MODEL, ANONYMOUS, rid)
        ack = await self.js.publish(subject, body, headers=encode_headers({}))
        assert ack.stored, ack

    async def read(self, rid: str) -> Fold:
        """What its log holds."""
        return fold(await self.log.read(ANONYMOUS, rid))

    async def ended(self, rid: str, within_s: float = 20.0) -> End:
        """The END of a request."""
        deadline = time.monotonic() + within_s
        while True:
            last = await self.log.last_ctl(ANONYMOUS, rid)
            if last is not None and isinstance(last.record, End):
                return last.record
            assert time.monotonic() < deadline, f"{rid} did not end in time:\n{self.log_path.read_text()}"
            await asyncio.sleep(0.02)

    async def until_settled(self, within_s: float = 20.0) -> None:
        """Until REQUESTS is empty."""
        deadline = time.monotonic() + within_s
        while depth := await self.js.queue_depth(streams.REQUESTS):
            assert time.monotonic() < deadline, f"{depth} are left:\n{self.log_path.read_text()}"
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Ends everything."""
        for task in self._tasks:
            task.cancel()
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()
        print(self.log_path.read_text() if self.log_path.exists() else "no log")

    async def offer(self, item: WorkItem) -> str:
        """Offers one request, and says what the worker answered."""
        self._seq += 1
        self.items.append(item)
        work = dispatch.encode_work(Work(self._seq, [item]))
        reply = await self.bus.request(subjects.work(self.pulls[-1].worker), work, timeout_s=5)
        answers = msg_answers(reply.payload)
        self.outcomes += answers
        return answers[0]

    async def _lead(self) -> None:
        self._term += 1
        while True:
            heartbeat = Leader("s1", self._term, 0, [], self.output_used())
            self.bus.publish(subjects.LEADER, dispatch.encode(heartbeat))
            self._consumer.fetch(100, HEARTBEAT_S)
            await asyncio.sleep(HEARTBEAT_S)

    def _on_pull(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        self.pulls.append(dispatch.decode_pull(payload))

    def _on_delivery(self, delivered: Delivered) -> None:
        self._spawn(self._deliver(delivered))

    async def _deliver(self, delivered: Delivered) -> None:
        request, delivery = subjects.parse_request(delivered.subject), subjects.parse_ack(delivered.ack)
        assert request is not None
        assert delivery is not None
        last = await self.log.last_ctl(request.tenant, request.rid)
        if last is not None and isinstance(last.record, End):
            self.js.ack(delivered.ack)
            return
        cause: Cause = "first"
        if last is not None:
            cause = "redelivered" if isinstance(last.record, Lease) else "engine_error"
        item = WorkItem(
            rid=request.rid,
            tenant=request.tenant,
            ack=delivered.ack,
            attempt=delivery.delivered,
            ctl_seq=0 if last is None else last.seq,
            cause=cause,
            age_s=0.0,
            meta=RequestMeta(),
            body=delivered.payload,
        )
        if await self.offer(item) not in ("accepted", "mine", "done"):
            self.js.nak(delivered.ack, REFUSED_NAK_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.result()


def msg_answers(payload: bytes) -> list[str]:
    """The answers of a reply to an offer."""
    reply: WorkReply = dispatch.decode_reply(payload)
    return list(reply.answers)


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Polls for a condition."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
