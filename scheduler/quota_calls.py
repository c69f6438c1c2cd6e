"""The shell's calls for the quotas of direct publishers: each says how it ended with an event."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from infra.jetstream import JetStream, Stored
from infra.logs import get_logger
from infra.output_log import OutputLog
from infra.wire import parse_headers
from scheduler import events, quota_events
from scheduler.quota_events import Queued
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.output import End
from schemas.requests import EDGE, FINGERPRINT, TRACEPARENT
from schemas.streams import REQUESTS

REFUSALS_MAX = 64
"""Under way at a time: at ~1 ms each."""

FOUND_BYTES_MAX = 4 << 20
"""Of the bodies that come along with one read."""

_log = get_logger("scheduler")

_FAILURES = (BrokerAway, BrokerRefused, ValueError)


class QuotaCalls:
    """Counts, finds and refuses what is queued."""

    def __init__(self, js: JetStream, handle: Callable[[events.Event], None]) -> None:
        self._js = js
        self._log = OutputLog(js)
        self._handle = handle
        self._refusals = asyncio.Semaphore(REFUSALS_MAX)

    async def count(self) -> None:
        """All requests, by tenant and by model."""
        tenants: Counter[str] = Counter()
        models: Counter[str] = Counter()
        try:
            for subject, count in (await self._js.counts_by_subject(REQUESTS, subjects.REQUESTS_ALL)).items():
                named = subjects.parse_request(subject)
                if named is not None:
                    tenants[named.tenant] += count
                    models[named.model] += count
        except _FAILURES as error:
            self._fail(error)
        else:
            self._handle(quota_events.QueueCounted(dict(tenants), dict(models)))

    async def find(self, find: quota_events.FindOver) -> None:
        """What stands behind the first ones of a tenant or model."""
        matching = (
            subjects.requests_of_tenant(find.key)
            if find.kind == "tenant"
            else subjects.requests_of_model(find.key)
        )
        try:
            stored = await self._behind(matching, find.queue_max, find.limit)
        except _FAILURES as error:
            self._fail(error)
        else:
            queued = [one for one in map(_queued, stored) if one is not None]
            self._handle(quota_events.OverFound(find.kind, find.key, queued))

    async def refuse(self, refuse: quota_events.RefuseQueued) -> None:
        """Nothing that has been begun is touched: END is only written as the first ctl record."""
        tenant, rid = refuse.tenant, refuse.rid
        is_refused = False
        try:
            async with self._refusals:
                last = await self._log.close(tenant, rid, refuse.end, expect=0)
                if isinstance(last.record, End):
                    is_refused = True
                    await self._js.delete(REQUESTS, refuse.stream_seq)
                    self._handle(events.EndWritten(tenant, rid))
                    _log.info("refused", tenant=tenant, rid=rid, reason=refuse.end.reason)
        except _FAILURES as error:
            _log.warning("a request over its quota was not refused", tenant=tenant, rid=rid, error=str(error))
        self._handle(quota_events.RefusalOver(is_refused))

    async def _behind(self, matching: str, skip: int, limit: int) -> list[Stored]:
        """The messages after the first `skip` ones, oldest first. Where those begin is searched by halves: the broker
        tells with any message how many come after it."""
        low, last = await self._js.bounds(REQUESTS)
        high = last + 1
        total = await self._from(matching, low)
        while low < high and total > skip:
            middle = (low + high) // 2
            if await self._from(matching, middle) > total - skip:
                low = middle + 1
            else:
                high = middle
        if total <= skip:
            return []
        found, _ = await self._js.read_batch(REQUESTS, matching, low, limit, bytes_max=FOUND_BYTES_MAX)
        return found

    async def _from(self, matching: str, seq: int) -> int:
        """Messages from `seq` on."""
        found, more = await self._js.read_batch(REQUESTS, matching, seq, 1)
        return len(found) + more

    def _fail(self, error: Exception) -> None:
        _log.warning("quotas not looked at", error=str(error))
        self._handle(quota_events.QuotaCallFailed())


def _queued(stored: Stored) -> Queued | None:
    named = subjects.parse_request(stored.subject)
    if named is None:
        return None
    headers = parse_headers(stored.headers)
    return Queued(
        tenant=named.tenant,
        rid=named.rid,
        stream_seq=stored.seq,
        admitted=bool(headers.get(EDGE)),
        fingerprint=headers.get(FINGERPRINT, ""),
        traceparent=headers.get(TRACEPARENT, ""),
    )
