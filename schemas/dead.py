"""Poisoned requests, as the stream DEAD keeps them: the client's body unchanged, its headers, and what was tried.

A message of DEAD is the request's own message once more: same payload, same headers, and `DEAD_LETTER` beside them.
"""

from __future__ import annotations

import msgspec

from schemas.output import CtlRecord

DEAD_LETTER = "Penstock-Dead-Letter"
"""The header that carries a `DeadLetter` as JSON."""


class Tried(msgspec.Struct, frozen=True):
    """One ctl record of the request's log, and its stream sequence."""

    seq: int
    record: CtlRecord


class DeadLetter(msgspec.Struct, frozen=True):
    """Why a request was given up. `subject` is where it was queued; `reason` and `message` are those of its END;
    `tokens` were in its log; `history` is every ctl record of it."""

    subject: str
    reason: str
    message: str
    tokens: int
    history: list[Tried]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(DeadLetter)


def encode_dead_letter(letter: DeadLetter) -> str:
    """The header's value."""
    return _encoder.encode(letter).decode()


def decode_dead_letter(value: str) -> DeadLetter:
    """Reads it back. Raises msgspec.DecodeError for anything else."""
    return _decoder.decode(value)
