"""Who reads what at which edge, and which requests nobody reads any more.

Edges tell all their readers in full beats: whom a full beat lists no more has left at that moment. An edge that is
silent for too long is dead, and its readers left when it was last heard. Of all that left, the last one decides how
long the request may go on unread. What was never listed, because its edge died at once or a leader is new, counts as
unread from `silent_s` after it was first seen: every live edge has spoken by then.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from scheduler.fleet import EVIDENCE_S
from scheduler.holding import Name
from schemas.dispatch import EdgeBeat
from schemas.ids import RequestId, TenantKey, is_key, is_request_id

EDGES_MAX = 1024
READERS_MAX = 262_144
"""Of all edges together; some 50 MB. While there are more, of either, nobody is called unread: what cannot be listened
to must not cancel anything."""

LEFT_MAX = 65_536
LEFT_KEPT_S = 600.0
"""How many last readers are remembered, and how long, for a request that comes into sight after they left: longer than
a request waits unseen in the queue by default. A forgotten one falls back to the request's own grace."""

SEEN_KEPT_S = 5.0
"""A request that nobody holds or runs for this long is forgotten; workers list what they run every half second."""

ASK_AGAIN_S = 10.0
"""An abandoned request that is still there after this (its END could not be written) is named again."""


@dataclass(slots=True)
class _Edge:
    """`readers`: how long each request may go on after its reader here left (inf: for ever)."""

    heard_at: float
    readers: dict[Name, float] = field(default_factory=dict)


class _Left(NamedTuple):
    """The last reader of a request left `at`; `noted_at`: when that was found out."""

    at: float
    patience_s: float
    noted_at: float


@dataclass(slots=True)
class _Request:
    """A request with a grace of its own that is held here or runs somewhere."""

    grace_s: float
    first_seen: float
    last_seen: float
    asked_at: float = -inf


class Readers:
    """Readers by edge, and the requests with a grace that nobody reads."""

    def __init__(self, *, silent_s: float) -> None:
        self._silent_s = max(silent_s, EVIDENCE_S)
        self._edges: dict[str, _Edge] = {}
        self._count = 0
        self._reading: dict[Name, int] = {}
        self._left: OrderedDict[Name, _Left] = OrderedDict()
        self._requests: OrderedDict[Name, _Request] = OrderedDict()
        self._unread: dict[Name, None] = {}
        self._watching_since = inf
        self._blind_until = -inf

    def watch_from(self, now: float) -> None:
        """Evidence starts anew: we have just connected, or have not been running ourselves."""
        self._watching_since = now

    def heard(self, beat: EdgeBeat, now: float) -> None:
        """Takes in an edge's beat."""
        edge = self._edges.get(beat.edge)
        if edge is None:
            if len(self._edges) == EDGES_MAX or not is_key(beat.edge):
                self._blind_until = now + self._silent_s
                return
            edge = self._edges[beat.edge] = _Edge(now)
        edge.heard_at = now
        before, listed = edge.readers, {} if beat.full else dict(edge.readers)
        for reader in beat.readers:
            name = (TenantKey(reader.tenant), RequestId(reader.rid))
            patience_s = inf if reader.grace_s is None else reader.grace_s
            # Of several that read it here nobody knows who will leave last: the most patient one counts.
            listed[name] = max(patience_s, listed.get(name, 0.0))
        if self._count - len(before) + len(listed) > READERS_MAX:
            self._blind_until = now + self._silent_s
            return
        edge.readers = listed
        self._count += len(listed) - len(before)
        for name in listed:
            if name not in before:
                self._reading[name] = self._reading.get(name, 0) + 1
                self._unread.pop(name, None)
        for name, patience_s in before.items():
            if name not in listed:
                self._leave(name, now, patience_s, now)

    def seen(self, name: Name, grace_s: float | None, now: float) -> None:
        """A request is held here or listed as running."""
        request = self._requests.get(name)
        if request is not None:
            request.last_seen = now
            self._requests.move_to_end(name)
        elif grace_s is not None and is_key(name[0]) and is_request_id(name[1]):
            self._requests[name] = _Request(grace_s, now, now)
            if name not in self._reading:
                self._unread[name] = None

    def sweep(self, now: float) -> None:
        """Buries dead edges and forgets what is over."""
        for edge_id, edge in list(self._edges.items()):
            heard_at = max(edge.heard_at, self._watching_since)
            if now - heard_at >= self._silent_s:
                del self._edges[edge_id]
                self._count -= len(edge.readers)
                for name, patience_s in edge.readers.items():
                    self._leave(name, heard_at, patience_s, now)
        while self._requests:
            name, request = next(iter(self._requests.items()))
            if now - request.last_seen <= SEEN_KEPT_S:
                break
            del self._requests[name]
            self._unread.pop(name, None)
        while self._left:
            name, left = next(iter(self._left.items()))
            if len(self._left) <= LEFT_MAX and now - left.noted_at <= LEFT_KEPT_S:
                break
            del self._left[name]

    def abandoned(self, now: float) -> list[Name]:
        """Requests that nobody reads any more and that have had their grace."""
        if now < max(self._watching_since + self._silent_s, self._blind_until):
            return []
        found = []
        for name in self._unread:
            request = self._requests[name]
            if now - request.asked_at >= ASK_AGAIN_S and self._is_abandoned(name, request, now):
                request.asked_at = now
                found.append(name)
        return found

    def check(self) -> None:
        """Asserts its invariants."""
        counts: dict[Name, int] = {}
        for edge in self._edges.values():
            for name in edge.readers:
                counts[name] = counts.get(name, 0) + 1
        assert counts == self._reading
        assert self._count == sum(counts.values()) <= READERS_MAX
        assert len(self._edges) <= EDGES_MAX
        assert self._unread.keys() == {name for name in self._requests if name not in counts}
        seen = [request.last_seen for request in self._requests.values()]
        assert seen == sorted(seen)

    def _leave(self, name: Name, at: float, patience_s: float, now: float) -> None:
        """A reader at one edge is gone."""
        last = self._left.pop(name, None)
        if last is not None and last.at > at:
            at, patience_s = last.at, last.patience_s
        elif last is not None and last.at == at:
            patience_s = max(patience_s, last.patience_s)
        self._left[name] = _Left(at, patience_s, now)
        self._reading[name] -= 1
        if not self._reading[name]:
            del self._reading[name]
            if name in self._requests:
                self._unread[name] = None

    def _is_abandoned(self, name: Name, request: _Request, now: float) -> bool:
        left = self._left.get(name)
        if left is None:
            unread_since, patience_s = request.first_seen + self._silent_s, request.grace_s
        else:
            unread_since, patience_s = left.at, left.patience_s
        # Readers leave because a request is over, too: only one that was seen since then still is to be cancelled.
        return unread_since + patience_s <= now and request.last_seen > unread_since
