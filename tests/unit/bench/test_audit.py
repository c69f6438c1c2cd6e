"""The audit of raw logs agrees with the fold on what END's hash is taken over, and sees when it is not that."""

from __future__ import annotations

import hashlib

import pytest

from bench.audit import Stored, logs_of, offences
from schemas.log import Fold
from schemas.output import Delta, End, Lease, Tok, ToolPiece, encode

SUBJECT = "out.t.r"
RECORDS = [
    Tok(7, 0, [1, 2], [Delta("", reasoning="well"), Delta("yes", 1)], [0, 1]),
    Tok(7, 2, [3], [Delta("", tools=[ToolPiece(0, "c1", "f", '{"a":')])]),
    Tok(7, 3, [4, 5], [Delta("", tools=[ToolPiece(0, arguments="1}"), ToolPiece(1, "c2", "g", "{}")])]),
]


def _logged(sha256: str) -> list[Stored]:
    lease = Lease("n", "w", 1, "first")
    end = End(status="ok", nonce="n", lease=7, n=5, sha256=sha256)
    return [
        Stored(7, f"{SUBJECT}.ctl", encode(lease)),
        *[Stored(8 + at, f"{SUBJECT}.tok", encode(record)) for at, record in enumerate(RECORDS)],
        Stored(11, f"{SUBJECT}.ctl", encode(end)),
    ]


def _sha256(*, shortened: bool = False) -> str:
    fold = Fold()
    for record in RECORDS[:-1] if shortened else RECORDS:
        fold.add(record.off, record.ids, record.deltas, record.of)
    return hashlib.sha256(fold.content_bytes).hexdigest()


def test_reasoning_calls_and_choices_are_hashed_as_by_a_worker() -> None:
    assert offences(logs_of(_logged(_sha256()))) == []


@pytest.mark.parametrize("sha256", [_sha256(shortened=True), hashlib.sha256(b"\0yes").hexdigest()])
def test_another_hash_is_seen(sha256: str) -> None:
    (offence,) = offences(logs_of(_logged(sha256)))
    assert "sha256" in offence
