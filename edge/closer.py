"""Ends requests that this edge does not run: cancelled, or out of time."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from edge import metrics
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.logs import get_logger
from infra.output_log import OutputLog, decode_entry
from schemas import subjects
from schemas.dispatch import Cancel, encode
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.log import Entry
from schemas.output import End, Tok, Usage
from schemas.streams import OUTPUT

CLOSES_MAX = 10_000
"""Ends that may wait; past it a request runs on instead. Every connection of a process can leave at once."""

CLOSES_RUNNING_MAX = 64
CLOSE_TIMEOUT_S = 60.0
"""The broker may be away for that long. A request whose end is given up ends by its time-out, at the leader."""

RETRY_WAIT_S = 0.5

_log = get_logger("closer")


class Closer:
    """END is what makes an end true and fences the worker; the hint afterwards frees the GPU."""

    def __init__(self, bus: Bus, js: JetStream, log: OutputLog) -> None:
        self._bus = bus
        self._js = js
        self._output_log = log
        self._running = asyncio.Semaphore(CLOSES_RUNNING_MAX)
        self._tasks: dict[tuple[TenantKey, RequestId, int | None], asyncio.Task[None]] = {}

    async def close(self, tenant: TenantKey, rid: RequestId, end: End, *, expect: int | None = None) -> Entry:
        """Writes `end` with the usage so far, unless the request has ended already. `expect`, what is returned and what
        is raised: see `OutputLog.close`."""
        tokens = 0 if expect == 0 else await self._tokens(tenant, rid)
        closing = replace(end, usage=Usage(prompt_tokens=0, completion_tokens=tokens))
        last = await self._output_log.close(tenant, rid, closing, expect=expect)
        if isinstance(last.record, End) and last.record.n is None:
            # Not its owner's: whoever holds the request may not know yet. Also when it was stored by an earlier try.
            self._bus.publish(subjects.cancel(tenant, rid), encode(Cancel(reason=last.record.reason)))
            if last.record == closing and end.status == "cancelled":
                metrics.CANCELS.inc()
        return last

    def close_soon(self, tenant: TenantKey, rid: RequestId, end: End, *, expect: int | None = None) -> None:
        """`close` in the background, tried again while the broker is away: the request's own task may end."""
        key = tenant, rid, expect
        if key in self._tasks:
            return
        if len(self._tasks) >= CLOSES_MAX:
            _log.warning(
                "not ended: it runs on", tenant=tenant, rid=rid, status=end.status, waiting=len(self._tasks)
            )
            return
        task = asyncio.create_task(self._close_in_time(tenant, rid, end, expect))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key))

    async def drain(self, timeout_s: float) -> None:
        """Waits for what is under way, and drops what takes longer."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                _log.warning("not ended before the stop: they run on", requests=len(late))

    async def _close_in_time(self, tenant: TenantKey, rid: RequestId, end: End, expect: int | None) -> None:
        log = _log.bind(tenant=tenant, rid=rid)
        deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                async with self._running:
                    last = await self.close(tenant, rid, end, expect=expect)
            except BrokerAway:
                await asyncio.sleep(RETRY_WAIT_S)
            except BrokerRefused as error:
                log.error("not ended: it runs on", status=end.status, error=str(error))
                return
            else:
                closed = isinstance(last.record, End) and last.record.reason == end.reason
                log.info("ended" if closed else "not ended: somebody was faster", reason=end.reason)
                return
        log.error("not ended: the broker is away", status=end.status, timeout_s=CLOSE_TIMEOUT_S)

    async def _tokens(self, tenant: TenantKey, rid: RequestId) -> int:
        """Tokens in the log; an append in flight may still add to them before END is stored."""
        stored = await self._js.last(OUTPUT, subjects.output_tok(tenant, rid))
        record = decode_entry(stored).record if stored is not None else None
        return record.off + len(record.ids) if isinstance(record, Tok) else 0
