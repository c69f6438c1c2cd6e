"""An output log in the model, and what must hold for each record that is stored in it.

Logs are read by the fold of the product (`schemas.log`), so its rules are explored too. A token says who made it and
after which token, so it names its whole context: text that was spliced from two contexts is visible.
"""

from __future__ import annotations

from functools import cache, cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from schemas import log as schemas_log
from schemas import output
from schemas.log import Entry

_MAKERS = 64


class Lease(NamedTuple):
    """Of the attempt that is delivery number `attempt`. `nonce` names it: unique, and 0 names nobody."""

    nonce: int
    attempt: int
    cause: output.Cause
    kind: str = "lease"


class Tok(NamedTuple):
    """Tokens from `off` on."""

    nonce: int
    off: int
    ids: tuple[int, ...]
    kind: str = "tok"


class Failed(NamedTuple):
    """The engine raised."""

    nonce: int
    kind: str = "failed"


class Handoff(NamedTuple):
    """Given back after `n` tokens."""

    nonce: int
    n: int
    kind: str = "handoff"


Reason = Literal["", "queue_timeout", "poison", "not_continuable"]


class End(NamedTuple):
    """`n` counts all tokens with the `tail`; only the owner of the lease knows it."""

    nonce: int
    n: int | None
    tail: tuple[int, ...]
    status: output.Status
    reason: Reason = ""
    kind: str = "end"


Record = Lease | Tok | Failed | Handoff | End


class Log:
    """The records ever stored, of which the first `gone` are there no more: lost, or aged out. A record's sequence is
    its place among all of them, counted from 1: sequences never repeat after a loss. `gone_before` were gone when the
    last record was stored.

    There is one object for all equal logs, so a log is compared and hashed as fast as anything can be, and all that is
    to be known of it is found out once.
    """

    def __init__(self, records: tuple[Record, ...], gone: int, gone_before: int, restarted_at: int) -> None:
        self.records = records
        self.gone = gone
        self.gone_before = gone_before
        self._restarted_at = restarted_at
        self._next: dict[Record, Log] = {}
        ctl = [seq for seq, record in self._numbered() if not isinstance(record, Tok)]
        self.last_ctl = ctl[-1] if ctl else 0
        """The sequence of the last ctl record, 0 if there is none: what a CAS or a fence has to name."""
        self.ctl = self.at(self.last_ctl) if ctl else None
        self.end = self.ctl if isinstance(self.ctl, End) else None
        """The END, if it is there. (Nothing is stored after it.)"""

    def __repr__(self) -> str:
        told = [f"{seq} {record}" for seq, record in self._numbered()]
        return f"[{f'{self.gone} gone, ' if self.gone else ''}{', '.join(told)}]"

    @property
    def visible(self) -> tuple[Record, ...]:
        """What can be read."""
        return self.records[self.gone :]

    @property
    def last_seq(self) -> int:
        """The sequence of the newest record."""
        return len(self.records) - self._restarted_at

    def at(self, seq: int) -> Record:
        """The record at a sequence."""
        return self.records[seq + self._restarted_at - 1]

    def then(self, record: Record) -> Log:
        """With one more record."""
        after = self._next.get(record)
        if after is None:
            after = log_of((*self.records, record), self.gone, self.gone, self._restarted_at)
            self._next[record] = after
        return after

    def without(self, count: int, *, restarts: bool = False) -> Log:
        """Without the first `count` of its visible records; sequences may begin anew, which they never should."""
        gone = self.gone + count
        return log_of(self.records, gone, self.gone_before, gone if restarts else self._restarted_at)

    def upto(self, seq: int) -> Log:
        """As it was when the record at `seq` was stored."""
        size = seq + self._restarted_at
        if size == len(self.records):
            return self
        return log_of(self.records[:size], self.gone, self.gone, self._restarted_at)

    @cached_property
    def entries(self) -> list[Entry]:
        """The log as the product reads it."""
        leases = {record.nonce: seq for seq, record in self._numbered() if isinstance(record, Lease)}
        return [Entry(seq, _in_product(record, leases)) for seq, record in self._numbered()]

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """All tokens."""
        return tuple(schemas_log.fold(self.entries).ids)

    @cached_property
    def has_hole(self) -> bool:
        """Whether a part of the text is missing."""
        return schemas_log.fold(self.entries).hole

    @cached_property
    def vain_attempts(self) -> int:
        """How many attempts in a row came to nothing."""
        return schemas_log.vain_attempts(self.entries)

    @cached_property
    def leases(self) -> int:
        """How many attempts there were."""
        return sum(isinstance(record, Lease) for record in self.visible)

    @cached_property
    def nonces(self) -> frozenset[int]:
        """All that were ever used."""
        return frozenset(record.nonce for record in self.records)

    @cached_property
    def violation(self) -> str | None:
        """What was wrong when the last record was stored, if nothing was before; the names are the design's."""
        if not self.records:
            return None
        before = log_of(self.records[:-1], self.gone_before, self.gone_before, self._restarted_at)
        return _violation_of(self.records[-1], before, before.then(self.records[-1]))

    def _numbered(self) -> list[tuple[int, Record]]:
        return list(enumerate(self.visible, self.gone - self._restarted_at + 1))


@cache
def log_of(records: tuple[Record, ...], gone: int, gone_before: int, restarted_at: int) -> Log:
    """The one log of these."""
    return Log(records, gone, gone_before, restarted_at)


EMPTY = log_of((), 0, 0, 0)


def token_after(ids: tuple[int, ...], maker: int) -> int:
    """The token that `maker` makes after `ids`."""
    return maker + _MAKERS * (ids[-1] if ids else 0)


def text_of(ids: tuple[int, ...]) -> str:
    """The text that tokens stand for."""
    return "".join([f"{token} " for token in ids])


def is_one_text(ids: tuple[int, ...]) -> bool:
    """Whether each token was made after the one that stands before it."""
    return all(after // _MAKERS == before for before, after in pairwise((0, *ids)))


def _violation_of(record: Record, before: Log, after: Log) -> str | None:
    if before.end:
        return f"I3: {record.kind} was stored after END"
    if isinstance(record, Lease):
        if any(isinstance(old, Lease) and old.nonce == record.nonce for old in before.visible):
            return "I5: a nonce was used twice"
        if isinstance(before.ctl, Lease) and before.ctl.attempt >= record.attempt:
            return "I10: a lease was stored over that of a newer delivery"
        return None
    if isinstance(record, Tok):
        return _violation_of_tok(record, before, after)
    return _violation_of_close(record, before, after)


def _violation_of_tok(tok: Tok, before: Log, after: Log) -> str | None:
    known, owner = before.ids, before.ctl
    if not isinstance(owner, Lease) or owner.nonce != tok.nonce:
        return "I7: a tok was stored under a lease that is not the newest ctl record"
    if tok.off > len(known):
        return f"I4: a hole at token {len(known)}"
    same_lease = [old for old in before.visible if isinstance(old, Tok) and old.nonce == tok.nonce]
    if not same_lease and tok.off != len(known):
        return f"I5: the attempt began at {tok.off}, the log had {len(known)} tokens at its lease"
    if tok.off < len(known) and tok not in same_lease:
        return "I4: a record was repeated with other bytes"
    if not is_one_text(after.ids):
        return "I4: a splice: the token was made in another context"
    return None


def _violation_of_close(record: Failed | Handoff | End, before: Log, after: Log) -> str | None:
    ids = after.ids
    n = getattr(record, "n", None)
    if n is not None and n != len(ids):
        return f"I4: {record.kind}.n is {n}, the log has {len(ids)} tokens"
    if isinstance(record, End):
        if n is not None and n - len(record.tail) != len(before.ids):
            return "I4: the tail of END does not start where the log ends"
        if record.reason == "queue_timeout" and before.ctl is not None:
            return "I9: a request that was started ended as one that no worker took"
    return None if is_one_text(ids) else "I4: a splice in the tail of END"


def _in_product(record: Record, leases: dict[int, int]) -> output.CtlRecord | output.Tok:
    match record:
        case Lease():
            return output.Lease(str(record.nonce), "", record.attempt, record.cause)
        case Tok():
            return output.Tok(leases.get(record.nonce, 0), record.off, list(record.ids), _deltas(record.ids))
        case Failed():
            return output.Failed(str(record.nonce), "")
        case Handoff():
            return output.Handoff(str(record.nonce), record.n)
        case End() if record.n is None:
            return output.End(status=record.status)
        case End():
            off = record.n - len(record.tail)
            tail = output.Tail(off, list(record.tail), _deltas(record.tail)) if record.tail else None
            return output.End(status=record.status, nonce=str(record.nonce), n=record.n, tail=tail)


def _deltas(ids: tuple[int, ...]) -> list[output.Delta]:
    return [output.Delta(text_of(ids))]
