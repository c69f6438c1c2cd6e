"""What the quotas of direct publishers are told, and what they ask for."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.ids import RequestId, TenantKey
from schemas.output import End

Kind = Literal["tenant", "model"]


class QueueCounted(msgspec.Struct, frozen=True):
    """Requests in REQUESTS, by the key of their tenant and of their model."""

    tenants: dict[str, int]
    models: dict[str, int]


class Queued(msgspec.Struct, frozen=True):
    """A request in REQUESTS, at `stream_seq`. `admitted`: an edge published it, and has counted it."""

    tenant: TenantKey
    rid: RequestId
    stream_seq: int
    admitted: bool
    fingerprint: str = ""
    traceparent: str = ""


class OverFound(msgspec.Struct, frozen=True):
    """What stands behind the first `queue_max` requests of a tenant or model."""

    kind: Kind
    key: str
    requests: list[Queued]


class QuotaCallFailed(msgspec.Struct, frozen=True):
    """The broker did not answer a CountQueue or FindOver: it is looked again."""


class RefusalOver(msgspec.Struct, frozen=True):
    """A RefuseQueued is over. `refused`: the request has an END, and its message is gone."""

    refused: bool


QuotaEvent = QueueCounted | OverFound | QuotaCallFailed | RefusalOver


class CountQueue(msgspec.Struct, frozen=True):
    """Count the requests in REQUESTS; say QueueCounted or QuotaCallFailed."""


class FindOver(msgspec.Struct, frozen=True):
    """Find what stands behind the first `queue_max` requests of a tenant or model, `limit` of them at most; say
    OverFound or QuotaCallFailed."""

    kind: Kind
    key: str
    queue_max: int
    limit: int


class RefuseQueued(msgspec.Struct, frozen=True):
    """Write `end` if the request has no ctl record yet, and take its message out of the queue; say EndWritten if it has
    an END then, and RefusalOver."""

    tenant: TenantKey
    rid: RequestId
    stream_seq: int
    end: End


QuotaAction = CountQueue | FindOver | RefuseQueued
