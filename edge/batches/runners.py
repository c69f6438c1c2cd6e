"""Takes batches out of the work queue and runs them: each is held by one edge until its end, and if that edge is not
heard of for some seconds another one gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from edge.batches.records import BatchRecord
from edge.batches.runner import Means, Run
from infra.consumers import Delivered
from infra.jetstream import JetStream
from infra.logs import get_logger
from schemas import subjects
from schemas.streams import BATCH_ACK_WAIT_S, batches_consumer

RUNS_MAX = 16
"""Batches one edge runs at the same time."""

FETCH_EXPIRES_S = 5.0
FETCH_MARGIN_S = 2.0
"""A fetch that was lost, as with its broker, is written off this long after its end."""

DELIVERIES_MAX = 100
"""Past as many a batch fails: far more than edges come and go in a day, and an end to one that they die of."""

RETRY_WAIT_S = 1.0
"""While there is no consumer, or no connection."""

_record = msgspec.json.Decoder(BatchRecord)
_log = get_logger("batches")


class Runners:
    """The batches that run here. `fail` ends the process."""

    def __init__(self, js: JetStream, means: Means, *, edge: str, fail: Callable[[Exception], None]) -> None:
        self._js = js
        self._means = means
        self._edge = edge
        self._fail = fail
        self._runs: dict[asyncio.Task[None], None] = {}
        self._answered = asyncio.Event()
        self._gone = False
        self._pulling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take batches."""
        self._pulling = self._spawn(self._pull())

    async def close(self) -> None:
        """Gives all batches back; what was asked for runs on, and whoever takes them next reads its answers."""
        tasks = [task for task in (self._pulling, *self._runs) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _pull(self) -> None:
        consumer = self._js.consume(batches_consumer(), self._on_delivery, self._on_end, self._on_gone)
        try:
            while True:
                while len(self._runs) >= RUNS_MAX:
                    await asyncio.wait(self._runs, return_when=asyncio.FIRST_COMPLETED)
                self._answered.clear()
                self._gone = False
                asked = consumer.fetch(1, FETCH_EXPIRES_S)
                if asked:
                    await _wait(self._answered, FETCH_EXPIRES_S + FETCH_MARGIN_S)
                if not asked or self._gone:
                    await asyncio.sleep(RETRY_WAIT_S)
        finally:
            consumer.close()

    def _on_delivery(self, delivered: Delivered) -> None:
        task = self._spawn(self._run(delivered))
        self._runs[task] = None
        task.add_done_callback(self._runs.pop)
        self._answered.set()

    def _on_end(self, _unused: int) -> None:
        self._answered.set()

    def _on_gone(self) -> None:
        self._gone = True

    async def _run(self, delivered: Delivered) -> None:
        delivery = subjects.parse_ack(delivered.ack)
        assert delivery is not None, "a delivery has an ack subject"
        try:
            record = _record.decode(delivered.payload)
        except ValueError as error:
            _log.error("not a batch: dropped", subject=delivered.subject, error=str(error))
            self._js.ack(delivered.ack)
            return
        holding = asyncio.create_task(self._hold(delivered.ack))
        run = Run(self._means, record, f"{self._edge}-{delivery.delivered}")
        try:
            _log.info("runs a batch", batch=record.batch.id, delivery=delivery.delivered)
            if delivery.delivered > DELIVERIES_MAX:
                await run.give_up()
            elif not await run.run():
                return
            # Lost, it is delivered again, to somebody who finds that it is over.
            self._js.ack(delivered.ack)
        except asyncio.CancelledError:
            self._js.nak(delivered.ack)
            raise
        finally:
            holding.cancel()

    async def _hold(self, ack: str) -> None:
        while True:
            await asyncio.sleep(BATCH_ACK_WAIT_S / 4)
            self._js.progress(ack)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
