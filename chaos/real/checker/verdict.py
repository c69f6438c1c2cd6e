"""The verdict on a history: every invariant, how much of it was looked at, and what broke it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chaos.real.checker import fates, leftovers, records, transcripts
from chaos.real.checker.evidence import Evidence
from chaos.real.checker.findings import Check, Violation, each_log
from chaos.real.checker.story import story
from chaos.real.history import Line

LIVENESS = "liveness"

CHECKS: dict[str, list[Check]] = {
    "I1": [fates.ends_once],
    "I2": [fates.leaves_with_end],
    "I3": [each_log(records.nothing_after_end)],
    "I4": [each_log(records.offsets_and_hash)],
    "I5": [records.attempts_continue],
    "I6": [transcripts.transcripts],
    "I7": [each_log(records.fenced)],
    "I8": [each_log(transcripts.right_text)],
    "I9": [fates.refused_never_runs, transcripts.one_lineage],
    "I10": [fates.attempts_bounded],
    "I11": [transcripts.own_tenant],
    "I12": [leftovers.back_to_baseline],
    "I13": [transcripts.nothing_after_cancel],
    LIVENESS: [fates.drains],
}
"""I14, bounds that edges share, is given up while edges die: simulated worlds check it, which know who is touched."""

STORIES_MAX = 20
"""Of one invariant: what breaks one request often breaks a thousand."""


class Findings(msgspec.Struct, frozen=True):
    """`checked` says how many things were looked at under each invariant, `missed` how many messages of REQUESTS the
    tap came too late for."""

    violations: list[Violation]
    checked: dict[str, int]
    missed: int

    @property
    def blind(self) -> list[str]:
        """Invariants that had nothing to look at: a run that leaves any has not shown them."""
        return [invariant for invariant, count in self.checked.items() if not count]


def check(lines: Iterable[Line]) -> list[Violation]:
    """What is wrong with a history."""
    return examine(Evidence(lines)).violations


def examine(evidence: Evidence) -> Findings:
    """All there is to say about it."""
    violations: list[Violation] = []
    checked: dict[str, int] = {}
    for invariant, checks in CHECKS.items():
        checked[invariant] = 0
        found = 0
        for one in checks:
            for problem in one(evidence):
                checked[invariant] += 1
                if problem is None:
                    continue
                found += 1
                told = story(evidence, problem.name) if found <= STORIES_MAX else []
                tenant, rid = problem.name or ("", "")
                violations.append(Violation(invariant, problem.message, tenant, rid, told))
    missed = sum(gap.last - gap.first + 1 for gap in evidence.missed)
    return Findings(violations, checked, missed)
