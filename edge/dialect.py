"""What a dialect is: how one endpoint reads bodies, writes output and tells of failures. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edge.errors import ErrorStyle, Problem
from edge.openai_bodies import Body
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import End

KEEP_ALIVE = b": keep-alive\n"
"""A comment line and no empty one: after an `id` an empty line is an event to the official OpenAI client (as its own
reading of the specification has it), and that event has no JSON in it."""


class Elapsed(NamedTuple):
    """What an answer that began with its request took, on the edge's clock, in seconds.

    `first_token_s` is None for one whose tokens were not watched.
    """

    first_token_s: float | None
    total_s: float


class Shape(Protocol):
    """A dialect's bytes for what a relay puts out. One reading has a shape of its own and shows it every record.

    Each event has an `id` line `<n>-<m>`, and ids only grow: a client that comes back names the last one it has seen.
    What a shape makes of a log must be the same at every edge, but for what `elapsed` says.
    """

    @property
    def keep_alive(self) -> bytes:
        """What keeps a silent stream open; it may come between any two events."""

    def opening(self) -> bytes:
        """What a stream starts with. It may be asked for after the first records were shown."""

    def tokens(self, tokens: Tokens) -> bytes:
        """The events of one record."""

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The events of a good END, and the last line. `elapsed`: None for who reads what others began."""

    def failing(self, problem: Problem, rid: str) -> bytes:
        """How a stream that was begun ends badly, at whatever place; without an id, so that it is told again."""

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The body of an answer that does not stream. A choice that put out nothing may be missing at the end."""


class MakeShape(Protocol):
    """`model` is the name the client knows, `created` in Unix seconds; see `View`."""

    def __call__(self, rid: str, model: str, created: int, *, include_usage: bool) -> Shape: ...


class Asked(NamedTuple):
    """A client's wish as the system runs it: `body` is what the edge decides from, `raw` the JSON that goes to the
    engine. That is the client's own bytes where its dialect is one that engines speak, else a chat or a completion made
    of it."""

    body: Body
    raw: bytes


@dataclass(frozen=True)
class Dialect:
    """`name` is what a View calls it. `translates`: no engine speaks it, so what is asked is another body than the
    client's, even if it should have the same bytes."""

    name: str
    read: Callable[[bytes], Asked | Problem]
    shape: MakeShape
    errors: ErrorStyle
    translates: bool = True
