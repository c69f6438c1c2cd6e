"""Requests whose reader left: they may run on, and count until their END is seen, or cannot be far any more, or until
it is seen that they were never stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from edge.lookup import Lookup
from infra.bus import Bus, Subscription
from infra.logs import get_logger
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.output import CtlRecord, End, decode_ctl

LOOK_FIRST_S = 1.0
LOOK_EVERY_S = 30.0
"""Between two looks, at first and at the longest: a live record can be lost on its way, most of all around the moment
that made the reader leave; the log cannot."""

LOOKS_MAX = 16
"""Logs that are looked at in the same moment."""

OVERDUE_S = 30.0
"""Past a request's whole time-out: by then it has an END, or OUTPUT has no room for one."""

_log = get_logger("counts")


class Leftovers:
    """There are never more of them than the bounds they are counted for allow."""

    def __init__(self, bus: Bus, lookup: Lookup, fail: Callable[[Exception], None]) -> None:
        self._bus = bus
        self._lookup = lookup
        self._fail = fail
        self._looks = asyncio.Semaphore(LOOKS_MAX)
        self._watches: dict[asyncio.Task[None], None] = {}

    def watch(self, tenant: TenantKey, rid: RequestId, timeout_s: float, over: Callable[[], None]) -> None:
        """Calls `over` once, when the request has ended; `timeout_s` is what is left to it at most."""
        task = asyncio.create_task(self._watch(tenant, rid, timeout_s, over))
        self._watches[task] = None
        task.add_done_callback(self._on_over)

    async def close(self) -> None:
        """What runs on is not watched any more, and counts for as long as this edge is taken to be alive."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _watch(
        self, tenant: TenantKey, rid: RequestId, timeout_s: float, over: Callable[[], None]
    ) -> None:
        ended = asyncio.Event()

        def on_live(_subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
            if isinstance(_record(payload), End):
                ended.set()

        subscription: Subscription = self._bus.subscribe(subjects.live_ctl(tenant, rid), on_live)
        try:
            async with asyncio.timeout(timeout_s + OVERDUE_S):
                await self._until_over(tenant, rid, ended)
        except TimeoutError:
            _log.warning("no END in time: counted no more", tenant=tenant, rid=rid)
        finally:
            subscription.close()
        over()

    async def _until_over(self, tenant: TenantKey, rid: RequestId, ended: asyncio.Event) -> None:
        wait_s, before = LOOK_FIRST_S, ""
        while not ended.is_set():
            seen = await self._look(tenant, rid)
            # What nobody confirmed may not be stored. Twice: it may have been on its way when first looked for.
            if seen == "over" or seen == before == "nowhere":
                return
            before = seen
            await _wait(ended, wait_s)
            wait_s = min(2 * wait_s, LOOK_EVERY_S)

    async def _look(self, tenant: TenantKey, rid: RequestId) -> Literal["runs", "over", "nowhere", "unknown"]:
        try:
            async with self._looks:
                found = await self._lookup.find(tenant, rid)
        except (BrokerAway, BrokerRefused, ValueError) as error:
            _log.debug(
                "a request that was left cannot be looked at", tenant=tenant, rid=rid, error=str(error)
            )
            return "unknown"
        if found is None:
            return "nowhere"
        return "runs" if found.end is None else "over"

    def _on_over(self, task: asyncio.Task[None]) -> None:
        del self._watches[task]
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)


def _record(payload: bytes) -> CtlRecord | None:
    try:
        return decode_ctl(payload)
    except ValueError:
        return None


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
