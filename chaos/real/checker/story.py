"""What happened to one request, line by line: who asked and was told, who stored what, which faults there were."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.real.checker.evidence import Evidence, Log, Name, stored_at
from schemas.output import End, Failed, Handoff, Lease, Tok

LINES_MAX = 80
TEXT_MAX = 60

Moment = tuple[float, str]


def story(evidence: Evidence, name: Name | None) -> list[str]:
    """Lines in time order, each with the seconds since the run began; the middle of a long story is left out."""
    log = None if name is None else evidence.logs.get(name)
    if log is None:
        return []
    moments = sorted([*_queue(log), *_output(log), *_clients(log)], key=lambda moment: moment[0])
    if not moments:
        return []
    moments += _faults(evidence, moments[0][0], moments[-1][0])
    began_at = evidence.begun.at if evidence.begun is not None else moments[0][0]
    lines = [f"{at - began_at:9.3f} {what}" for at, what in sorted(moments, key=lambda moment: moment[0])]
    if len(lines) <= LINES_MAX:
        return lines
    half = LINES_MAX // 2
    return [*lines[:half], f"          … {len(lines) - 2 * half} more …", *lines[-half:]]


def _queue(log: Log) -> Iterator[Moment]:
    for stored in log.queued:
        yield stored_at(stored), f"broker: REQUESTS takes it as {stored.seq}"
    for removed in log.removed:
        if removed.asked_at:
            yield removed.asked_at, f"somebody: asks that {removed.seq} be {removed.how}"
        yield (
            removed.gone_at or removed.at,
            f"broker: {removed.seq} is not in REQUESTS any more ({removed.how})",
        )


def _output(log: Log) -> Iterator[Moment]:
    """Runs of tok records of one lease are one line each."""
    run: list[Tok] = []
    run_at, run_seq = 0.0, 0
    for step in log.steps:
        at = stored_at(step.stored)
        if isinstance(step.record, Tok) and (not run or run[-1].lease == step.record.lease):
            if not run:
                run_at, run_seq = at, step.stored.seq
            run.append(step.record)
            continue
        if run:
            yield run_at, _of_run(run, run_seq)
            run = []
        match step.record:
            case Tok() as tok:
                run, run_at, run_seq = [tok], at, step.stored.seq
            case Lease() as lease:
                yield (
                    at,
                    f"{lease.worker}: leases as {step.stored.seq}, attempt {lease.attempt} ({lease.cause})",
                )
            case Failed() as failed:
                yield at, f"engine: fails, {step.stored.seq}: {failed.error}"
            case Handoff() as handoff:
                yield at, f"worker: hands off at token {handoff.n}, {step.stored.seq}"
            case End() as end:
                count = "" if end.n is None else f" after {end.n} tokens"
                why = f" {end.reason}: {end.message}" if end.reason else ""
                yield at, f"{end.nonce or 'somebody else'}: END {step.stored.seq}, {end.status}{count}{why}"
            case None:
                yield at, f"somebody: stores what is no record, {step.stored.seq}"
    if run:
        yield run_at, _of_run(run, run_seq)


def _of_run(run: list[Tok], seq: int) -> str:
    first, last = run[0].off, run[-1].off + len(run[-1].ids) - 1
    return f"lease {run[0].lease}: {len(run)} records from {seq} on, tokens {first} to {last}"


def _clients(log: Log) -> Iterator[Moment]:
    for talk in log.conversations:
        asked, who = talk.asked, f"client {talk.asked.request}, ask {talk.asked.ask}"
        after = f" after {asked.last_event_id}" if asked.last_event_id else ""
        key = f" with key {asked.key}" if asked.key else ""
        yield asked.at, f"{who}: asks {asked.door} for a {asked.way} answer{key}{after}"
        if talk.head is not None:
            yield talk.head.at, f"{who}: head {talk.head.status}"
        if talk.told:
            first, last = talk.told[0], talk.told[-1]
            text = "".join(piece.text for piece in talk.told)
            shown = text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"
            yield first.at, f"{who}: is told {shown!r}, {len(talk.told)} pieces up to event {last.id or '-'}"
        if talk.over is not None:
            yield talk.over.at, f"{who}: {talk.over.outcome} {talk.over.reason}".rstrip()
    for cancel in log.cancels:
        yield cancel.at, f"canceller: answered {cancel.status}"


def _faults(evidence: Evidence, first_at: float, last_at: float) -> Iterator[Moment]:
    """Those that were there at any time of the request."""
    over_at = {fault.id: fault.at for fault in evidence.faults if fault.phase == "end"}
    for fault in evidence.faults:
        begins_in = (
            fault.phase == "begin" and fault.at <= last_at and over_at.get(fault.id, last_at) >= first_at
        )
        ends_in = fault.phase == "end" and first_at <= fault.at <= last_at
        if begins_in or ends_in:
            yield fault.at, f"FAULT {fault.phase}s: {fault.kind} of {fault.target} {fault.detail}".rstrip()
