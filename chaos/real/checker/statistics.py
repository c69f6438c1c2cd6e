"""Numbers of a run that nothing is wrong or right about: how requests ended, and how long streams stood still."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import ceil, inf

import msgspec

from chaos.real.checker.evidence import Conversation, Evidence
from chaos.real.history import Fault, Over
from schemas.output import Lease

CALM = "none"
"""The kind of a stall in which there was no fault."""

AFTER_S = 1.0
"""A fault that was over so long before is still one of a stall's: leases run out, connections come back."""


SPY = "foreign"
"""What a history says of a client that asks for another tenant's answer: its wish is another one's."""


class Stalls(msgspec.Struct, frozen=True):
    """The longest silences of streams, one of each stream, in seconds."""

    streams: int
    p50_s: float
    p99_s: float
    max_s: float


class Statistics(msgspec.Struct, frozen=True):
    """`outcomes` is of requests, by how the last connection about each ended (and why, where that is told); `ends` is
    of logs, by END; `attempts` is by their causes; `stalls` is by the kinds of faults that were there in a stream's
    longest silence. `duration_s` is from the first line of a client to the last."""

    requests: int
    streams: int
    tokens: int
    duration_s: float
    outcomes: dict[str, int]
    ends: dict[str, int]
    attempts: dict[str, int]
    faults: dict[str, int]
    stalls: dict[str, Stalls]


def statistics(evidence: Evidence) -> Statistics:
    """Of a whole history."""
    talks = list(evidence.conversations.values())
    streamed = [talk for talk in talks if talk.asked.way == "stream" and talk.told]
    ends = Counter(
        f"{log.end.status} {log.end.reason}".rstrip() if log.end is not None else "open"
        for log in evidence.logs.values()
    )
    attempts = Counter(
        step.record.cause
        for log in evidence.logs.values()
        for step in log.steps
        if isinstance(step.record, Lease)
    )
    times = [talk.asked.at for talk in talks] + [talk.over.at for talk in talks if talk.over is not None]
    return Statistics(
        requests=len({talk.asked.request for talk in talks}),
        streams=len(streamed),
        tokens=sum(log.tokens for log in evidence.logs.values()),
        duration_s=max(times) - min(times) if times else 0.0,
        outcomes=dict(sorted(_outcomes(talks).items())),
        ends=dict(sorted(ends.items())),
        attempts=dict(sorted(attempts.items())),
        faults=dict(sorted(Counter(f.kind for f in evidence.faults if f.phase == "begin").items())),
        stalls=_stalls(streamed, evidence.faults),
    )


def _outcomes(talks: list[Conversation]) -> Counter[str]:
    last: dict[int, Over | None] = {}
    for talk in talks:
        if talk.asked.may_fail == SPY:
            continue
        best = last.get(talk.asked.request)
        if best is None or best.outcome != "complete":
            last[talk.asked.request] = talk.over
    return Counter(
        "open" if over is None else f"{over.outcome} {over.reason}".rstrip() for over in last.values()
    )


def _stalls(streamed: list[Conversation], faults: list[Fault]) -> dict[str, Stalls]:
    spans = _spans(faults)
    by_kind: dict[str, list[float]] = {}
    for talk in streamed:
        gaps = [(after.at - before.at, before.at, after.at) for before, after in pairwise(talk.told)]
        if not gaps:
            continue
        longest_s, begin, end = max(gaps)
        kinds = {kind for first, last, kind in spans if first <= end and begin <= last + AFTER_S}
        for kind in sorted(kinds) or [CALM]:
            by_kind.setdefault(kind, []).append(longest_s)
    return {kind: _summary(sorted(found)) for kind, found in sorted(by_kind.items())}


def _spans(faults: list[Fault]) -> list[tuple[float, float, str]]:
    over_at = {fault.id: fault.at for fault in faults if fault.phase == "end"}
    return [(f.at, over_at.get(f.id, inf), f.kind) for f in faults if f.phase == "begin"]


def _summary(found: list[float]) -> Stalls:
    return Stalls(len(found), _percentile(found, 0.5), _percentile(found, 0.99), found[-1])


def _percentile(found: list[float], share: float) -> float:
    return found[ceil(share * len(found)) - 1]
