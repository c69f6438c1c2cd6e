"""How much of the store of responses one tenant may fill."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from edge.errors import Problem
from edge.responses.record import Record, encode_record
from infra import clock
from infra.bus import Bus
from infra.counters import Counters
from infra.jetstream import JetStream
from infra.logs import get_logger
from infra.settings import Settings
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import TenantKey
from schemas.quotas import QUOTA_EXCEEDED, store_full
from schemas.streams import RATE_WINDOW_S_MAX, RATES

SLOTS = 4
"""A record counts until its slot has passed, a fourth of its life longer than it is there at most."""

SLOT_S_MAX = 2 * RATE_WINDOW_S_MAX / (SLOTS + 1)
"""RATES forgets what is older than all slots of this length."""

RECORD_OVERHEAD_BYTES = 160
"""Of a record's message beside its payload: its subject, and what the broker stores with every message."""

COUNT_TIMEOUT_S = 0.25
"""A hundred times what a count takes."""

_log = get_logger("responses")


class ResponsesQuota:
    """What a tenant keeps is what it stored within the time that a record lives, less what was deleted: counters of
    slots of that time, shared by all edges, which are added to first and asked then, so of records that race only those
    that fit stay. Where the counters do not answer a record is stored uncounted: the store has its own bound. `now`
    gives Unix seconds."""

    def __init__(self, settings: Settings, bus: Bus, now: Callable[[], float] = clock.unix_s) -> None:
        self._now = now
        self._is_on = settings.store_share < 1
        self._bytes_max = int(settings.responses_bytes_max * settings.store_share)
        life_s = settings.request_timeout_max_s + settings.result_ttl_s
        self._slot_s = min(life_s / SLOTS, SLOT_S_MAX)
        self._counters = Counters(JetStream(bus), RATES, timeout_s=COUNT_TIMEOUT_S)

    async def enter(self, tenant: TenantKey, record: Record, size: int) -> Problem | None:
        """Counts a record that is about to be stored with `size` bytes; whoever does not store it, leaves."""
        if not self._is_on:
            return None
        amount, newest = size + RECORD_OVERHEAD_BYTES, self._slot(record.created)
        refusal = Problem(
            QUOTA_EXCEEDED,
            f"{store_full('responses', self._bytes_max)}; or send it with store=false",
            retry_after_s=self._slot_s - self._now() % self._slot_s,
        )
        if amount > self._bytes_max:
            return refusal
        earlier = [self._counters.read(self._subject(tenant, newest - back)) for back in range(1, SLOTS + 1)]
        try:
            sums = await asyncio.gather(self._counters.add(self._subject(tenant, newest), amount), *earlier)
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("a response is kept uncounted", error=str(error))
            return None
        if sum(max(0, kept) for kept in sums) <= self._bytes_max:
            return None
        self._add(tenant, newest, -amount)
        return refusal

    def leave(self, tenant: TenantKey, record: Record) -> None:
        """A record that had entered is not there any more. Not awaited: what is lost counts for the record's life."""
        slot = self._slot(record.created)
        if self._is_on and slot >= self._slot(self._now()) - SLOTS:
            self._add(tenant, slot, -len(encode_record(record)) - RECORD_OVERHEAD_BYTES)

    def _add(self, tenant: TenantKey, slot: int, amount: int) -> None:
        self._counters.add_unheard(self._subject(tenant, slot), amount)

    def _slot(self, at: float) -> int:
        return int(at // self._slot_s)

    def _subject(self, tenant: TenantKey, slot: int) -> str:
        counter = f"responses/{tenant}/{self._slot_s:g}/{slot}"
        return subjects.rate(hashlib.sha256(counter.encode()).hexdigest()[:32])
