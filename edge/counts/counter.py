"""One thing that all edges count, as this edge knows it. Pure.

Its value in the bucket says how many each edge counts. An edge writes the whole value by compare-and-set and tells its
own count as it is, never a difference: whatever was lost on the way, the next write is right again. A value that was
stored proves that nobody had changed it since it was read, so all whom it lets in fit under the bound together with all
others.

One call is under way at a time, and everybody who comes meanwhile is served by the next one: how much edges contend
does not depend on the load. What this edge holds is never more than what is stored for it: who enters counts after the
write, who leaves counts less before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import msgspec

from edge.counts.events import Action, Admit, Read, Refuse, Write

_decoder = msgspec.json.Decoder(dict[str, int])


@dataclass(slots=True)
class _BucketCall:
    """A call under way: `newest` is the last ticket there was when it was sent, `batch` whom a write lets in, `count`
    what it tells of this edge."""

    what: Literal["read", "write"]
    newest: int
    batch: list[int] = field(default_factory=list)
    count: int = 0
    others: dict[str, int] = field(default_factory=dict)


class Counter:
    """`edge` is this one. `waiting`: ticket -> the bound it may enter under."""

    def __init__(self, edge: str, key: str) -> None:
        self._edge = edge
        self._key = key
        self.held = 0
        self.waiting: dict[int, int] = {}
        self.written_at = -inf
        self._others: dict[str, int] = {}
        self._stored = 0
        self._revision: int | None = None
        self._fresh = -1
        self._must_write = False
        self._call: _BucketCall | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return not (self.held or self.waiting or self._call or self._is_dirty)

    @property
    def is_calling(self) -> bool:
        """Whether a call is under way."""
        return self._call is not None

    def rewrite(self) -> None:
        """Somebody may have dropped what this edge counts: it is told again."""
        self._revision = None
        self._must_write = True

    def read(self, value: bytes | None, revision: int) -> None:
        """The value is known."""
        call, self._call = self._call, None
        assert call is not None, "an answer follows a call"
        assert call.what == "read"
        counts = _decode(value)
        self._stored = counts.pop(self._edge, 0)
        self._others = counts
        self._revision = revision
        self._fresh = call.newest

    def written(self, revision: int | None, now: float) -> list[Action]:
        """A write was stored, or somebody was faster."""
        call, self._call = self._call, None
        assert call is not None, "an answer follows a call"
        assert call.what == "write"
        self._revision = revision
        if revision is None:
            return []
        self._stored, self._others = call.count, call.others
        self._fresh = call.newest
        self._must_write = False
        self.written_at = now
        admitted = [ticket for ticket in call.batch if self.waiting.pop(ticket, None) is not None]
        self.held += len(admitted)
        return [Admit(ticket) for ticket in admitted]

    def failed(self) -> None:
        """Nobody knows what became of the call. One that was sent can still arrive: until another one was stored, what
        is stored here is not known."""
        call, self._call = self._call, None
        assert call is not None, "an answer follows a call"
        self._must_write = self._must_write or call.what == "write"
        self._revision = None

    def proceed(self, newest: int, is_alive: Callable[[str], bool]) -> list[Action]:
        """What to do next: whom to refuse, then the next call, if there is anything to ask or to tell.

        Nobody is refused by what was known before it came: a place that was freed elsewhere meanwhile is there at once.
        """
        assert self._call is None, "one call at a time"
        if not self.waiting and not self._is_dirty:
            return []
        if self._revision is None:
            return [self._read(newest)]
        others = {edge: count for edge, count in self._others.items() if is_alive(edge)}
        taken = sum(others.values()) + self.held
        batch: list[int] = []
        full: list[int] = []
        for ticket, bound in self.waiting.items():
            if taken + len(batch) < bound:
                batch.append(ticket)
            elif ticket <= self._fresh:
                full.append(ticket)
        for ticket in full:
            del self.waiting[ticket]
        actions: list[Action] = [Refuse(ticket) for ticket in full]
        if batch or self._is_dirty:
            count = self.held + len(batch)
            self._call = _BucketCall("write", newest, batch, count, others)
            value = others | {self._edge: count} if count else others
            actions.append(Write(self._key, msgspec.json.encode(value), self._revision))
        elif self.waiting:
            actions.append(self._read(newest))
        return actions

    def check(self) -> None:
        """Asserts its invariants."""
        assert self.held >= 0
        assert self._edge not in self._others

    @property
    def _is_dirty(self) -> bool:
        return self._must_write or self._stored != self.held

    def _read(self, newest: int) -> Read:
        self._call = _BucketCall("read", newest)
        return Read(self._key)


def _decode(value: bytes | None) -> dict[str, int]:
    """What cannot be read, or is no count, was not written by an edge: it counts nothing, and the next write mends
    it."""
    if value is None:
        return {}
    try:
        counts = _decoder.decode(value)
    except ValueError:
        return {}
    return {edge: count for edge, count in counts.items() if count > 0}
