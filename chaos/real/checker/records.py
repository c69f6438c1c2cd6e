"""What one log shows by itself: I3, I4, I5 and I7."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from chaos.real.checker.evidence import Evidence, Log
from chaos.real.checker.findings import Problem
from schemas.output import End, Failed, Handoff, Lease, Tok


def nothing_after_end(log: Log) -> Iterator[str | None]:
    """I3: at most one END, and nothing is stored after it."""
    ended_at = 0
    for step in log.steps:
        if step.record is None:
            yield f"record {step.stored.seq} is none that anybody can read: {bytes(step.stored.record)!r}"
        elif ended_at:
            yield f"record {step.stored.seq} was stored after END {ended_at}: {step.record}"
        elif isinstance(step.record, End):
            ended_at = step.stored.seq
            yield None


def offsets_and_hash(log: Log) -> Iterator[str | None]:
    """I4: offsets are 0..n-1 without a hole, repeats say the same, END and hand-offs count what is there."""
    known: dict[int, object] = {}
    for step in log.steps:
        match step.record:
            case Tok() as tok:
                said = (tok.ids, tok.deltas, tok.of)
                if tok.off == step.have:
                    known[tok.off] = said
                    yield None
                elif known.get(tok.off) == said:
                    yield None
                else:
                    what = "other tokens than before" if tok.off in known else "tokens"
                    yield f"record {step.stored.seq} has {what} at offset {tok.off}, the log has {step.have}"
            case Handoff() as handoff if handoff.n != step.have:
                yield f"it was handed off at token {handoff.n}, the log has {step.have}"
            case _:
                pass
    if log.end is not None:
        yield from _counted(log, log.end, log.ends[0].have)


def _counted(log: Log, end: End, have: int) -> Iterator[str | None]:
    if end.tail is not None and end.tail.off != have:
        yield f"END brings tokens at offset {end.tail.off}, the log has {have}"
    if end.n is None:
        return
    digest = hashlib.sha256("\0".join(log.texts).encode()).hexdigest()
    if end.n != log.tokens:
        yield f"END counts {end.n} tokens, the log has {log.tokens}"
    elif end.sha256 != digest:
        yield f"END has another hash than the text {log.texts!r}"
    elif end.text is not None and list(end.text) != log.texts:
        yield f"END tells the text {end.text!r}, the log has {log.texts!r}"
    else:
        yield None


def attempts_continue(evidence: Evidence) -> Iterator[Problem | None]:
    """I5: an attempt begins where the log ended at its lease; no two leases have one nonce."""
    nonces: set[str] = set()
    for log in evidence.logs.values():
        for step in log.steps:
            match step.record:
                case Lease(nonce=nonce):
                    yield Problem(f"nonce {nonce} was used before", log.name) if nonce in nonces else None
                    nonces.add(nonce)
                case Tok(off=off) if step.fresh and off != step.have:
                    yield Problem(f"an attempt begins at token {off}, its lease found {step.have}", log.name)
                case _:
                    pass


def fenced(log: Log) -> Iterator[str | None]:
    """I7: whoever stores a record has the newest lease."""
    for step in log.steps:
        seq, newest = step.ctl or (0, None)
        match step.record:
            case Tok() as tok:
                is_owner = isinstance(newest, Lease) and tok.lease == seq
            case Failed() | Handoff() as given_up:
                is_owner = isinstance(newest, Lease) and given_up.nonce == newest.nonce
            case End(nonce=nonce) if nonce:
                is_owner = isinstance(newest, Lease) and nonce == newest.nonce
            case _:
                continue
        if is_owner:
            yield None
        else:
            yield f"record {step.stored.seq} was stored by an old attempt; ctl is {seq}: {newest}; {step.record}"
