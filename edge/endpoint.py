"""What an endpoint is: where it stands, what it does, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from starlette.responses import Response

from edge.call import Call
from edge.errors import OPENAI_ERRORS, ErrorStyle


class Parameter(NamedTuple):
    """What an endpoint reads beside body and path; `type_` is a type as msgspec knows it."""

    name: str
    where: Literal["query", "header"]
    type_: object
    description: str


@dataclass(frozen=True)
class Endpoint:
    """`path` is a template of Starlette's. All endpoints of one path tell of failures in one style.

    For the API's description: `takes` and `gives` are the types of the bodies, as msgspec knows them (None: there is
    none, or it is not JSON); `streams`: it may answer with an event stream; `problems` are reasons of the error table
    that it may answer with besides those that any endpoint may. `parameters` are those it reads besides the ones of
    all that publish requests; `events` are the types of what a stream's `data` lines hold, each as JSON, and
    `last_data` is what the last of them holds instead, if it does. `takes_as` and
    `gives_as` are media types. `also` are types of JSON bodies with other good statuses than 200; `examples` are bodies
    it takes, by what they are for.

    `reads_body`: its handler reads the body of `Call.request` itself, because it may be larger than a request to a
    model.
    """

    method: str
    path: str
    handle: Callable[[Call], Awaitable[Response]]
    summary: str
    takes: object | None = None
    gives: object | None = None
    streams: bool = False
    problems: tuple[str, ...] = ()
    errors: ErrorStyle = OPENAI_ERRORS
    reads_body: bool = False
    parameters: tuple[Parameter, ...] = ()
    events: tuple[object, ...] = ()
    last_data: str = "[DONE]"
    takes_as: str = "application/json"
    gives_as: str = "application/json"
    also: Mapping[int, object] = field(default_factory=dict)
    examples: Mapping[str, object] = field(default_factory=dict)

    @property
    def publishes(self) -> bool:
        """Whether it is one of those that publish requests: only they can meet an idempotency key."""
        return "idempotency_mismatch" in self.problems
