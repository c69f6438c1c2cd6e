"""The fold: what every reader and every new attempt agrees a log says."""

from __future__ import annotations

import hashlib

import pytest

from schemas.log import Entry, fold, strikes, vain_attempts
from schemas.output import CtlRecord, Delta, End, Failed, Handoff, Lease, Tail, Tok


def log(*records: CtlRecord | Tok) -> list[Entry]:
    return [Entry(100 + at, record) for at, record in enumerate(records)]


def lease(cause: str = "first", nonce: str = "a") -> Lease:
    return Lease(nonce, "w", 1, cause)  # type: ignore[arg-type]


def tok(off: int, *texts: str, lease_seq: int = 100) -> Tok:
    return Tok(lease_seq, off, list(range(off, off + len(texts))), [Delta(text) for text in texts])


def test_a_log_folds_to_its_text_and_end() -> None:
    end = End(status="ok", n=4, tail=Tail(3, [9], [Delta("!")]))
    folded = fold(log(lease(), tok(0, "a", "b"), tok(2, "c"), end))
    assert folded.texts == ["abc!"]
    assert folded.ids == [0, 1, 2, 9]
    assert folded.end is end
    assert not folded.hole
    assert hashlib.sha256(folded.content_bytes).digest() == hashlib.sha256(b"abc!").digest()


def test_a_repeated_record_counts_once() -> None:
    assert fold(log(lease(), tok(0, "a", "b"), tok(0, "a", "b"), tok(2, "c"))).texts == ["abc"]


def test_a_missing_record_is_a_hole_and_what_follows_is_not_text() -> None:
    folded = fold(log(lease(), tok(0, "a"), tok(2, "c")))
    assert folded.hole
    assert folded.texts == ["a"]


def test_the_fold_stops_at_a_sequence_and_at_end() -> None:
    entries = log(lease(), tok(0, "a"), tok(1, "b"), End(status="cancelled"), tok(2, "never"))
    assert fold(entries, upto_seq=101).texts == ["a"]
    assert fold(entries).texts == ["ab"]


def test_choices_are_kept_apart_and_hashed_apart() -> None:
    record = Tok(100, 0, [1, 2, 3], [Delta("a", 1), Delta("b", 0), Delta("c", 1)])
    folded = fold(log(lease(), record))
    assert folded.texts == ["b", "ac"]
    assert folded.content_bytes == b"b\0ac"


def test_strikes_are_trailing_and_a_token_clears_them() -> None:
    assert strikes(log(lease())) == 0
    assert strikes(log(lease(), lease("worker_dead"), lease("hung"))) == 2
    assert strikes(log(lease("worker_dead"), tok(0, "a"))) == 0
    assert strikes(log(lease("worker_dead"), tok(0, "a"), lease("worker_dead"))) == 1


def test_a_failed_record_and_the_lease_after_it_are_one_strike() -> None:
    assert strikes(log(lease(), Failed("a", "boom"))) == 1
    assert strikes(log(lease(), Failed("a", "boom"), lease("engine_error"))) == 1
    assert strikes(log(lease(), Failed("a", "boom"), lease("engine_error"), Failed("b", "boom"))) == 2


def test_a_worker_that_got_on_with_a_request_did_not_die_of_it() -> None:
    """Seen on real processes: killed after nine tokens, then twice more beside somebody's poison, and given up."""
    begun: list[CtlRecord | Tok] = [lease(), tok(0, "a"), lease("worker_dead")]
    assert (strikes(log(*begun)), vain_attempts(log(*begun))) == (1, 0)
    assert vain_attempts(log(*begun, lease("worker_dead"))) == 1
    assert vain_attempts(log(*begun, lease("worker_dead"), lease("hung"))) == 2
    assert vain_attempts(log(*begun, lease("worker_dead"), tok(1, "b"), lease("worker_dead"))) == 0


@pytest.mark.parametrize(
    "records",
    [
        [lease()],
        [lease(), lease("worker_dead"), lease("hung")],
        [lease(), Failed("a", "boom"), lease("engine_error"), Failed("b", "boom")],
        [lease(), tok(0, "a"), Failed("a", "boom"), lease("engine_error")],
        [lease(), Handoff("a", 0), lease("handoff"), lease("worker_dead")],
    ],
)
def test_else_each_strike_is_an_attempt_in_vain(records: list[CtlRecord | Tok]) -> None:
    assert vain_attempts(log(*records)) == strikes(log(*records))


def test_restarts_and_hand_offs_are_no_strikes() -> None:
    assert (
        strikes(log(lease(), Handoff("a", 0), lease("handoff"), lease("redelivered"), lease("reconnect")))
        == 0
    )
