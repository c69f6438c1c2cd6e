"""The thin shell of the counts: calls on the bucket, and whoever waits to be let in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Literal, assert_never

from edge.counts import events
from edge.counts.core import Counts
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.kv import KeyValue
from infra.logs import get_logger
from infra.settings import Settings
from schemas.errors import BrokerAway, BrokerRefused
from schemas.streams import COUNTS_BUCKET

CALL_TIMEOUT_S = 1.0
"""A call takes less than 1 ms; after this the value is read again."""

CLOSE_POLL_S = 0.005

_log = get_logger("counts")

Said = Literal["admitted", "full", "away"]


class SharedCounts:
    """Counts over all edges. `fail` ends the process: for a bug that no caller would see. Nothing is asked of the
    broker before somebody wants to be counted."""

    def __init__(self, settings: Settings, bus: Bus, edge: str, fail: Callable[[Exception], None]) -> None:
        self._bucket = KeyValue(
            JetStream(bus, timeout_s=min(CALL_TIMEOUT_S, settings.publish_timeout_s)), COUNTS_BUCKET
        )
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._core = Counts(
            edge,
            self._loop.time(),
            silent_s=settings.edge_silent_s,
            wait_s=settings.publish_timeout_s,
            waiting_max=settings.edge_pending_max,
        )
        self._tickets = count()
        self._waiting: dict[int, asyncio.Future[Said]] = {}
        self._calls: dict[asyncio.Task[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        bus.on_state(lambda connected: self._handle(events.Connected(connected)))
        self._handle(events.Connected(bus.connected))

    async def enter(self, key: str, bound: int) -> Said:
        """Counts one more under `key`, unless that would be more than `bound` over all edges. "away": the broker did
        not tell in time. Who is admitted must `leave`."""
        ticket = next(self._tickets)
        waiter: asyncio.Future[Said] = self._loop.create_future()
        self._waiting[ticket] = waiter
        self._handle(events.Enter(ticket, key, bound))
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            if not waiter.done():
                self._handle(events.Withdraw(ticket))
            elif waiter.result() == "admitted":
                self.leave(key)
            raise
        finally:
            self._waiting.pop(ticket, None)

    def leave(self, key: str) -> None:
        """One that was admitted counts no more."""
        self._handle(events.Leave(key))

    def heard(self, edge: str) -> None:
        """An edge's heartbeat came."""
        self._handle(events.Heard(edge))

    async def close(self, timeout_s: float) -> None:
        """Tells the bucket what is still counted here, and calls nobody any more."""
        until = self._loop.time() + timeout_s
        while not self._core.is_settled and self._loop.time() < until:
            await asyncio.sleep(CLOSE_POLL_S)
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _handle(self, event: events.Event) -> None:
        for action in self._core.handle(event, self._loop.time()):
            match action:
                case events.Read(key):
                    self._call(self._read(key))
                case events.Write(key, value, revision):
                    self._call(self._write(key, value, revision))
                case events.Admit(ticket):
                    self._answer(ticket, "admitted")
                case events.Refuse(ticket):
                    self._answer(ticket, "full")
                case events.GiveUp(ticket):
                    self._answer(ticket, "away")
                case _:
                    assert_never(action)
        self._arm()

    def _answer(self, ticket: int, said: Said) -> None:
        self._waiting[ticket].set_result(said)

    def _call(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        self._calls[task] = None
        task.add_done_callback(self._on_called)

    def _on_called(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)

    async def _read(self, key: str) -> None:
        event: events.Event = events.Failed(key)
        try:
            value, revision = await self._bucket.get(key) or (None, 0)
            event = events.WasRead(key, value, revision)
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("a count cannot be read now", key=key, error=str(error))
        self._handle(event)

    async def _write(self, key: str, value: bytes, revision: int) -> None:
        event: events.Event = events.Failed(key)
        try:
            event = events.Written(key, await self._bucket.update(key, value, revision))
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("a count cannot be written now", key=key, error=str(error))
        self._handle(event)

    def _arm(self) -> None:
        """One that rings too early costs a tick, so it is only ever moved forward."""
        at = self._core.next_deadline()
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._handle(events.Tick())
