"""The contents of files in the stream FILES."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple, cast

from edge.batches.records import Outcome
from edge.batches.results import OUTCOME_HEADER
from infra import wire
from infra.jetstream import FULL, IN_PROCESS, SERVICE_UNAVAILABLE, JetStream, Stored
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused, StreamFull
from schemas.ids import TenantKey
from schemas.streams import FILES, FILES_REFUSE_AT

PART_BYTES = 256 << 10
"""Of an uploaded file: fits any broker's largest message, and thousands of files stay within memory."""

PAGE_BYTES = 1 << 20
"""Read at once; a single result may be larger."""

READ_RETRY_WAIT_S = 0.1
READ_TRIES_MAX = 50
"""A follower lags by milliseconds, and a broker is back within seconds."""


class Part(NamedTuple):
    """One message of a content; of a batch's results it is a line, and `outcome` says of which file."""

    number: int
    outcome: Outcome | None
    data: bytes


class ContentGoneError(Exception):
    """The file was deleted, or expired, while it was read."""


class Contents:
    """Parts are stored once: what is there under a number stays."""

    def __init__(self, js: JetStream) -> None:
        self._js = js

    async def has_room(self) -> bool:
        """Whether new files and batches are taken."""
        return (await self._js.usage(FILES)).share < FILES_REFUSE_AT

    async def put(
        self, tenant: TenantKey, content: str, number: int, data: bytes, outcome: Outcome | None = None
    ) -> Part:
        """Stores a part, unless there is one of this number; the one that is there afterwards.

        Raises BrokerAway (it may be stored: try again) and StreamFull.
        """
        subject = subjects.file_part(tenant, content, number)
        headers = b"" if outcome is None else wire.encode_headers({OUTCOME_HEADER: outcome})
        ack = await self._js.publish(subject, data, headers=headers)
        if ack.stored:
            return Part(number, outcome, data)
        if ack.err_code == FULL:
            there = await self._js.last(FILES, subject)
            if there is None:
                raise StreamFull(f"no room for files: {ack.description}")
            return _part(there)
        if ack.err_code in (IN_PROCESS, SERVICE_UNAVAILABLE):
            raise BrokerAway("the stream of files is busy, or elects its leader")
        raise BrokerRefused(f"a part of a file was not stored: {ack.description} ({ack.err_code})")

    async def parts(
        self,
        tenant: TenantKey,
        content: str,
        *,
        size: int | None = None,
        outcome: Outcome | None = None,
        patient: bool = False,
    ) -> AsyncIterator[Part]:
        """All parts in stream order, or those of one outcome.

        `size`: the bytes they have together; what is stored after these does not belong to the file. Without it, what a
        replica that lags does not know yet is missed. Raises ContentGoneError if there are fewer bytes than that, and
        BrokerAway when it lasts, unless `patient`.
        """
        next_seq, got, away, short = 1, 0, 0, 0
        while True:
            try:
                page, more = await self._js.page(
                    FILES, subjects.file_parts(tenant, content), start_seq=next_seq, bytes_max=PAGE_BYTES
                )
            except BrokerAway:
                away += 1
                if away > READ_TRIES_MAX and not patient:
                    raise
                await asyncio.sleep(READ_RETRY_WAIT_S)
                continue
            away = 0
            for stored in page:
                part = _part(stored)
                next_seq = stored.seq + 1
                if outcome is None or part.outcome == outcome:
                    got += len(part.data)
                    yield part
                if got == size:
                    return
            if page and more:
                continue
            if size is None:
                return
            short += 1
            if short > READ_TRIES_MAX:
                raise ContentGoneError(f"{content}: {got} bytes of {size}")
            await asyncio.sleep(READ_RETRY_WAIT_S)

    async def drop(self, tenant: TenantKey, content: str) -> None:
        """Deletes all parts."""
        await self._js.purge(FILES, subjects.file_parts(tenant, content))


def _part(stored: Stored) -> Part:
    outcome = wire.header_value(stored.headers, OUTCOME_HEADER.encode())
    named = None if outcome is None else cast("Outcome", outcome.decode())
    return Part(subjects.part_number(stored.subject), named, stored.payload)
