"""A history of a run that never was, for what reads histories: two workers killed, a link cut, streams that go on."""

from __future__ import annotations

import random
from math import sin

import msgspec

from chaos.real.history import Asked, Begun, Fault, Line, Lived, Over, Sample, Settled, Stored, Told
from chaos.real.report import Finding, InvariantRow, Judgement, StallRow
from schemas import subjects
from schemas.output import Tok, encode
from schemas.streams import OUTPUT

AT = 1_780_000_000.0
KINDS = (
    "kill worker",
    "kill broker",
    "pause scheduler",
    "links: black hole",
    "links: reset",
    "broker: disk full",
)


def history(duration_s: int = 120, streams_per_s: int = 4, faults: int = 40, seed: int = 1) -> list[Line]:
    """In order of time. Tokens come slower while a fault is on."""
    rng = random.Random(seed)
    lines: list[Line] = [
        Begun(
            AT,
            seed,
            "embedded",
            {"broker": 1, "edge": 2, "scheduler": 2, "worker": 4},
            {"itl_ms": "5"},
            "0.1.0",
        )
    ]
    for number in range(faults):
        at = AT + 10 + rng.random() * (duration_s - 25)
        kind, target = rng.choice(KINDS), f"worker-{rng.randrange(1, 5)}"
        lines += [
            Fault(at, number, kind, target, "begin"),
            Fault(at + rng.uniform(0.1, 4), number, kind, target, "end"),
        ]
    seq = 0
    for ask in range(duration_s * streams_per_s - 5 * streams_per_s):
        at = AT + ask / streams_per_s
        rid = f"rid{ask:016d}"
        lines.append(
            Asked(at, ask, ask, "stream", "tenant", "standard", "http://door", msgspec.Raw(b"{}"), rid=rid)
        )
        for piece in range(8):
            seq += 1
            at += rng.uniform(0.02, 0.4 + 0.3 * sin(ask / 40))
            tok = encode(Tok(lease=1, off=piece * 3, ids=[1, 2, 3]))
            lines.append(Stored(at, OUTPUT, seq, subjects.output_tok("tenant", rid), {}, msgspec.Raw(tok)))
            lines += [Told(at + 0.01, ask, f"{piece}.{n}", "x") for n in range(3)]
        lines.append(Over(at + 0.02, ask, "complete", tokens=24))
    for number, process in enumerate(["broker-1", "edge-1", "edge-2", "scheduler-1", "worker-1", "worker-2"]):
        for life in range(2):
            pid = 100 * number + life
            start = AT + life * duration_s / 2
            lines.append(Lived(start, process, pid, "started"))
            lines.append(Lived(start + 0.4, process, pid, "ready"))
            lines += [
                Sample(start + second, process, pid, int((60 + 9 * number + second / 9) * 2**20), 30 + number)
                for second in range(0, duration_s // 2, 5)
            ]
            ended_s = duration_s / 2 - (0.0 if life else 0.5)
            lines.append(Lived(start + ended_s, process, pid, "ended", 0 if life else -9))
    lines.append(Settled(AT + duration_s - 0.1, 3.2, 0))
    return sorted(lines, key=lambda line: line.at)


def judgement(*findings: Finding) -> Judgement:
    """What a check of it might have found."""
    broken = {finding.invariant for finding in findings}
    return Judgement(
        streams=460,
        requests={"complete": 451, "error": 9},
        ends={"ok": 451, "error poison": 9},
        attempts={"first": 460, "worker_dead": 31},
        stalls=[StallRow(kind, 20 + 3 * n, 0.05 * n, 0.9 * n, 1.4 * n) for n, kind in enumerate(KINDS, 1)],
        invariants=[
            InvariantRow("I1", "An accepted request gets exactly one END.", 460, int("I1" in broken)),
            InvariantRow("I4", "Offsets are 0 to n-1 without a hole.", 3680, int("I4" in broken)),
            InvariantRow("I13", "After a cancel is answered no token is stored.", 0, 0),
        ],
        violations=list(findings),
        missed=0,
    )
