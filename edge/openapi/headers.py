"""Headers of requests and answers as an OpenAPI document tells of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from edge.admission import CLASS_HEADER, DEFAULT_CLASS
from edge.endpoint import Parameter
from edge.position import LAST_EVENT_ID, STARTING_AFTER
from edge.wishes import DEADLINE_HEADER, KEY_CHARS_MAX, KEY_HEADER, ON_DISCONNECT_HEADER
from schemas.requests import TRACEPARENT, Klass

_Seconds = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_Key = Annotated[str, msgspec.Meta(pattern=f"^[!-~]{{1,{KEY_CHARS_MAX}}}$")]
_Deadline = Annotated[str, msgspec.Meta(pattern=f"^{_Seconds}$")]
_Policy = Annotated[str, msgspec.Meta(pattern=f"^(cancel|detach|grace={_Seconds})$")]
_Position = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,15}(-[0-9]{1,9})?$")]

ON_DISCONNECT = Parameter(
    ON_DISCONNECT_HEADER,
    "header",
    _Policy,
    "What becomes of the request when its last reader has left: it is cancelled, it runs on, or it has "
    "some seconds of grace.",
)
LAST_EVENT = Parameter(
    LAST_EVENT_ID,
    "header",
    _Position,
    "The last event that the client has seen, by its `id`, or a number of tokens: the stream goes on after it.",
)
STARTING_POINT = Parameter(STARTING_AFTER, "query", _Position, f"As `{LAST_EVENT_ID}`, which wins.")

READING = (LAST_EVENT, STARTING_POINT, ON_DISCONNECT)
"""What who reads a request's output may say."""

FOLLOWING = (
    Parameter("stream", "query", str, "`true`: its events. What follows is looked at only then."),
    Parameter(STARTING_AFTER, "query", str, "The number of the last event that the client has seen."),
    Parameter(LAST_EVENT_ID, "header", str, "The same, by the event's `id`; it wins."),
    Parameter(ON_DISCONNECT_HEADER, "header", str, ON_DISCONNECT.description),
)
"""What who asks for a response, or for its events, may say."""

LISTING = (
    Parameter("after", "query", str, "The list goes on after the item with this id."),
    Parameter("limit", "query", str, "How many items at most: a whole number."),
    Parameter("order", "query", Literal["asc", "desc"], "By age; the newest come first if it says nothing."),
)
"""What asks for a page of a list."""

PUBLISHING = (
    Parameter(
        KEY_HEADER,
        "header",
        _Key,
        "Makes retries safe: the same key and body are the same request, at whatever server.",
    ),
    Parameter(
        CLASS_HEADER, "header", Klass, f"How urgent the request is; `{DEFAULT_CLASS}` if it says nothing."
    ),
    Parameter(DEADLINE_HEADER, "header", _Deadline, "Seconds from now on in which the request is to end."),
    ON_DISCONNECT,
    Parameter(
        LAST_EVENT_ID,
        "header",
        str,
        f"With a `{KEY_HEADER}` that was used before: the stream goes on after this event. Else it is not looked at.",
    ),
    Parameter(TRACEPARENT, "header", str, "The trace that the request is a part of (W3C Trace Context)."),
    Parameter("x-request-id", "header", str, "The client's own name of the request, for the logs."),
)
"""What all that publish requests read."""

NAMED_HEADERS = {
    "x-request-id": "The request's id: it can be looked at, read and cancelled below `/v1/requests/`.",
    "request-id": "The same.",
    "openai-processing-ms": "Milliseconds until the answer began.",
}
REFUSED_HEADERS = {
    **NAMED_HEADERS,
    "x-should-retry": "`false` where the same request will never do better.",
}
BUSY_HEADERS = {
    "retry-after": "Seconds after which to try again.",
    "retry-after-ms": "The same in milliseconds.",
}
ANSWERED_HEADERS = {
    **NAMED_HEADERS,
    "x-queue-position": "How many requests are before this one when the head leaves; 0: it runs.",
    "x-ratelimit-limit-requests": "Requests that the caller may send in a window, where that is limited.",
    "x-ratelimit-limit-tokens": "Tokens, likewise.",
    "x-ratelimit-remaining-requests": "Requests that are left of it.",
    "x-ratelimit-remaining-tokens": "Tokens that are left of it.",
    "x-ratelimit-reset-requests": "The time until all of them are there again.",
    "x-ratelimit-reset-tokens": "The same of tokens.",
}

_WHOLE_NUMBERS = {"openai-processing-ms", "retry-after", "retry-after-ms", "x-queue-position"}


def components() -> dict[str, Any]:
    """The document's `components.headers`."""
    described = {**REFUSED_HEADERS, **BUSY_HEADERS, **ANSWERED_HEADERS}
    return {
        name: {"description": text, "schema": {"type": "integer" if name in _WHOLE_NUMBERS else "string"}}
        for name, text in described.items()
    }


def references(names: Iterable[str] | Mapping[str, str]) -> dict[str, Any]:
    """A response's `headers`."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
