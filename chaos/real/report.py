"""The report of a run, as data: what was done to the system, how long its clients waited, what held and what did not.

Made offline from a history and from what its check found. The names of the fields are stable: programs compare reports
of different runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from chaos.real.history import Begun, Line, Lived, Sample, Settled
from chaos.real.series import Series, faults_by_kind, tokens_per_s

FORMAT = 1
"""Raised when a field changes its meaning or goes."""


class FaultRow(msgspec.Struct, frozen=True):
    """One kind of fault: how often, for how long together, and whom."""

    kind: str
    count: int
    active_s: float
    targets: dict[str, int]


class StallRow(msgspec.Struct, frozen=True):
    """Streams whose longest silence between two pieces fell into a fault of this kind."""

    kind: str
    streams: int
    p50_s: float
    p99_s: float
    max_s: float


class InvariantRow(msgspec.Struct, frozen=True):
    """A promise: how many things were looked at for it, and how often it did not hold."""

    name: str
    meaning: str
    checked: int
    violations: int


class Finding(msgspec.Struct, frozen=True):
    """A broken promise and its story, line by line."""

    invariant: str
    what: str
    tenant: str = ""
    rid: str = ""
    story: list[str] = []


class ProcessRow(msgspec.Struct, frozen=True):
    """One process under its name, over all its lives. -1: never sampled."""

    process: str
    starts: int
    ends: dict[str, int]
    rss_first_bytes: int
    rss_last_bytes: int
    rss_max_bytes: int
    files_max: int


class Judgement(msgspec.Struct, frozen=True):
    """What the check of a history found."""

    streams: int
    requests: dict[str, int]
    ends: dict[str, int]
    attempts: dict[str, int]
    stalls: list[StallRow]
    invariants: list[InvariantRow]
    violations: list[Finding]
    missed: int


class Report(msgspec.Struct, frozen=True):
    """A whole run. Times in seconds, `requests` by outcome, `ends` by status and reason, `attempts` by cause,
    `tokens_per_s` before, during and after the faults. `missed` counts messages of REQUESTS that had gone before they
    could be looked at; `queued_in_the_end` what it still held when all was settled, -1: nobody looked; `not_serving`
    names the processes that had not come back then."""

    format: int
    passed: bool
    seed: int
    broker: str
    versions: list[str]
    roles: dict[str, int]
    settings: dict[str, str]
    started_at: float
    duration_s: float
    streams: int
    requests: dict[str, int]
    ends: dict[str, int]
    attempts: dict[str, int]
    faults: list[FaultRow]
    faults_total: int
    stalls: list[StallRow]
    invariants: list[InvariantRow]
    violations: list[Finding]
    missed: int
    tokens_per_s: dict[str, float]
    tokens_total: int
    processes: list[ProcessRow]
    restarts: int
    samples: int
    not_serving: list[str]
    queued_in_the_end: int
    settled_after_s: float


def report_of(lines: Sequence[Line], series: Series, judgement: Judgement) -> Report:
    """A check that looked at nothing does not pass, nor does a system that does not serve again, nor a run that was cut
    off: what it would have lost is not in its history."""
    begun = next((line for line in lines if isinstance(line, Begun)), None)
    settled = next((line for line in reversed(lines) if isinstance(line, Settled)), None)
    processes = _processes(lines)
    not_serving = _not_serving(lines, settled)
    faults = [
        FaultRow(kind, targets.total(), _active_s(series, kind), dict(sorted(targets.items())))
        for kind, targets in faults_by_kind(series.faults).items()
    ]
    return Report(
        format=FORMAT,
        passed=settled is not None
        and not judgement.violations
        and not not_serving
        and any(row.checked for row in judgement.invariants),
        seed=begun.seed if begun else -1,
        broker=begun.broker if begun else "",
        versions=sorted({line.version for line in lines if isinstance(line, Begun)}),
        roles=begun.roles if begun else {},
        settings=begun.settings if begun else {},
        started_at=begun.at if begun else 0.0,
        duration_s=round(series.duration_s, 3),
        streams=judgement.streams,
        requests=judgement.requests,
        ends=judgement.ends,
        attempts=judgement.attempts,
        faults=faults,
        faults_total=sum(row.count for row in faults),
        stalls=judgement.stalls,
        invariants=judgement.invariants,
        violations=judgement.violations,
        missed=judgement.missed,
        tokens_per_s=tokens_per_s(series),
        tokens_total=sum(series.tokens_stored),
        processes=processes,
        restarts=sum(max(row.starts - 1, 0) for row in processes),
        samples=sum(isinstance(line, Sample) for line in lines),
        not_serving=not_serving,
        queued_in_the_end=settled.queued if settled else -1,
        settled_after_s=settled.after_s if settled else -1.0,
    )


def as_json(report: Report) -> bytes:
    """The file `report.json`."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"


def _active_s(series: Series, kind: str) -> float:
    """Seconds in which at least one fault of the kind was on."""
    active, until = 0.0, 0.0
    for span in series.faults:
        if span.kind == kind:
            active += max(span.end_s - max(span.start_s, until), 0.0)
            until = max(until, span.end_s)
    return round(active, 3)


def _not_serving(lines: Iterable[Line], settled: Settled | None) -> list[str]:
    if settled is None:
        return []
    last = {line.process: line.what for line in lines if isinstance(line, Lived) and line.at <= settled.at}
    return sorted(process for process, what in last.items() if what != "ready")


def _processes(lines: Iterable[Line]) -> list[ProcessRow]:
    starts: Counter[str] = Counter()
    ends: dict[str, Counter[str]] = {}
    samples: dict[str, list[Sample]] = {}
    for line in lines:
        match line:
            case Lived(what="started"):
                starts[line.process] += 1
            case Lived(what="ended"):
                ends.setdefault(line.process, Counter())[str(line.code)] += 1
            case Sample():
                samples.setdefault(line.process, []).append(line)
            case _:
                pass
    names = sorted({*starts, *ends, *samples})
    return [_process(name, starts[name], ends.get(name, {}), samples.get(name, [])) for name in names]


def _process(name: str, starts: int, ends: Mapping[str, int], samples: list[Sample]) -> ProcessRow:
    memory = [sample.rss_bytes for sample in samples] or [-1]
    files = max((sample.files for sample in samples), default=-1)
    return ProcessRow(name, starts, dict(ends), memory[0], memory[-1], max(memory), files)
