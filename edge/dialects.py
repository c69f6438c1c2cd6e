"""The dialects clients speak: how their bodies are read, and how output is written back. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge.errors import Problem
from edge.openai_bodies import Body, decode_chat, decode_completion, decode_embedding
from edge.openai_chat import ChatShape
from edge.openai_completions import CompletionShape
from edge.openai_embeddings import EmbeddingShape
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import End
from schemas.requests import View


class Shape(Protocol):
    """A dialect's bytes for what a relay puts out. One reading has a shape of its own and shows it every record."""

    def opening(self) -> bytes:
        """What a stream starts with."""

    def tokens(self, tokens: Tokens) -> bytes:
        """The events of one record."""

    def ending(self, end: End, offset: int) -> bytes:
        """The events of a good END, and the last line."""

    def whole(self, choices: list[Choice], end: End, offset: int) -> bytes:
        """The body of an answer that does not stream. A choice that put out nothing may be missing at the end."""


class _MakeShape(Protocol):
    def __call__(self, rid: str, model: str, created: int, *, include_usage: bool) -> Shape: ...


@dataclass(frozen=True)
class Dialect:
    """How one endpoint reads bodies and writes answers; `name` is what a View calls it."""

    name: str
    decode: Callable[[bytes], Body | Problem]
    shape: _MakeShape


CHAT = Dialect("chat", decode_chat, ChatShape)
COMPLETION = Dialect("completion", decode_completion, CompletionShape)
EMBEDDING = Dialect("embedding", decode_embedding, EmbeddingShape)

_BY_NAME = {dialect.name: dialect for dialect in (CHAT, COMPLETION, EMBEDDING)}


def shape_of(view: View, rid: str) -> Shape:
    """The shape its client asked for. A dialect of a newer version is shown as a chat."""
    dialect = _BY_NAME.get(view.dialect, CHAT)
    return dialect.shape(rid, view.model, view.created, include_usage=view.include_usage)


def told_choices(end: End) -> list[Choice] | None:
    """The whole output, where END itself brings it: it is nothing but text then."""
    return None if end.text is None else [Choice([text]) for text in end.text]
