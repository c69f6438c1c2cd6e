"""The dialects clients speak, by name. Pure."""

from __future__ import annotations

from collections.abc import Callable

from edge.anthropic.dialects import MESSAGE, TOKEN_COUNT
from edge.compat.generate import GENERATE
from edge.compat.predict import PREDICT
from edge.compat.v1_generate import EVENTS
from edge.dialect import Asked, Dialect, Shape
from edge.errors import OPENAI_ERRORS, Problem
from edge.openai_bodies import Body, decode_chat, decode_completion, decode_embedding
from edge.openai_chat import ChatShape
from edge.openai_completions import CompletionShape
from edge.openai_embeddings import EmbeddingShape
from edge.responses.shape import recordless
from edge.responses.translate import read_response
from schemas.choices import Choice
from schemas.output import End
from schemas.requests import View


def _unchanged(decode: Callable[[bytes], Body | Problem]) -> Callable[[bytes], Asked | Problem]:
    """Engines speak this dialect: what the client sent travels on as it is."""

    def read(raw: bytes) -> Asked | Problem:
        body = decode(raw)
        return body if isinstance(body, Problem) else Asked(body, raw)

    return read


CHAT = Dialect("chat", _unchanged(decode_chat), ChatShape, OPENAI_ERRORS, translates=False)
COMPLETION = Dialect(
    "completion", _unchanged(decode_completion), CompletionShape, OPENAI_ERRORS, translates=False
)
EMBEDDING = Dialect(
    "embedding", _unchanged(decode_embedding), EmbeddingShape, OPENAI_ERRORS, translates=False
)
RESPONSE = Dialect("response", read_response, recordless, OPENAI_ERRORS)

_ALL = (CHAT, COMPLETION, EMBEDDING, RESPONSE, MESSAGE, TOKEN_COUNT, PREDICT, GENERATE, EVENTS)
_BY_NAME = {dialect.name: dialect for dialect in _ALL}


def dialect_of(view: View) -> Dialect:
    """The dialect its client spoke. One of a newer version is shown as a chat."""
    return _BY_NAME.get(view.dialect, CHAT)


def shape_of(view: View, rid: str) -> Shape:
    """The shape its client asked for, under the id that the client knows the request by."""
    name = view.given_id or rid
    return dialect_of(view).shape(name, view.model, view.created, include_usage=view.include_usage)


def told_choices(end: End) -> list[Choice] | None:
    """The whole output, where END itself brings it: it is nothing but text then."""
    return None if end.text is None else [Choice([text]) for text in end.text]
