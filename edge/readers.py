"""Who reads which request at this edge, what others are told of it, and what becomes of a request that is left. Pure.

A request whose only reader ever was one here is this edge's to cancel, at once. As soon as somebody else may read it
too (a second reader here, or one that another edge tells of) it is shared, for as long as anybody here reads it: no
edge knows then whether its reader was the last one, so it only stops listing it, and the leader, who hears all edges,
decides. The same holds where the last reader gave the request time, and for an edge that dies.

`now` is monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import msgspec

from schemas.dispatch import EdgeBeat, Reader
from schemas.ids import RequestId, TenantKey

READER_BYTES_MAX = 160
"""A reader in a beat: 64 characters of tenant, 64 of rid, a number, punctuation. Bounds how many fit one message."""

Leaving = Literal["over", "left", "sent_away"]
"""Why a reader reads no more: nothing more will come; it went by itself; this edge goes away and asked it to go on
elsewhere."""


class Tell(msgspec.Struct, frozen=True):
    """Publish this beat."""

    beat: EdgeBeat


class Cancel(msgspec.Struct, frozen=True):
    """Nobody reads the request any more, and nobody will."""

    tenant: TenantKey
    rid: RequestId


Action = Tell | Cancel


@dataclass
class _Request:
    graces: dict[int, float | None] = field(default_factory=dict)
    shared: bool = False


class Readers:
    """`farewell_s`: the least grace a reader has that is sent away because the edge stops."""

    def __init__(self, edge: str, now: float, *, interval_s: float, farewell_s: float) -> None:
        self._edge = edge
        self._interval_s = interval_s
        self._farewell_s = farewell_s
        self._draining = False
        self._requests: dict[tuple[TenantKey, RequestId], _Request] = {}
        self._beat_at = now

    def join(
        self, reader: int, tenant: TenantKey, rid: RequestId, grace_s: float | None, *, shared: bool
    ) -> list[Action]:
        """A reader, by a number of its own, begins to read; `shared`: the request was there before it, so others may
        read it. `grace_s` None: the request runs to its end without readers."""
        request = self._requests.setdefault((tenant, rid), _Request())
        assert reader not in request.graces, "a reader joins once"
        request.graces[reader] = grace_s
        return self.share(tenant, rid) if shared or len(request.graces) > 1 else []

    def share(self, tenant: TenantKey, rid: RequestId) -> list[Action]:
        """A request that is read here turns out to be read by others, too: they are told at once."""
        self._requests[tenant, rid].shared = True
        return [Tell(EdgeBeat(self._edge, self._list([(tenant, rid)]), full=False))]

    def leave(self, reader: int, tenant: TenantKey, rid: RequestId, why: Leaving) -> list[Action]:
        """A reader has stopped reading."""
        request = self._requests[tenant, rid]
        grace_s = request.graces.pop(reader)
        if request.graces:
            return []
        del self._requests[tenant, rid]
        return [Cancel(tenant, rid)] if why == "left" and grace_s == 0 and not request.shared else []

    def heard(self, beat: EdgeBeat) -> None:
        """An edge told of its readers."""
        if beat.edge == self._edge:
            return
        for reader in beat.readers:
            request = self._requests.get((TenantKey(reader.tenant), RequestId(reader.rid)))
            if request is not None:
                request.shared = True

    def drain(self, now: float) -> list[Action]:
        """The edge stops: from now on its readers have time to come back, whatever they chose, because they do not
        leave by their own will."""
        self._draining = True
        return self.tell(now)

    def tell(self, now: float) -> list[Action]:
        """A full beat, now."""
        self._beat_at = now + self._interval_s
        return [Tell(EdgeBeat(self._edge, self._list(self._requests)))]

    def close(self) -> list[Action]:
        """The last beat of this edge: nobody reads here any more."""
        self._beat_at = inf
        return [Tell(EdgeBeat(self._edge, []))]

    def tick(self, now: float) -> list[Action]:
        """`next_deadline` has come."""
        return self.tell(now) if now >= self._beat_at else []

    def next_deadline(self) -> float:
        """When to `tick`."""
        return self._beat_at

    def check(self) -> None:
        """Asserts what must always hold."""
        assert all(request.graces for request in self._requests.values()), (
            "a request is kept while it is read"
        )
        for request in self._requests.values():
            assert len(request.graces) == 1 or request.shared, "two readers share"

    def _list(self, keys: Iterable[tuple[TenantKey, RequestId]]) -> list[Reader]:
        return [Reader(tenant, rid, self._grace_s(self._requests[tenant, rid])) for tenant, rid in keys]

    def _grace_s(self, request: _Request) -> float | None:
        """The most patient reader speaks for all that read one request here."""
        least_s = self._farewell_s if self._draining else 0.0
        longest_s = max(inf if grace_s is None else grace_s for grace_s in request.graces.values())
        return None if longest_s == inf else max(longest_s, least_s)
