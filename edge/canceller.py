"""Cancels requests that nobody reads any more, in the background."""

from __future__ import annotations

import asyncio

from infra.bus import Bus
from infra.logs import get_logger
from infra.output_log import OutputLog
from schemas import subjects
from schemas.dispatch import Cancel, encode
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.output import End

CANCELS_MAX = 10_000
"""Cancels that may wait; past it a request runs to its end instead. Every connection of a process can leave at once."""

CANCELS_RUNNING_MAX = 64
CANCEL_TIMEOUT_S = 60.0
"""The broker may be away for that long. A request whose cancel is given up ends by its time-out."""

RETRY_WAIT_S = 0.5

_END = End(status="cancelled", reason="cancelled", message="the client went away")
_HINT = encode(Cancel(reason="client_gone"))
_log = get_logger("canceller")


class Canceller:
    """END(cancelled) is what makes a cancel true and fences the worker; the hint afterwards frees the GPU now."""

    def __init__(self, bus: Bus, log: OutputLog) -> None:
        self._bus = bus
        self._output_log = log
        self._running = asyncio.Semaphore(CANCELS_RUNNING_MAX)
        self._tasks: dict[RequestId, asyncio.Task[None]] = {}

    def cancel(self, tenant: TenantKey, rid: RequestId) -> None:
        """Returns at once; the request's own task may end."""
        if rid in self._tasks or len(self._tasks) >= CANCELS_MAX:
            _log.warning("not cancelled: it runs to its end", rid=rid, waiting=len(self._tasks))
            return
        task = asyncio.create_task(self._cancel(tenant, rid))
        self._tasks[rid] = task
        task.add_done_callback(lambda _: self._tasks.pop(rid))

    async def drain(self, timeout_s: float) -> None:
        """Waits for the cancels under way, and drops those that take longer."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                _log.warning("not cancelled before the stop: they run to their end", requests=len(late))

    async def _cancel(self, tenant: TenantKey, rid: RequestId) -> None:
        deadline = asyncio.get_running_loop().time() + CANCEL_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                async with self._running:
                    stored = await self._output_log.close(tenant, rid, _END)
            except BrokerAway:
                await asyncio.sleep(RETRY_WAIT_S)
            except BrokerRefused as error:
                _log.error("not cancelled: it runs to its end", rid=rid, error=str(error))
                return
            else:
                if stored.record == _END:
                    self._bus.publish(subjects.cancel(tenant, rid), _HINT)
                    _log.info("cancelled", rid=rid)
                return
        _log.error("not cancelled: the broker is away", rid=rid, timeout_s=CANCEL_TIMEOUT_S)
