"""From a history to the files of a report."""

from __future__ import annotations

from pathlib import Path

from chaos.real import history
from chaos.real.checker import Evidence, Findings, examine, statistics
from chaos.real.history import Line
from chaos.real.page import page_of
from chaos.real.plots import timeline
from chaos.real.report import Finding, InvariantRow, Judgement, Report, StallRow, as_json, report_of
from chaos.real.series import series_of

MEANINGS = {
    "I1": "An accepted request gets exactly one END, or is still queued.",
    "I2": "A message leaves the queue only with an END in the output log.",
    "I3": "At most one END per request; nothing is stored after it.",
    "I4": "Offsets are 0 to n-1 without a hole; END's count and hash match.",
    "I5": "An attempt goes on where the log was at its lease.",
    "I6": "What a client was told, over all its connections, is a prefix of the final text.",
    "I7": "No record is stored under a lease that is not the newest.",
    "I8": "The final text is the reference's.",
    "I9": "What was refused never runs; retries with a key are one request.",
    "I10": "Attempts are bounded; no healthy request ends as poison.",
    "I11": "No tenant sees another's.",
    "I12": "Memory, files and subscriptions go back to where they were.",
    "I13": "Nothing is stored after a cancel was answered.",
    "liveness": "With the faults over, the queue drains and everybody is answered.",
}


def judge(lines: list[Line]) -> Judgement:
    """What a history shows."""
    evidence = Evidence(lines)
    findings, numbers = examine(evidence), statistics(evidence)
    return Judgement(
        streams=numbers.streams,
        requests=numbers.outcomes,
        ends=numbers.ends,
        attempts=numbers.attempts,
        stalls=[
            StallRow(kind, stalls.streams, stalls.p50_s, stalls.p99_s, stalls.max_s)
            for kind, stalls in numbers.stalls.items()
        ],
        invariants=_invariants(findings),
        violations=[
            Finding(found.invariant, found.message, found.tenant, found.rid, found.story)
            for found in findings.violations
        ],
        missed=findings.missed,
    )


def write_report(directory: Path, history_file: Path) -> Report:
    """`report.json` and `report.html` in the directory. Raises OSError, msgspec.DecodeError, PlotsUnavailable."""
    lines = history.read(history_file)
    series = series_of(lines)
    report = report_of(lines, series, judge(lines))
    (directory / "report.json").write_bytes(as_json(report))
    (directory / "report.html").write_text(page_of(report, timeline(series)))
    return report


def _invariants(findings: Findings) -> list[InvariantRow]:
    broken = [found.invariant for found in findings.violations]
    return [
        InvariantRow(name, MEANINGS[name], checked, broken.count(name))
        for name, checked in findings.checked.items()
    ]
