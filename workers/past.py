"""What a request's log tells of earlier attempts whose own workers cannot tell any more.

An attempt that gave the request back (`failed`, `handoff`) or closed its log has told of itself. One that was followed
by another lease has not: its worker is gone, or does not have the request any more. Whoever reads the log next tells of
it. An attempt that stored anything but its lease had read the log before, so it has told of those before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.log import Entry
from schemas.output import Cause, Failed, Handoff, Lease, Tok


@dataclass(slots=True)
class Life:
    """An attempt as the log shows it. Times are those of its records; `lost_by` is why there was another lease."""

    lease: Lease
    """Its first one."""
    began_at: float
    ended_at: float
    tokens: int = 0
    first_token_at: float | None = None
    has_told: bool = False
    lost_by: Cause = "redelivered"
    seqs: list[int] = field(default_factory=list)
    """Of its leases: one that lost its lease and came back has several."""


def lives(log: Iterable[tuple[Entry, float]]) -> list[Life]:
    """The traced attempts of a log, whose records come with the times at which they were stored; the one with the
    newest lease last."""
    found: dict[str, Life] = {}
    newest: Life | None = None
    for (seq, record), at in log:
        match record:
            case Lease():
                if newest is not None and newest.lease.trace != record.trace:
                    newest.lost_by = record.cause
                newest = found.pop(record.trace, None) or Life(record, at, at)
                newest.seqs.append(seq)
                found[record.trace] = newest
            case Tok() if newest is not None and record.lease in newest.seqs:
                newest.tokens += len(record.ids)
                newest.first_token_at = newest.first_token_at or at
            case Failed() | Handoff() if newest is not None:
                newest.has_told = True
            case _:
                continue
        if newest is not None:
            newest.ended_at = at
    found.pop("", None)
    return list(found.values())


def untold(earlier: list[Life]) -> list[Life]:
    """Of the attempts before the one that read the log, oldest first, those that nobody has told of for sure."""
    found: list[Life] = []
    for life in reversed(earlier):
        if life.has_told:
            break
        found.append(life)
        if life.tokens:
            break
    return found[::-1]
