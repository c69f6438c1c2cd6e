"""Reads a history when all is over and says whether the invariants of the design held: offline and pure."""

from __future__ import annotations

from chaos.real.checker.evidence import Evidence
from chaos.real.checker.findings import Violation
from chaos.real.checker.statistics import Stalls, Statistics, statistics
from chaos.real.checker.verdict import CHECKS, Findings, check, examine

__all__ = [
    "CHECKS",
    "Evidence",
    "Findings",
    "Stalls",
    "Statistics",
    "Violation",
    "check",
    "examine",
    "statistics",
]
