"""`POST /v1/generate`: one text's continuation as `token`, `done` and `error` events, or whole. Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edge.compat.styles import EVENT_ERRORS
from edge.dialect import KEEP_ALIVE, Asked, Dialect, Elapsed
from edge.errors import Problem
from edge.measures import tokens_of
from edge.openai_bodies import CompletionBody, Temperature, decode_as
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import End

PROMPT_CHARS_MAX = 8000
TOKENS_MAX = 512

ANY_MODEL = "mock-v1"
"""That system's only model, and what its clients name when they mean none in particular."""


class EventsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The request. A model of its default name is whichever is served alone."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=PROMPT_CHARS_MAX)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MAX)] = 64
    temperature: Temperature = 0.7
    stream: bool = False
    model: str = ANY_MODEL


class EventsAnswer(msgspec.Struct):
    """The whole answer; `generated_tokens` is exact."""

    request_id: str
    model: str
    text: str
    generated_tokens: int


class TokenEvent(msgspec.Struct):
    """`token` is new text; `index` counts the events before it."""

    request_id: str
    token: str
    index: int


class DoneEvent(msgspec.Struct):
    """The last event of a good answer."""

    request_id: str
    generated_tokens: int
    finish_reason: str


_decoder = msgspec.json.Decoder(EventsBody)
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
        "stream": body.stream,
    }
    if body.model != ANY_MODEL:
        fields["model"] = body.model
    return Asked(CompletionBody(**fields), _encode(fields))


class EventsShape:
    """`token` events are numbered from 0 on without a hole, over all attempts; tokens that came in one piece are one
    event, so there may be fewer events than tokens."""

    keep_alive = KEEP_ALIVE

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._id = rid
        self._model = model
        self._token = b'event: token\ndata: {"request_id":%b,"token":' % _encode(rid)
        self._next = 0

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def tokens(self, tokens: Tokens) -> bytes:
        """One event for each delta."""
        events = []
        for index, delta in enumerate(tokens.deltas, tokens.first):
            events.append(
                b'id: %d-%d\n%b%b,"index":%d}\n\n'
                % (tokens.offset, index, self._token, _encode(delta.text), self._next)
            )
            self._next += 1
        return b"".join(events)

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The `done` event."""
        done = DoneEvent(self._id, tokens_of(end, offset), (end.finish_reasons or ["stop"])[0])
        return b"id: %d-0\nevent: done\ndata: %b\n\n" % (offset + 1, _encode(done))

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The `error` event."""
        return b"event: error\ndata: %b\n\n" % EVENT_ERRORS.body(problem, rid)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The answer."""
        text = choices[0].text if choices else ""
        return _encode(EventsAnswer(self._id, self._model, text, tokens_of(end, offset)))


EVENTS = Dialect("events", read, EventsShape, EVENT_ERRORS)
