"""From an idempotency key to the request it means, at every edge the same one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from edge.errors import NOT_STORED, Problem
from edge.idempotency import State, choose, mismatch, rids_of, same_body
from edge.lookup import Found, Lookup
from edge.publishing import RETRY_WAIT_S
from edge.waiting_room import WaitingRoom, no_place
from infra.jetstream import JetStream
from infra.kv import KeyValue
from infra.logs import get_logger
from schemas.errors import BrokerAway
from schemas.ids import RequestId, TenantKey
from schemas.streams import CONFIG_BUCKET, bucket_stream

SECRET_KEY = "idempotency_secret"
SECRET_BYTES = 32
"""As many as the hash of the HMAC has."""

_log = get_logger("lineages")


@dataclass(frozen=True)
class Resolved:
    """The request a key means now. `found`: it exists and is attached to; None: it is to be published."""

    rid: RequestId
    found: Found | None

    @property
    def exists(self) -> bool:
        """Whether the request needs no publish."""
        return self.found is not None


class Lineages:
    """Resolves keys. `timeout_s` bounds one call, `room` how many may wait for a broker that is away.

    An edge calls `resolve` before it admits a request with a key. What exists is read, whatever admission would say now
    (a full queue, a draining edge); what does not is admitted under the rid and published. Two edges may be told to
    publish the same rid: `Publisher` makes one run of it.
    """

    def __init__(self, js: JetStream, lookup: Lookup, room: WaitingRoom, *, timeout_s: float) -> None:
        self._js = js
        self._lookup = lookup
        self._room = room
        self._timeout_s = timeout_s
        self._secret: bytes | None = None
        js.bus.on_state(self._on_state)

    async def resolve(self, tenant: TenantKey, key: str, fingerprint: str) -> Resolved | Problem:
        """`fingerprint` is that of the client's body; `idempotency_mismatch` if the key stands for another one.

        `broker_away`: nothing is known, and nothing was published. Raises ValueError if a log holds no records.
        """
        if self._room.is_full:
            return no_place()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._resolve_patiently(tenant, key, fingerprint)
        except TimeoutError:
            return NOT_STORED

    async def newest(self, tenant: TenantKey, key: str) -> RequestId | None:
        """The newest request of a key; None: it has none (any more). Raises BrokerAway, and ValueError as `resolve`."""
        rids = rids_of(await self._shared_secret(), tenant, key)
        generations = await asyncio.gather(*[self._lookup.find(tenant, rid) for rid in rids])
        known = [rid for rid, found in zip(rids, generations, strict=True) if found is not None]
        return known[-1] if known else None

    async def _resolve_patiently(self, tenant: TenantKey, key: str, fingerprint: str) -> Resolved | Problem:
        with self._room.stay() as stay:
            while True:
                try:
                    return await self._resolve(tenant, key, fingerprint)
                except BrokerAway:
                    wait_s = RETRY_WAIT_S if self._js.bus.connected else self._timeout_s
                    if not await stay.wait(wait_s):
                        return no_place()

    async def _resolve(self, tenant: TenantKey, key: str, fingerprint: str) -> Resolved | Problem:
        rids = rids_of(await self._shared_secret(), tenant, key)
        # All at once, and in both streams: an older generation's log may have expired while a newer one is queued.
        generations = await asyncio.gather(*[self._lookup.find(tenant, rid) for rid in rids])
        known = [found for found in generations if found is not None]
        if known and not same_body(known[-1].fingerprint, fingerprint):
            return mismatch()
        chosen = choose(_states(generations)).generation
        return Resolved(rids[chosen], generations[chosen])

    async def _shared_secret(self) -> bytes:
        if self._secret is None:
            # Schedulers make it, with all streams.
            if not await self._js.exists(bucket_stream(CONFIG_BUCKET).name):
                raise BrokerAway(f"there is no bucket {CONFIG_BUCKET} yet")
            bucket = KeyValue(self._js, CONFIG_BUCKET)
            if await bucket.create(SECRET_KEY, os.urandom(SECRET_BYTES)) is not None:
                _log.info("made the secret of idempotency keys")
            stored = await bucket.get(SECRET_KEY)
            if stored is None:
                raise BrokerAway("the secret of idempotency keys has vanished")
            self._secret = stored[0]
        return self._secret

    def _on_state(self, connected: bool) -> None:
        # A broker that came back without its store gets another secret, and all edges must use the same one.
        if connected:
            self._secret = None


def _states(generations: Sequence[Found | None]) -> list[State]:
    return [_state(found) for found in generations]


def _state(found: Found | None) -> State:
    if found is None:
        return "absent"
    if found.end is None:
        return "open"
    return "ok" if found.end.status == "ok" else "not_ok"
