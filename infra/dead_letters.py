"""The stream DEAD over JetStream: poisoned requests, to be listed, looked at, sent again or thrown away."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from infra.jetstream import FULL, JetStream, Stored
from infra.wire import encode_headers, parse_headers
from schemas import subjects
from schemas.dead import DEAD_LETTER, DeadLetter, decode_dead_letter
from schemas.errors import BrokerAway, PenstockError
from schemas.ids import RequestId, is_request_id, request_id
from schemas.requests import MSG_ID, InvalidMeta, RequestMeta, meta_headers, parse_meta
from schemas.streams import DEAD, REQUESTS

WINDOW = 128
"""A stream is read forwards only: the newest letters are looked for in the last so many sequences, then before them."""


class DeadLetterError(PenstockError):
    """What was asked for cannot be done; the message says why, and what can be."""


class Letter(NamedTuple):
    """A message of DEAD. `when` is the broker's time of it; `meta` is the request's own."""

    seq: int
    rid: RequestId
    when: datetime
    told: DeadLetter
    origin: subjects.RequestSubject
    meta: RequestMeta
    body: bytes


class DeadLetters:
    """What is kept in DEAD. Every call raises BrokerAway when the broker does not answer."""

    def __init__(self, js: JetStream) -> None:
        self._js = js

    async def newest(self, limit: int) -> list[Letter]:
        """Up to `limit` letters, the newest first."""
        first, upto = await self._js.bounds(DEAD)
        letters: list[Letter] = []
        while upto >= first and len(letters) < limit:
            start = max(first, upto - WINDOW + 1)
            found = await self._js.read(DEAD, subjects.DEAD_ALL, start_seq=start, limit=WINDOW)
            letters += [_letter(one) for one in reversed(found) if one.seq <= upto]
            upto = start - 1
        return letters[:limit]

    async def find(self, rid: str) -> Letter:
        """The letter of a request. Raises DeadLetterError if there is none."""
        if not is_request_id(rid):
            raise DeadLetterError(f"{rid!r} is not the id of a request")
        found = await self._js.read(DEAD, subjects.dead_of_any_model(rid))
        if not found:
            raise DeadLetterError(f"no dead letter of {rid}: see `penstock dead list`")
        return _letter(found[-1])

    async def redrive(self, letter: Letter, *, keep: bool) -> RequestId:
        """Publishes the request once more, as a new one, and removes the letter unless it is to be kept.

        Nobody waits for it any more, so it runs to its end, read or not. Returns its rid. Raises DeadLetterError.
        """
        rid = request_id(secrets.token_bytes(16))
        klass, model, tenant, _ = letter.origin
        headers = meta_headers(replace(letter.meta, grace_s=None, edge=""))
        block = encode_headers({**headers, MSG_ID: f"{tenant}.{rid}"})
        subject = subjects.request(klass, model, tenant, rid)
        try:
            ack = await self._js.publish(subject, letter.body, headers=block)
        except BrokerAway as error:
            raise DeadLetterError(
                f"{error}: whether it was accepted as {rid} is unknown; the letter is kept"
            ) from None
        if ack.err_code == FULL:
            raise DeadLetterError(
                f"{REQUESTS} is full, nothing was sent: try again when the queue is shorter ({ack.description})"
            )
        if not ack.stored:
            raise DeadLetterError(f"not accepted: {ack.description} ({ack.err_code})")
        if not keep:
            await self.drop(letter)
        return rid

    async def drop(self, letter: Letter) -> None:
        """Removes a letter for good."""
        await self._js.delete(DEAD, letter.seq)


def _letter(stored: Stored) -> Letter:
    """Raises DeadLetterError for what is no letter of ours."""
    headers = parse_headers(stored.headers)
    meta = parse_meta(headers)
    try:
        told = decode_dead_letter(headers.get(DEAD_LETTER, ""))
    except msgspec.DecodeError as error:
        raise DeadLetterError(f"message {stored.seq} of {DEAD} is no dead letter: {error}") from None
    origin = subjects.parse_request(told.subject)
    if origin is None or isinstance(meta, InvalidMeta):
        raise DeadLetterError(f"message {stored.seq} of {DEAD} is no dead letter: {told.subject}, {meta}")
    when = datetime.fromisoformat(headers["Nats-Time-Stamp"])
    return Letter(stored.seq, origin.rid, when, told, origin, meta, stored.payload)
