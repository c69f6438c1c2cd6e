"""I12: after the load, processes hold what they held before it."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.real.checker.evidence import Evidence
from chaos.real.checker.findings import Problem
from chaos.real.history import Sample

ROLES = ("edge", "scheduler", "worker")
"""A broker keeps what is stored: its memory and files grow with OUTPUT, which is kept for `result_ttl_s`."""

RSS_MORE_BYTES_MAX = 96 << 20
"""An allocator keeps what a burst of streams took; a leak of 20 KiB per stream over 5,000 would be this."""

FILES_MORE_MAX = 16
"""Connections that a pool keeps open for a while, log files that were turned over."""

SUBSCRIPTIONS_MORE_MAX = 8
"""Consumers of models and classes that nobody had asked for before."""


def back_to_baseline(evidence: Evidence) -> Iterator[Problem | None]:
    """The last look at every process that lived through the end, against the most that one of its role held before."""
    if not evidence.settled:
        return
    settled_at = evidence.settled[-1].at
    baseline: dict[str, Sample] = {}
    last: dict[str, Sample] = {}
    for sample in evidence.samples:
        role = role_of(sample.process)
        if role not in ROLES:
            continue
        if sample.at < evidence.first_asked_at:
            baseline[role] = _most(baseline.get(role, sample), sample)
        elif sample.at >= settled_at:
            last[sample.process] = sample
    for process, sample in last.items():
        before = baseline.get(role_of(process))
        if before is None:
            continue
        found = [wrong for wrong in _more(before, sample) if wrong]
        yield Problem(f"{process} holds {', '.join(found)}") if found else None


def role_of(process: str) -> str:
    """`worker` of `worker-1-3fa9`."""
    return process.partition("-")[0]


def _most(one: Sample, other: Sample) -> Sample:
    return Sample(
        at=other.at,
        process=other.process,
        pid=other.pid,
        rss_bytes=max(one.rss_bytes, other.rss_bytes),
        files=max(one.files, other.files),
        subscriptions=max(one.subscriptions, other.subscriptions),
    )


def _more(before: Sample, after: Sample) -> Iterator[str]:
    if after.rss_bytes > before.rss_bytes + RSS_MORE_BYTES_MAX:
        yield f"{after.rss_bytes >> 20} MiB ({before.rss_bytes >> 20} before the load)"
    if after.files > before.files + FILES_MORE_MAX:
        yield f"{after.files} files ({before.files} before)"
    if before.subscriptions >= 0 and after.subscriptions > before.subscriptions + SUBSCRIPTIONS_MORE_MAX:
        yield f"{after.subscriptions} subscriptions ({before.subscriptions} before)"
