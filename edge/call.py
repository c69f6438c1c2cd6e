"""One HTTP request as an endpoint gets it: who asks, and for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.requests import Request

from edge.errors import OPENAI_ERRORS, ErrorStyle
from edge.tracing import CallTrace
from schemas.ids import ANONYMOUS, TenantKey
from schemas.requests import CLASSES, Klass


class Rate(NamedTuple):
    """So many in any `window_s` seconds; 0: any number."""

    amount: int = 0
    window_s: int = 60


UNLIMITED = Rate()


@dataclass(frozen=True)
class Caller:
    """Who asks. Whatever it asks for is its tenant's. `id` is what limits count by, and is fit for logs; `classes` are
    those it may ask for. `requests` and `tokens` are its rates, `streams_max` the answers it may have open at the same
    time (0: any number), all of them over all edges. `key` is the id of the key it has shown, if one is needed."""

    tenant: TenantKey = ANONYMOUS
    id: str = ""
    classes: tuple[Klass, ...] = CLASSES
    requests: Rate = UNLIMITED
    tokens: Rate = UNLIMITED
    streams_max: int = 0
    key: str = ""


@dataclass(frozen=True)
class Call:
    """`headers` by lower-case name; `path` holds what stood in the places of the endpoint's path; `errors` is how this
    endpoint tells of failures; `request` is there for an endpoint that reads its body itself, and `body` empty then.
    `trace`: None if nothing is traced."""

    caller: Caller
    headers: Mapping[str, str]
    body: bytes = b""
    query: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)
    errors: ErrorStyle = OPENAI_ERRORS
    request: Request | None = None
    trace: CallTrace | None = None
