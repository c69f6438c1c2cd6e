"""A key-value bucket over JetStream:

compare-and-set by revision, in the layout that every NATS client reads.
"""

from __future__ import annotations

from collections.abc import Callable

from infra import wire
from infra.bus import Subscription
from infra.jetstream import FULL, IN_PROCESS, WRONG_LAST, JetStream, PubAck, Stored, expect_headers
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused, StreamFull
from schemas.streams import bucket_stream

_DELETED = wire.encode_headers({"KV-Operation": "DEL"})[:-2]
"""Header lines of a delete marker, still open for the expectation that follows."""


class KeyValue:
    """One bucket. Every call raises BrokerAway when the broker does not answer, or cannot say yet who was faster."""

    def __init__(self, js: JetStream, bucket: str) -> None:
        self._js = js
        self._bucket = bucket
        self._stream = bucket_stream(bucket).name

    @classmethod
    async def open(cls, js: JetStream, bucket: str, *, ttl_s: float = 0.0, replicas: int = 1) -> KeyValue:
        """The bucket, created if it is missing. Raises StreamMismatch if it exists with another `ttl_s`."""
        await js.ensure_stream(bucket_stream(bucket, ttl_s=ttl_s, replicas=replicas))
        return cls(js, bucket)

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """Value and revision of `key`; None if it was never set, expired or deleted."""
        stored = await self._newest(key)
        return None if stored is None or _is_marker(stored) else (stored.payload, stored.seq)

    async def items(self, under: str | None = None) -> dict[str, bytes]:
        """All keys with their values, or those that begin with `under` and a dot."""
        prefix = len(subjects.kv_all(self._bucket)) - 1
        wanted = subjects.kv_all(self._bucket) if under is None else subjects.kv_under(self._bucket, under)
        stored = await self._js.read(self._stream, wanted)
        return {one.subject[prefix:]: one.payload for one in stored if not _is_marker(one)}

    async def put(self, key: str, value: bytes) -> int:
        """Sets `key` whatever it was; returns the new revision."""
        ack = await self._js.publish(subjects.kv_key(self._bucket, key), value)
        return _revision(ack)

    async def create(self, key: str, value: bytes) -> int | None:
        """Sets `key` if it has no value; its revision, or None if it has one."""
        stored = await self._newest(key)
        if stored is not None and not _is_marker(stored):
            return None
        return await self.update(key, value, 0 if stored is None else stored.seq)

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Sets `key` if its newest revision is `revision`; the new one, or None if somebody was faster."""
        ack = await self._js.publish(
            subjects.kv_key(self._bucket, key), value, headers=expect_headers(revision)
        )
        return None if ack.err_code == WRONG_LAST else _revision(ack)

    async def delete(self, key: str, revision: int) -> bool:
        """Deletes `key` if its newest revision is `revision`. False: somebody was faster."""
        headers = _DELETED + expect_headers(revision).partition(b"\r\n")[2]
        ack = await self._js.publish(subjects.kv_key(self._bucket, key), b"", headers=headers)
        if ack.err_code == WRONG_LAST:
            return False
        return _revision(ack) > 0

    def on_delete(self, key: str, callback: Callable[[], None]) -> Subscription:
        """Calls back when somebody deletes `key`, perhaps before a read sees it gone. What expires is not told."""

        def on_message(_subject: str, _reply: str, headers: bytes, _payload: bytes) -> None:
            if wire.header_value(headers, b"KV-Operation") is not None:
                callback()

        return self._js.bus.subscribe(subjects.kv_key(self._bucket, key), on_message)

    async def _newest(self, key: str) -> Stored | None:
        return await self._js.last(self._stream, subjects.kv_key(self._bucket, key))


def _revision(ack: PubAck) -> int:
    if ack.err_code == IN_PROCESS:
        raise BrokerAway("a replicated bucket still works on another update of this key")
    if ack.err_code == FULL:
        raise StreamFull(f"a key was not stored: {ack.description}")
    if not ack.stored:
        raise BrokerRefused(f"a key was not stored: {ack.description} ({ack.err_code})")
    return ack.seq


def _is_marker(stored: Stored) -> bool:
    return wire.header_value(stored.headers, b"KV-Operation") is not None
