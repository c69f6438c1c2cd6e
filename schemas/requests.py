"""A request on its way to a worker: the body any client publishes, and the headers the scheduler decides from.

The body is the JSON object a client of an OpenAI-compatible API would POST: with `messages` it is a chat, with `prompt`
a completion, with `input` and neither of them embeddings. The scheduler never decodes it. Every header has a default,
so a direct publisher may send the body alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal, get_args

import msgspec

from schemas.trace import short_traceparent

Klass = Literal["interactive", "standard", "batch"]
CHOICES_MAX = 128
"""Choices a request may ask for, as OpenAI's API has it."""

CLASSES: tuple[Klass, ...] = get_args(Klass)

MAX_TOKENS = "Penstock-Max-Tokens"
COST = "Penstock-Cost"
QUEUE_TIMEOUT_S = "Penstock-Queue-Timeout-S"
REQUEST_TIMEOUT_S = "Penstock-Request-Timeout-S"
FINGERPRINT = "Penstock-Fingerprint"
STREAM = "Penstock-Stream"
GRACE_S = "Penstock-Grace-S"
VIEW = "Penstock-View"
EDGE = "Penstock-Edge"
TRACEPARENT = "traceparent"
MSG_ID = "Nats-Msg-Id"
TRACE_DEST = "Nats-Trace-Dest"
"""Names a subject that each server tells which the message passes. A server that stores it writes `trace disabled` in
its place: neither a delivery nor a live copy is told of."""
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


def prompts_in(given: str | list[Any]) -> int:
    """How many texts these are: one, a list of them, the tokens of one, or a list of such lists. 0: none of these, or
    one of several is empty."""
    if isinstance(given, str):
        return 1
    kinds = {type(one) for one in given}
    if kinds == {int}:
        return 1
    are_texts = kinds == {str} or (kinds == {list} and {type(token) for token in chain(*given)} == {int})
    return len(given) if are_texts and all(given) else 0


class View(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the client that asked wants to see the output: whoever reads it later, at any edge, is shown the same.

    `dialect` is "chat", "completion", "embedding" or another that edges know. `model` is the name the client knows,
    `created` is in Unix seconds; `include_usage`: a usage chunk ends the stream. `given_id` is what the client itself
    calls the request, where its dialect lets it.
    """

    dialect: str = "chat"
    model: str = ""
    created: int = 0
    stream: bool = True
    include_usage: bool = False
    given_id: str = ""


class RequestMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the scheduler and the worker know of a request without its body.

    `max_tokens` and `cost` count tokens (cost: prompt estimate + max_tokens; 0 = unknown); time-outs are in seconds
    from the broker's time of the message, 0 = the system's default. `stream`: whether somebody reads token by token.
    `grace_s`: the request is cancelled this long after its last reader left; None: it runs to its end, read or not.
    `view`: None where no edge published it.
    """

    max_tokens: int = 0
    cost: int = 0
    queue_timeout_s: float = 0.0
    request_timeout_s: float = 0.0
    fingerprint: str = ""
    stream: bool = True
    grace_s: float | None = None
    view: View | None = None
    edge: str = ""
    traceparent: str = ""


_view = msgspec.json.Decoder(View)


class InvalidMeta(msgspec.Struct, frozen=True):
    """A header that cannot be used: the value is the client's fault, and `reason` says so to it."""

    reason: str


def meta_headers(meta: RequestMeta) -> dict[str, str]:
    """NATS headers of `meta`; what equals its default is left out."""
    headers: dict[str, str] = {}
    for name, value in (
        (MAX_TOKENS, meta.max_tokens),
        (COST, meta.cost),
        (QUEUE_TIMEOUT_S, meta.queue_timeout_s),
        (REQUEST_TIMEOUT_S, meta.request_timeout_s),
        (FINGERPRINT, meta.fingerprint),
        (EDGE, meta.edge),
        (TRACEPARENT, meta.traceparent),
    ):
        if value:
            headers[name] = str(value)
    if not meta.stream:
        headers[STREAM] = "0"
    if meta.grace_s is not None:
        headers[GRACE_S] = str(meta.grace_s)
    if meta.view is not None:
        headers[VIEW] = msgspec.json.encode(meta.view).decode()
    return headers


def parse_meta(headers: Mapping[str, str]) -> RequestMeta | InvalidMeta:
    """Reads `meta_headers` back; a direct publisher's nonsense comes back as `InvalidMeta`, never as an exception."""
    try:
        meta = RequestMeta(
            max_tokens=int(headers.get(MAX_TOKENS, 0)),
            cost=int(headers.get(COST, 0)),
            queue_timeout_s=float(headers.get(QUEUE_TIMEOUT_S, 0)),
            request_timeout_s=float(headers.get(REQUEST_TIMEOUT_S, 0)),
            fingerprint=headers.get(FINGERPRINT, ""),
            stream=headers.get(STREAM, "1") != "0",
            grace_s=float(headers[GRACE_S]) if GRACE_S in headers else None,
            view=_view.decode(headers[VIEW]) if VIEW in headers else None,
            edge=headers.get(EDGE, ""),
            traceparent=short_traceparent(headers.get(TRACEPARENT, "")),
        )
    except ValueError as error:
        return InvalidMeta(f"a Penstock header cannot be read: {error}")
    if not (0 <= meta.max_tokens < 1 << 31 and 0 <= meta.cost < 1 << 31):
        return InvalidMeta(f"{MAX_TOKENS} and {COST} must be between 0 and 2^31")
    if not (0 <= meta.queue_timeout_s < 1e9 and 0 <= meta.request_timeout_s < 1e9):
        return InvalidMeta(f"{QUEUE_TIMEOUT_S} and {REQUEST_TIMEOUT_S} must be non-negative seconds")
    if meta.grace_s is not None and not 0 <= meta.grace_s < 1e9:
        return InvalidMeta(f"{GRACE_S} must be non-negative seconds")
    return meta
