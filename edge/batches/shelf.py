"""The records of files, or of batches, in a bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from infra.jetstream import JetStream
from infra.kv import KeyValue
from schemas.ids import TenantKey, is_key

T = TypeVar("T", bound=msgspec.Struct)


class Shelf(Generic[T]):
    """The tenant is a part of every key. Every call raises BrokerAway; what writes, StreamFull, too."""

    def __init__(self, js: JetStream, bucket: str, kind: type[T]) -> None:
        self._bucket = KeyValue(js, bucket)
        self._decoder = msgspec.json.Decoder(kind)

    async def get(self, tenant: TenantKey, name: str) -> T | None:
        """The record; `name` may be any text a client sent."""
        if not is_key(name):
            return None
        found = await self._bucket.get(f"{tenant}.{name}")
        return None if found is None else self._decoder.decode(found[0])

    async def all_of(self, tenant: TenantKey) -> list[T]:
        """Every record of a tenant."""
        found = await self._bucket.items(tenant)
        return [self._decoder.decode(value) for value in found.values()]

    async def put(self, tenant: TenantKey, name: str, record: T) -> None:
        """Sets it, whatever it was."""
        await self._bucket.put(f"{tenant}.{name}", msgspec.json.encode(record))

    async def create(self, tenant: TenantKey, name: str, record: T) -> None:
        """Sets it if it is not there."""
        await self._bucket.create(f"{tenant}.{name}", msgspec.json.encode(record))

    async def change(self, tenant: TenantKey, name: str, change: Callable[[T], T]) -> T | None:
        """Puts `change` of the record in its place; what it is then, or None if there is none."""
        while True:
            found = await self._bucket.get(f"{tenant}.{name}")
            if found is None:
                return None
            value, revision = found
            record = self._decoder.decode(value)
            changed = change(record)
            if changed == record:
                return record
            encoded = msgspec.json.encode(changed)
            if await self._bucket.update(f"{tenant}.{name}", encoded, revision) is not None:
                return changed

    async def drop(self, tenant: TenantKey, name: str) -> None:
        """Deletes it, if it is there."""
        while (found := await self._bucket.get(f"{tenant}.{name}")) is not None:
            if await self._bucket.delete(f"{tenant}.{name}", found[1]):
                return
