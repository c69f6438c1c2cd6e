"""Reading and closing a request's output log over JetStream. Writing it is the worker's token path."""

from __future__ import annotations

import asyncio
from datetime import datetime

from infra.jetstream import (
    FULL,
    IN_PROCESS,
    SERVICE_UNAVAILABLE,
    WRONG_LAST,
    JetStream,
    Stored,
    expect_headers,
)
from infra.wire import header_value
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused, StreamFull
from schemas.log import Entry
from schemas.output import End, decode_ctl, decode_tok, encode
from schemas.streams import OUTPUT

_CLOSE_TRIES_MAX = 20
"""Each lost race against an attempt is one more attempt of the request; its attempts are bounded by the same number."""

_CHAIN_TRIES_MAX = 20
_CHAIN_RETRY_WAIT_S = 0.05
"""A follower lags by milliseconds; one that is behind for a second is on its way out."""


class OutputLog:
    """The logs in OUTPUT. Every call raises BrokerAway when the broker does not answer."""

    def __init__(self, js: JetStream) -> None:
        self._js = js

    async def last_ctl(self, tenant: str, rid: str) -> Entry | None:
        """The newest ctl record, from the stream leader: None means that there is none."""
        stored = await self._js.last(OUTPUT, subjects.output_ctl(tenant, rid))
        return None if stored is None else decode_entry(stored)

    async def read(
        self, tenant: str, rid: str, *, start_seq: int = 1, upto_seq: int | None = None
    ) -> list[Entry]:
        """All records from `start_seq` on, in stream order; with `upto_seq` not beyond it.

        A replica may lag: the last record returned is not proof that there is no later one. With `upto_seq`
        the caller knows a record that must be there, and reads again while it is not.
        """
        stored = await self.read_stored(tenant, rid, start_seq=start_seq, upto_seq=upto_seq)
        return [decode_entry(one) for one in stored]

    async def read_stored(
        self, tenant: str, rid: str, *, start_seq: int = 1, upto_seq: int | None = None
    ) -> list[Stored]:
        """Like `read`, the messages as they are stored."""
        stored = await self._js.read(OUTPUT, subjects.output_log(tenant, rid), start_seq=start_seq)
        return [one for one in stored if upto_seq is None or one.seq <= upto_seq]

    async def ctl_chain(self, tenant: str, rid: str, *, upto_seq: int | None = None) -> list[Entry]:
        """The ctl records up to the one at `upto_seq`, which is known to be stored; older ones may have expired.

        Raises BrokerAway also when the replicas that answer lag behind it for long.
        """
        ctl = subjects.output_ctl(tenant, rid)
        if upto_seq is None:
            return [decode_entry(one) for one in await self._js.read(OUTPUT, ctl)]
        for _ in range(_CHAIN_TRIES_MAX):
            chain = [decode_entry(one) for one in await self._js.read(OUTPUT, ctl) if one.seq <= upto_seq]
            if chain and chain[-1].seq == upto_seq:
                return chain
            await asyncio.sleep(_CHAIN_RETRY_WAIT_S)
        raise BrokerAway(f"no replica has record {upto_seq} of {rid} yet")

    async def last_tok_seq(self, tenant: str, rid: str) -> int:
        """The sequence of the newest tok record, from the stream leader; 0: there is none."""
        stored = await self._js.last(OUTPUT, subjects.output_tok(tenant, rid))
        return 0 if stored is None else stored.seq

    async def close(self, tenant: str, rid: str, end: End, *, expect: int | None = None) -> Entry:
        """Writes `end` for a request one does not run, by CAS on its last ctl record, which fences the attempt.

        `expect`: only if that record is still the one at this sequence (0: there is none); otherwise nothing is
        written and the last record is returned.

        Returns the END that is in the log afterwards: `end`, or the one that was there already. Raises StreamFull.
        """
        ctl = subjects.output_ctl(tenant, rid)
        for _ in range(_CLOSE_TRIES_MAX):
            last = await self.last_ctl(tenant, rid)
            last_seq = 0 if last is None else last.seq
            if last is not None and (isinstance(last.record, End) or expect not in (None, last_seq)):
                return last
            ack = await self._js.publish(ctl, encode(end), headers=expect_headers(last_seq))
            if ack.stored:
                return Entry(ack.seq, end)
            if ack.err_code == FULL:
                raise StreamFull(f"END of {rid} was not stored: {ack.description}")
            if ack.err_code in (IN_PROCESS, SERVICE_UNAVAILABLE):
                raise BrokerAway(f"END of {rid} was not stored: the stream is busy or elects its leader")
            if ack.err_code != WRONG_LAST:
                raise BrokerRefused(f"END of {rid} was not stored: {ack.description} ({ack.err_code})")
        raise BrokerRefused(f"END of {rid} lost {_CLOSE_TRIES_MAX} races in a row")


def stored_at(stored: Stored) -> float:
    """The broker's time of a message that was read back, in Unix seconds. Raises ValueError if it tells none."""
    stamp = header_value(stored.headers, b"Nats-Time-Stamp") or b""
    return datetime.fromisoformat(stamp.decode()).timestamp()


def decode_entry(stored: Stored) -> Entry:
    """A stored message of OUTPUT as a record. Raises msgspec.DecodeError if it is none."""
    decode = decode_ctl if subjects.is_ctl(stored.subject) else decode_tok
    return Entry(stored.seq, decode(stored.payload))
