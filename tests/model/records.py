"""An output log in the model, and what must hold for each record that is stored in it.

A log is a tuple of records; a record's sequence is its place in it, counted from 1. Logs are read by the fold of the
product (`schemas.log`), so its rules are explored too. A token says who made it and after which token, so it names its
whole context: text that was spliced from two contexts is visible.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import NamedTuple

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


class End(NamedTuple):
    """`n` counts all tokens with the `tail`; only the owner of the lease knows it."""

    nonce: int
    n: int | None
    tail: tuple[int, ...]
    status: output.Status
    kind: str = "end"


Record = Lease | Tok | Failed | Handoff | End
Log = tuple[Record, ...]


def token_after(ids: tuple[int, ...], maker: int) -> int:
    """The token that `maker` makes after `ids`."""
    return maker + _MAKERS * (ids[-1] if ids else 0)


def text_of(ids: tuple[int, ...]) -> str:
    """The text that tokens stand for."""
    return "".join([f"{token} " for token in ids])


def is_one_text(ids: tuple[int, ...]) -> bool:
    """Whether each token was made after the one that stands before it."""
    return all(after // _MAKERS == before for before, after in pairwise((0, *ids)))


def last_ctl(log: Log) -> int:
    """The sequence of the last ctl record, 0 if there is none: what a CAS or a fence has to name."""
    seq = len(log)
    while seq and isinstance(log[seq - 1], Tok):
        seq -= 1
    return seq


def end_of(log: Log) -> End | None:
    """The END, if it is there. (Nothing is stored after it.)"""
    last = log[-1] if log else None
    return last if isinstance(last, End) else None


@cache
def entries_of(log: Log) -> list[Entry]:
    """The log as the product reads it."""
    leases = {record.nonce: seq for seq, record in enumerate(log, 1) if isinstance(record, Lease)}
    return [Entry(seq, _in_product(record, leases)) for seq, record in enumerate(log, 1)]


@cache
def ids_of(log: Log) -> tuple[int, ...]:
    """All tokens of a log."""
    return tuple(schemas_log.fold(entries_of(log)).ids)


@cache
def strikes_of(log: Log) -> int:
    """How often in a row the request brought its engine or worker down."""
    return schemas_log.strikes(entries_of(log))


@cache
def violation_of_last(log: Log) -> str | None:
    """What is wrong with the last record of a log whose other records are right; the names are the design's."""
    record, before = log[-1], log[:-1]
    if end_of(before):
        return f"I3: {record.kind} was stored after END"
    if isinstance(record, Lease):
        is_known = any(isinstance(old, Lease) and old.nonce == record.nonce for old in before)
        return "I5: a nonce was used twice" if is_known else None
    if isinstance(record, Tok):
        return _violation_of_tok(record, before)
    return _violation_of_close(record, before)


def _violation_of_tok(tok: Tok, before: Log) -> str | None:
    known = ids_of(before)
    owner = before[last_ctl(before) - 1] if last_ctl(before) else None
    if not isinstance(owner, Lease) or owner.nonce != tok.nonce:
        return "I7: a tok was stored under a lease that is not the newest ctl record"
    if tok.off > len(known):
        return f"I4: a hole at token {len(known)}"
    same_lease = [old for old in before if isinstance(old, Tok) and old.nonce == tok.nonce]
    if not same_lease and tok.off != len(known):
        return f"I5: the attempt began at {tok.off}, the log had {len(known)} tokens at its lease"
    if tok.off < len(known) and tok not in same_lease:
        return "I4: a record was repeated with other bytes"
    if not is_one_text(ids_of((*before, tok))):
        return "I4: a splice: the token was made in another context"
    return None


def _violation_of_close(record: Failed | Handoff | End, before: Log) -> str | None:
    ids = ids_of((*before, record))
    n = getattr(record, "n", None)
    if n is not None and n != len(ids):
        return f"I4: {record.kind}.n is {n}, the log has {len(ids)} tokens"
    if isinstance(record, End) and n is not None and n - len(record.tail) != len(ids_of(before)):
        return "I4: the tail of END does not start where the log ends"
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
