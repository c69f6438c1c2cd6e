"""The records of responses in the stream RESPONSES."""

from __future__ import annotations

import asyncio
import contextlib

from edge.errors import NOT_STORED, Problem
from edge.idempotency import mismatch, same_body
from edge.publishing import RETRY_WAIT_S, TRY_TIMEOUT_S
from edge.responses.quota import ResponsesQuota
from edge.responses.record import Record, decode_record, encode_record
from edge.waiting_room import WaitingRoom, no_place
from infra.jetstream import (
    FULL,
    IN_PROCESS,
    SERVICE_UNAVAILABLE,
    WRONG_LAST,
    JetStream,
    PubAck,
    expect_headers,
)
from infra.logs import get_logger
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.streams import RESPONSES

HEADERS_BYTES = 1024
"""Room for a record's subject and headers beside it in a message."""

_log = get_logger("responses")


class ResponseStore:
    """`js.timeout_s` bounds all tries of one record, `room` how many may wait for a broker that is away, `quota` what a
    tenant may keep."""

    def __init__(self, js: JetStream, room: WaitingRoom, quota: ResponsesQuota) -> None:
        self._js = js
        self._room = room
        self._quota = quota

    async def keep(self, tenant: TenantKey, rid: RequestId, record: Record) -> int | Problem | None:
        """Stores the record of a request that is about to be published. The stream's sequence of it; None: it was there
        already, for the same body. A problem: it is not kept, and the request must not be published."""
        if self._room.is_full:
            return no_place()
        payload = encode_record(record)
        if len(payload) > self._js.bus.max_payload - HEADERS_BYTES:
            return Problem("too_large", "the conversation is too large to be kept: send it with store=false")
        refusal = await self._quota.enter(tenant, record, len(payload))
        if refusal is not None:
            return refusal
        kept = await self._keep_patiently(tenant, rid, record, payload)
        if not isinstance(kept, int):
            self._quota.leave(tenant, record)
        return kept

    async def find(self, tenant: TenantKey, rid: RequestId) -> tuple[Record, int] | None:
        """The record and its sequence; None: no response of this id is kept (any more). Raises BrokerAway."""
        stored = await self._js.last(RESPONSES, subjects.response(tenant, rid))
        return None if stored is None else (decode_record(stored.payload), stored.seq)

    async def drop(self, tenant: TenantKey, record: Record, seq: int) -> None:
        """Deletes a record. Raises BrokerAway."""
        if await self._js.delete(RESPONSES, seq):
            self._quota.leave(tenant, record)

    async def drop_unused(self, tenant: TenantKey, record: Record, seq: int, rid: RequestId) -> None:
        """Deletes the record of a request that was refused after all; one that stays expires."""
        try:
            await self.drop(tenant, record, seq)
        except (BrokerAway, BrokerRefused) as error:
            _log.warning(
                "the record of a refused response stays until it expires",
                tenant=tenant,
                rid=rid,
                error=str(error),
            )

    async def _keep_patiently(
        self, tenant: TenantKey, rid: RequestId, record: Record, payload: bytes
    ) -> int | Problem | None:
        now = asyncio.get_running_loop().time
        give_up_at = now() + self._js.timeout_s
        with self._room.stay() as stay:
            while True:
                with contextlib.suppress(BrokerAway):
                    return await self._keep(tenant, rid, record, payload)
                wait_s = RETRY_WAIT_S if self._js.bus.connected else give_up_at - now()
                if now() >= give_up_at or not await stay.wait(wait_s):
                    return NOT_STORED

    async def _keep(
        self, tenant: TenantKey, rid: RequestId, record: Record, payload: bytes
    ) -> int | Problem | None:
        ack: PubAck = await self._js.publish(
            subjects.response(tenant, rid), payload, headers=expect_headers(0), timeout_s=TRY_TIMEOUT_S
        )
        if ack.stored:
            return ack.seq
        if ack.err_code == WRONG_LAST:
            # An earlier try's, or that of somebody with the same key; two bodies under one key are a mistake.
            known = await self.find(tenant, rid)
            if known is None:
                raise BrokerAway(f"the record of {rid} was there and is not any more")
            return None if same_body(known[0].fingerprint, record.fingerprint) else mismatch()
        if ack.err_code == FULL:
            return Problem(
                "output_full",
                "there is no room to keep another response: try again later, or with store=false",
            )
        if ack.err_code in (IN_PROCESS, SERVICE_UNAVAILABLE):
            raise BrokerAway(f"the record of {rid} was not stored: the stream is busy or elects its leader")
        _log.error(
            "the broker refused a record", tenant=tenant, rid=rid, error=ack.description, code=ack.err_code
        )
        return Problem("internal", f"the broker refused the record of the response with error {ack.err_code}")
