"""From a client's body to the message that goes into the queue, or to the reason why not. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge.errors import Problem
from edge.openai_bodies import Body
from edge.registry import Registry
from schemas import subjects
from schemas.dispatch import ModelCard
from schemas.ids import RequestId, TenantKey, fingerprint
from schemas.requests import CLASSES, MSG_ID, RequestMeta, meta_headers

CLASS_HEADER = "x-penstock-class"
DEFAULT_CLASS = "standard"
BYTES_PER_TOKEN = 4
"""Of English prose in common tokenizers; the body is taken for the prompt, an estimate from above."""

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Arrival:
    """A request as it came in. `headers` are the client's, by lower-case name."""

    rid: RequestId
    tenant: TenantKey
    raw: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Admitted:
    """What to publish: `raw` of the arrival on `subject` with `headers`."""

    card: ModelCard
    subject: str
    headers: dict[str, str]


def admit(arrival: Arrival, body: Body, registry: Registry, *, edge: str, now: float) -> Admitted | Problem:
    """Decides about a request by what this edge `edge` knows at `now`."""
    klass = arrival.headers.get(CLASS_HEADER, DEFAULT_CLASS)
    if klass not in CLASSES:
        return Problem("bad_request", f"{CLASS_HEADER} must be one of {', '.join(CLASSES)}", CLASS_HEADER)
    card = registry.find(body.model, now)
    if isinstance(card, Problem):
        return card
    max_tokens = body.tokens_max or card.max_tokens_default
    if max_tokens > card.context_tokens_max:
        return Problem(
            "context_length",
            f"{max_tokens} output tokens do not fit the context of {card.context_tokens_max} tokens "
            f"that the model `{card.name}` has for prompt and output together",
            "max_tokens",
        )
    traceparent = arrival.headers.get("traceparent", "")
    meta = RequestMeta(
        max_tokens=max_tokens,
        cost=len(arrival.raw) // BYTES_PER_TOKEN + max_tokens,
        fingerprint=fingerprint(arrival.raw),
        stream=body.streams,
        edge=edge,
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else "",
    )
    return Admitted(
        card,
        subjects.request(klass, card.key, arrival.tenant, arrival.rid),
        {MSG_ID: f"{arrival.tenant}.{arrival.rid}", **meta_headers(meta)},
    )
