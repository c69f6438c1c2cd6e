"""Records as they are stored: what is read is what was written, with every field there is."""

from __future__ import annotations

import msgspec
import pytest

from schemas.output import (
    CtlRecord,
    Delta,
    End,
    Failed,
    Handoff,
    Lease,
    Tail,
    Timings,
    Tok,
    TokenLogprob,
    ToolPiece,
    Usage,
    decode_ctl,
    decode_tok,
    encode,
)
from schemas.requests import View

LIKELY = TokenLogprob("a", -0.5, [97], [TokenLogprob("b", None)], 7)
DELTA = Delta("text", 3, "reasoning", [ToolPiece(1, "call_1", "f", "{}")], [LIKELY])


@pytest.mark.parametrize(
    "record",
    [
        Lease("n", "w", 2, "hung", "r", "t", "e", "f", View("completion", "m", 7, False, True)),
        Failed("n", "out of memory"),
        Handoff("n", 3),
        End(status="expired"),
        End(
            status="ok",
            nonce="n",
            lease=100,
            reason="",
            fingerprint="f",
            n=2,
            sha256="00",
            usage=Usage(1, 2, 3, 4),
            finish_reasons=["stop"],
            stop_reasons=["END", 7, None],
            timings=Timings(1.5, 2.5),
            attempts=2,
            tail=Tail(1, [2], [DELTA], [3]),
            text=["a", ""],
        ),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_ctl_record(record: CtlRecord) -> None:
    assert decode_ctl(encode(record)) == record


@pytest.mark.parametrize("record", [Tok(100, 0, [1], []), Tok(100, 7, [1, 2], [DELTA, Delta("")], [3, 0])])
def test_a_tok_record(record: Tok) -> None:
    assert decode_tok(encode(record)) == record


def test_a_result_is_the_engines_json_untouched() -> None:
    told = b'{"b": [0.1,  1e-7], "a": null}'
    end = decode_ctl(encode(End(status="ok", result=msgspec.Raw(told))))
    assert isinstance(end, End)
    assert isinstance(end.result, msgspec.Raw)
    assert bytes(end.result) == told
    assert decode_ctl(encode(End(status="ok"))) == End(status="ok")
