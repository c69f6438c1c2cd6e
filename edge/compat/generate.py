"""`POST /generate`: one text's continuation with its timings, streamed or whole. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.compat.styles import GENERATE_ERRORS
from edge.dialect import KEEP_ALIVE, Asked, Dialect, Elapsed
from edge.errors import DONE, Problem
from edge.measures import measured, tokens_of
from edge.openai_bodies import CompletionBody, Count, Probability, Temperature, decode_as
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import End


class GenerateBody(msgspec.Struct):
    """The request."""

    prompt: str
    max_tokens: Count = 100
    temperature: Temperature = 0.7
    top_p: Probability = 1.0
    stream: bool = False
    model: str | None = None


class Piece(msgspec.Struct):
    """What is new."""

    text: str


class Generation(msgspec.Struct, kw_only=True):
    """The answer; of a stream it is the last event, whose `text` is empty: each piece of it had an event before.

    Milliseconds count from the request's arrival; None where nobody knows any more.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float | None
    total_time_ms: float | None
    finish_reason: str


_decoder = msgspec.json.Decoder(GenerateBody)
_encode = msgspec.json.Encoder().encode


def read(data: bytes) -> Asked | Problem:
    """The completion that a body asks for."""
    body = decode_as(_decoder, data)
    if isinstance(body, Problem):
        return body
    fields: dict[str, Any] = {
        "prompt": body.prompt,
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "stream": body.stream,
    }
    if body.model is not None:
        fields["model"] = body.model
    return Asked(CompletionBody(**fields), _encode(fields))


class GenerateShape:
    """Events without a name: `{"text": …}` with what is new, and the answer's numbers at the end."""

    keep_alive = KEEP_ALIVE

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        pass

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def tokens(self, tokens: Tokens) -> bytes:
        """One event for each delta."""
        return b"".join(
            [
                b'id: %d-%d\ndata: {"text":%b}\n\n' % (tokens.offset, index, _encode(delta.text))
                for index, delta in enumerate(tokens.deltas, tokens.first)
            ]
        )

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The numbers, and the last line."""
        return b"id: %d-0\ndata: %b\n\n%b" % (offset + 1, self.whole([], end, offset, elapsed), DONE)

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The error, and the last line."""
        return b"data: %b\n\n%b" % (GENERATE_ERRORS.body(problem, rid), DONE)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The answer."""
        tokens = tokens_of(end, offset)
        took = measured(end, tokens, elapsed)
        return _encode(
            Generation(
                text=choices[0].text if choices else "",
                prompt_tokens=end.usage.prompt_tokens if end.usage is not None else 0,
                completion_tokens=tokens,
                ttft_ms=None if took is None else took.first_token_ms,
                total_time_ms=None if took is None else took.total_ms,
                finish_reason=(end.finish_reasons or ["stop"])[0],
            )
        )


GENERATE = Dialect("generate", read, GenerateShape, GENERATE_ERRORS)
