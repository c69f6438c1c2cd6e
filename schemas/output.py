"""What a request's output log holds: ctl records (the chain that fences) and tok records.

JSON, so that any language can read a log. Records only ever gain optional fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.requests import View

Cause = Literal["first", "worker_dead", "engine_error", "hung", "handoff", "reconnect", "redelivered"]
"""Why an attempt was made."""

Status = Literal["ok", "error", "cancelled", "expired"]
"""How a request ended."""

STRIKE_CAUSES: tuple[Cause, ...] = ("worker_dead", "engine_error", "hung")
"""Causes that speak against the request itself when no token followed: see `schemas.log.strikes`."""


class ToolPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of call `index` of a choice. Its id and its name come once, `arguments` (JSON text) in any pieces."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """How likely a token was, as a natural logarithm; None: not told, as of a first prompt token.

    `bytes` are those of its text in UTF-8, which may be part of a character; `top` are the likeliest ones in its place.
    `text_offset` counts characters of the choice's text before it, where an engine tells them.
    """

    token: str
    logprob: float | None
    bytes: list[int] | None = None
    top: list[TokenLogprob] = []
    text_offset: int | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of one choice's output, made of one or more tokens of the record it stands in.

    `text` is what is shown as the answer; `reasoning` what a model thought before it; `tools` what it wants called.
    """

    text: str
    choice: int = 0
    reasoning: str = ""
    tools: list[ToolPiece] = []
    logprobs: list[TokenLogprob] = []


class Tok(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens `off`, `off + 1`, … of a request, as many as there are `ids`.

    `lease` is the stream sequence of the lease it was appended under: the greater one is the newer attempt.
    Deltas may be empty while a detokenizer or a stop check holds text back. `of` names the choice of each of the `ids`;
    empty: all are the first choice's.
    """

    lease: int
    off: int
    ids: list[int]
    deltas: list[Delta] = []
    of: list[int] = []


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens charged for a request; each token counts once, whatever was redelivered. `cached_tokens` are those of the
    prompt that the engine had already, `reasoning_tokens` those of the completion before the answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds of the attempt that ended the request, on its worker's clock, from the moment it was accepted."""

    first_token_ms: float
    total_ms: float


class Tail(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last tokens of a request, when they travel inside END instead of in a tok record of their own."""

    off: int
    ids: list[int]
    deltas: list[Delta] = []
    of: list[int] = []


class Lease(msgspec.Struct, frozen=True, omit_defaults=True, tag="lease", tag_field="t"):
    """From this record on only its `nonce` may append; stored by CAS on the `ctl` sequence before it.

    `view` is the request's: its own message is gone once the request has ended. `trace` is the context of the attempt
    (`schemas.trace`): a later attempt tells of this one when its worker cannot any more. Empty: it is not traced.
    """

    nonce: str
    worker: str
    attempt: int
    cause: Cause
    revision: str = ""
    tokenizer: str = ""
    engine: str = ""
    fingerprint: str = ""
    view: View | None = None
    trace: str = ""


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, tag="failed", tag_field="t"):
    """The engine raised under `nonce`; the request will be delivered again."""

    nonce: str
    error: str


class Handoff(msgspec.Struct, frozen=True, omit_defaults=True, tag="handoff", tag_field="t"):
    """The attempt `nonce` gave the request back after `n` tokens, to be continued elsewhere."""

    nonce: str
    n: int


class End(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag="end", tag_field="t"):
    """Closes the log. Only an attempt's own END carries `n`, `sha256` and what follows them.

    `reason` is a key of `schemas.errors.ERRORS` when the status is not ok, `message` says it in words to the client.
    `n` counts all tokens including `tail`; `sha256` is over `schemas.choices.content_bytes` of the whole output, hex;
    `text` is the whole text of each choice, told only where the output is nothing but text. `stop_reasons` name the
    stop string or token that ended a choice, where one did. `result` is the answer of a request that makes no tokens
    (embeddings), as JSON. An END written by anyone else (a canceller, the scheduler) carries none of these: an append
    may have been in flight, so its text is the fold of the log up to END's own sequence. `lease` is the sequence of the
    attempt's own lease, as in `Tok`; 0: not told.
    """

    status: Status
    nonce: str = ""
    lease: int = 0
    reason: str = ""
    message: str = ""
    fingerprint: str = ""
    n: int | None = None
    sha256: str = ""
    usage: Usage | None = None
    finish_reasons: list[str] = []
    stop_reasons: list[str | int | None] = []
    timings: Timings | None = None
    attempts: int = 0
    tail: Tail | None = None
    text: list[str] | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


CtlRecord = Lease | Failed | Handoff | End

_ctl_decoder: msgspec.json.Decoder[CtlRecord] = msgspec.json.Decoder(CtlRecord)
_tok_decoder = msgspec.json.Decoder(Tok)
_encoder = msgspec.json.Encoder()


def encode(record: CtlRecord | Tok) -> bytes:
    """The bytes a record is stored as."""
    return _encoder.encode(record)


def decode_ctl(data: bytes) -> CtlRecord:
    """A ctl record. Raises msgspec.DecodeError (and its child ValidationError) for anything else."""
    return _ctl_decoder.decode(data)


def decode_tok(data: bytes) -> Tok:
    """A tok record. Raises msgspec.DecodeError (and its child ValidationError) for anything else."""
    return _tok_decoder.decode(data)
