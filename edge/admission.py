"""From a client's body to the message that goes into the queue, or to the reason why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.errors import Problem
from edge.openai_bodies import Body
from edge.registry import Registry, name_asked
from edge.wishes import Wishes
from schemas import subjects
from schemas.dispatch import ModelCard
from schemas.ids import RequestId, TenantKey
from schemas.requests import CLASSES, MSG_ID, TRACEPARENT, RequestMeta, View, meta_headers
from schemas.trace import parse_traceparent, traceparent

CLASS_HEADER = "x-penstock-class"
DEFAULT_CLASS = "standard"
BYTES_PER_TOKEN = 4
"""Of English prose in common tokenizers; the body is taken for the prompt, an estimate from above."""

COST_MAX = (1 << 31) - 1
"""The largest that a header takes."""


@dataclass(frozen=True)
class Arrival:
    """A request as it came in at `at`, in Unix seconds. `headers` are the client's, by lower-case name.

    `fingerprint` is that of the body as the client sent it; `dialect` is that of `View`. `traceparent` is for its
    message; empty: the client's own.
    """

    rid: RequestId
    tenant: TenantKey
    raw: bytes
    fingerprint: str
    headers: Mapping[str, str]
    dialect: str
    at: int
    traceparent: str = ""


@dataclass(frozen=True)
class Admitted:
    """What to publish: `raw` of the arrival on `subject` with `headers`, which say `meta`."""

    card: ModelCard
    subject: str
    headers: dict[str, str]
    meta: RequestMeta


def admit(
    arrival: Arrival,
    body: Body,
    wishes: Wishes,
    registry: Registry,
    *,
    edge: str,
    queue_timeout_s: float,
    now: float,
) -> Admitted | Problem:
    """Decides about a request that is to be published, by what this edge `edge` knows at `now`.

    `queue_timeout_s` is the setting. A request that exists already, by its key, is read without asking here.
    """
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
    if registry.output_is_full:
        return Problem("output_full", "there is no room for more output: try again later")
    view = View(
        arrival.dialect,
        name_asked(card, body.model),
        arrival.at,
        body.streams,
        body.include_usage,
        body.given_id,
    )
    meta = RequestMeta(
        max_tokens=max_tokens,
        cost=min(len(arrival.raw) // BYTES_PER_TOKEN + max_tokens * body.choices, COST_MAX),
        queue_timeout_s=_queue_timeout_s(wishes.deadline_s, queue_timeout_s),
        request_timeout_s=wishes.deadline_s or 0.0,
        fingerprint=arrival.fingerprint,
        stream=body.streams,
        grace_s=wishes.grace_s,
        view=view,
        edge=edge,
        traceparent=arrival.traceparent or _given_traceparent(arrival.headers),
    )
    return Admitted(
        card,
        subjects.request(klass, card.key, arrival.tenant, arrival.rid),
        {MSG_ID: f"{arrival.tenant}.{arrival.rid}", **meta_headers(meta)},
        meta,
    )


def _given_traceparent(headers: Mapping[str, str]) -> str:
    context = parse_traceparent(headers.get(TRACEPARENT, ""))
    return "" if context is None else traceparent(context)


def _queue_timeout_s(deadline_s: float | None, default_s: float) -> float:
    """Never beyond the deadline: a request that no worker took by then may be tried again. 0: the default holds."""
    return deadline_s if deadline_s is not None and deadline_s < default_s else 0.0
