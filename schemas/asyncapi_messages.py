"""The messages of the AsyncAPI document: what each carries, and the headers that NATS clients put beside it. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from schemas import requests
from schemas.dead import DEAD_LETTER, DeadLetter
from schemas.dispatch import Cancel, EdgeBeat, Leader, Pull, Work, WorkReply
from schemas.output import End, Failed, Handoff, Lease, Tok

JSON = "application/json"
MESSAGE_PACK = "application/msgpack"

Header = dict[str, Any]


def _text(description: str) -> Header:
    return {"type": "string", "description": description}


def _whole(description: str) -> Header:
    return {**_text(description), "pattern": "^[0-9]+$"}


def _number(description: str) -> Header:
    return {**_text(description), "pattern": "^[0-9.e+-]+$"}


REQUEST_HEADERS: dict[str, Header] = {
    requests.MSG_ID: _text("`<tenant>.<rid>`: the same publish twice is one request."),
    requests.MAX_TOKENS: _whole("Output tokens of each choice; without it the model's default."),
    requests.COST: _whole("Estimate of prompt and output tokens together."),
    requests.QUEUE_TIMEOUT_S: _number("Seconds to wait for a worker; 0: the system's."),
    requests.REQUEST_TIMEOUT_S: _number("Seconds until it ends; 0: the system's."),
    requests.FINGERPRINT: _text("128 bits of SHA-256 of the client's body, hex."),
    requests.STREAM: _text("`0`: nobody reads token by token."),
    requests.GRACE_S: _number("Cancelled this long after its last reader left; without it, never."),
    requests.VIEW: _text("How edges show the output: a `View` as JSON."),
    requests.EDGE: _text("The edge that published it."),
    requests.TRACEPARENT: _text("W3C Trace Context."),
}
"""All may be left out."""

DEAD_HEADERS = {**REQUEST_HEADERS, DEAD_LETTER: _text("Why it was given up: a `DeadLetter` as JSON.")}

CTL_HEADERS: dict[str, Header] = {
    requests.EXPECTED_SEQUENCE: _whole(
        "The chain's last sequence that the writer knows, 0: it is empty. Stored only if it still is."
    )
}
TOK_HEADERS: dict[str, Header] = {
    requests.EXPECTED_SEQUENCE: _whole(
        "The lease's sequence: stored only while nothing follows it in the chain."
    ),
    requests.EXPECTED_SUBJECT: _text("The request's ctl subject."),
}
LIVE_HEADERS: dict[str, Header] = {
    "Nats-Stream": _text("Where the record is stored."),
    "Nats-Subject": _text("Its subject there."),
    "Nats-Sequence": _whole("Its sequence there."),
    "Nats-Time-Stamp": _text("When it was stored."),
    "Nats-Last-Sequence": _whole("The sequence before it on its subject; 0: there is none."),
}
"""Set by the broker."""


class BrokerError(msgspec.Struct, frozen=True):
    """`err_code` 10077: the stream is full; 10071: the expected sequence is another one."""

    code: int
    err_code: int = 0
    description: str = ""


class Stored(msgspec.Struct, frozen=True):
    """The broker's answer to a publish into a stream. `duplicate`: it was there already."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: BrokerError | None = None


class Message(NamedTuple):
    """`payload` None: the JSON body of a request, which nobody between client and engine decodes."""

    payload: Any | None
    summary: str
    headers: dict[str, Header] | None = None
    content_type: str = JSON


MESSAGES: dict[str, Message] = {
    "request": Message(None, "A request: the body that a client of the HTTP API would post", REQUEST_HEADERS),
    "lease": Message(Lease, "An attempt begins, and fences the ones before it", CTL_HEADERS),
    "failed": Message(Failed, "An attempt's engine failed", CTL_HEADERS),
    "handoff": Message(Handoff, "An attempt gave the request back", CTL_HEADERS),
    "end": Message(End, "The request has ended; nothing follows", CTL_HEADERS),
    "tok": Message(Tok, "Tokens, and what they made", TOK_HEADERS),
    "liveLease": Message(Lease, "A stored lease", LIVE_HEADERS),
    "liveFailed": Message(Failed, "A stored failure", LIVE_HEADERS),
    "liveHandoff": Message(Handoff, "A stored hand-off", LIVE_HEADERS),
    "liveEnd": Message(End, "A stored END", LIVE_HEADERS),
    "liveTok": Message(Tok, "Stored tokens", LIVE_HEADERS),
    "deadLetter": Message(None, "A request that was given up, unchanged", DEAD_HEADERS),
    "pull": Message(Pull, "A worker's standing credit, and its heartbeat"),
    "work": Message(Work, "A batch for a worker", content_type=MESSAGE_PACK),
    "workReply": Message(WorkReply, "What a worker says to each request of a batch"),
    "leader": Message(Leader, "The leading scheduler's heartbeat"),
    "edgeBeat": Message(EdgeBeat, "An edge's heartbeat: who reads there"),
    "cancel": Message(Cancel, "A request is to be cancelled, or has been"),
    "cancelled": Message(End, "The END that is in the log now"),
    "stored": Message(Stored, "What the broker made of a publish"),
}

IN_HEADERS: tuple[Any, ...] = (requests.View, DeadLetter)
"""Types whose JSON travels in a header."""

REQUEST_BODY: dict[str, Any] = {
    "title": "RequestBody",
    "description": "With `messages` a chat, with `prompt` a completion, with `input` and neither of them embeddings. "
    "The HTTP API's document describes the fields; what is not named there reaches the engine as it is.",
    "type": "object",
    "anyOf": [{"required": [field]} for field in ("messages", "prompt", "input")],
}
