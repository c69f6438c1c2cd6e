"""`python -m schemas.asyncapi [FILE]`: the AsyncAPI 3.1 document of everything that travels over NATS. Pure.

Addresses come from the builders of `schemas.subjects`, payloads from the structs. What is written here is who sends
what to whom.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas import subjects
from schemas.asyncapi_messages import IN_HEADERS, MESSAGES, REQUEST_BODY, Message
from schemas.ids import ANONYMOUS
from schemas.requests import CLASSES
from schemas.streams import DEAD, OUTPUT, REQUESTS

ASYNCAPI_VERSION = "3.1.0"
API_VERSION = "1"
"""Of the subjects, which name it. Messages only gain optional fields."""

DESCRIPTION = """\
What clients without HTTP, and the roles among themselves, say over NATS. A client publishes a request, reads the live \
copies of its output log, and replays the log from the stream where a copy is missing: they are sent at most once. \
Nothing but the streams is authority; all the rest may be lost, and heals."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "class": {"description": "How urgent the request is.", "enum": list(CLASSES)},
    "model": {"description": "The model's key: `schemas.ids.model_key` of its name."},
    "tenant": {"description": "Whose request it is.", "default": ANONYMOUS},
    "rid": {
        "description": "The request's id: 16 to 64 lower-case letters and digits, made by whoever publishes it."
    },
    "worker": {"description": "The worker's id."},
    "kind": {"description": "Which records: those that fence, or tokens.", "enum": ["ctl", "tok"]},
}

_SAMPLES = {"class": "class", "model": "model", "tenant": "tenant", "rid": "r" * 16, "worker": "worker"}
"""What stands for a parameter while a builder makes a subject."""

_CTL = ("lease", "failed", "handoff", "end")
_LIVE = ("liveLease", "liveFailed", "liveHandoff", "liveEnd", "liveTok")


class Channel(NamedTuple):
    """`subject` builds it from `parameters`; None: a subject that each asker makes for the answer. The last token of
    one that matches several is the parameter `kind`."""

    subject: Callable[..., str] | str | None
    parameters: tuple[str, ...]
    messages: tuple[str, ...]
    description: str


CHANNELS: dict[str, Channel] = {
    "request": Channel(
        subjects.request,
        ("class", "model", "tenant", "rid"),
        ("request",),
        f"The queue: stream {REQUESTS}. A request stays there until it has ended.",
    ),
    "outputCtl": Channel(
        subjects.output_ctl,
        ("tenant", "rid"),
        _CTL,
        f"Of a request's output log, the chain that says whose attempt may append: stream {OUTPUT}.",
    ),
    "outputTok": Channel(
        subjects.output_tok, ("tenant", "rid"), ("tok",), f"The tokens of a request's log: stream {OUTPUT}."
    ),
    "live": Channel(
        subjects.live,
        ("tenant", "rid"),
        _LIVE,
        f"Copies of a log's records, sent by the broker when they are stored in {OUTPUT}, in that order.",
    ),
    "cancel": Channel(subjects.cancel, ("tenant", "rid"), ("cancel",), "Wishes and hints to stop a request."),
    "dead": Channel(
        subjects.dead,
        ("model", "tenant", "rid"),
        ("deadLetter",),
        f"Requests that were given up: stream {DEAD}.",
    ),
    "pull": Channel(subjects.PULL, (), ("pull",), "Workers tell how much more they take."),
    "offers": Channel(
        subjects.work,
        ("worker",),
        ("work",),
        "Where a worker takes batches; an empty message asks whether it is there.",
    ),
    "leader": Channel(subjects.LEADER, (), ("leader",), "The leading scheduler tells how things stand."),
    "edge": Channel(subjects.EDGE, (), ("edgeBeat",), "Edges tell who reads there."),
    "answer": Channel(
        None, (), ("stored", "workReply", "cancelled"), "Inboxes that askers make for the answers."
    ),
}


class Operation(NamedTuple):
    """Whoever is in `roles` sends or receives `messages` (empty: all of the channel's)."""

    action: str
    channel: str
    summary: str
    roles: tuple[str, ...]
    messages: tuple[str, ...] = ()
    reply: str = ""


ROLES = {
    "client": "Publishes and reads requests without HTTP",
    "edge": "Publishes and reads requests for HTTP clients",
    "scheduler": "Takes requests from the queue and gives them to workers",
    "worker": "Runs requests and writes their output logs",
}

OPERATIONS: dict[str, Operation] = {
    "publishRequest": Operation(
        "send", "request", "Ask for a generation", ("client", "edge"), reply="stored"
    ),
    "readOutput": Operation("receive", "live", "Follow a request's output", ("client", "edge")),
    "cancelRequest": Operation(
        "send", "cancel", "Have a request cancelled: `close`", ("client",), reply="cancelled"
    ),
    "takeRequests": Operation("receive", "request", "Pull requests from the queue", ("scheduler",)),
    "hearPulls": Operation("receive", "pull", "Learn what workers take", ("scheduler",)),
    "giveWork": Operation("send", "offers", "Give a worker a batch", ("scheduler",), reply="workReply"),
    "lead": Operation("send", "leader", "Tell how things stand", ("scheduler",)),
    "hearCancels": Operation("receive", "cancel", "Stop a request", ("scheduler", "worker")),
    "hintCancel": Operation("send", "cancel", "Tell that a request is cancelled", ("scheduler", "edge")),
    "pull": Operation("send", "pull", "Tell how much more is taken", ("worker",)),
    "takeWork": Operation("receive", "offers", "Take a batch", ("worker",), reply="workReply"),
    "lease": Operation(
        "send",
        "outputCtl",
        "Begin, and give back, an attempt",
        ("worker",),
        ("lease", "failed", "handoff"),
        "stored",
    ),
    "append": Operation("send", "outputTok", "Append tokens", ("worker",), reply="stored"),
    "end": Operation(
        "send", "outputCtl", "End a request", ("worker", "scheduler", "edge"), ("end",), "stored"
    ),
    "bury": Operation("send", "dead", "Keep a request that was given up", ("worker",), reply="stored"),
    "hearLeader": Operation("receive", "leader", "Learn how things stand", ("worker", "edge")),
    "tellReaders": Operation("send", "edge", "Tell who reads here", ("edge",)),
    "hearReaders": Operation("receive", "edge", "Learn who reads elsewhere", ("scheduler", "edge")),
}


def document() -> dict[str, Any]:
    """The whole document."""
    types = _types()
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = {id(type_): schema for type_, schema in zip(types, schemas, strict=True)}
    described = {name: _as_draft_7(schema) for name, schema in components.items()}
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": "Penstock over NATS", "version": API_VERSION, "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "nats",
                "description": "A NATS server with JetStream, 2.12 or newer.",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "4222"}},
            }
        },
        "channels": {name: _channel(channel) for name, channel in CHANNELS.items()},
        "operations": {name: _operation(operation) for name, operation in OPERATIONS.items()},
        "components": {
            "messages": {name: _message(name, message, schema_of) for name, message in MESSAGES.items()},
            "schemas": described | {"RequestBody": REQUEST_BODY},
            "tags": {name: {"name": name, "description": text} for name, text in ROLES.items()},
        },
    }


def as_text() -> str:
    """The document as it stands on disk: stable from run to run."""
    return json.dumps(document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _types() -> list[Any]:
    payloads = [message.payload for message in MESSAGES.values() if message.payload is not None]
    return [*payloads, *IN_HEADERS]


def _channel(channel: Channel) -> dict[str, Any]:
    address = _address(channel)
    named = [token[1:-1] for token in (address or "").split(".") if token.startswith("{")]
    made: dict[str, Any] = {
        "address": address,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
    }
    if named:
        made["parameters"] = {name: PARAMETERS[name] for name in named}
    return made


def _address(channel: Channel) -> str | None:
    """The subject with its parameters named."""
    if channel.subject is None or isinstance(channel.subject, str):
        return channel.subject
    subject = channel.subject(*(_SAMPLES[name] for name in channel.parameters))
    places = {_SAMPLES[name]: f"{{{name}}}" for name in channel.parameters} | {"*": "{kind}"}
    return ".".join(places.get(token, token) for token in subject.split("."))


def _operation(operation: Operation) -> dict[str, Any]:
    messages = operation.messages or CHANNELS[operation.channel].messages
    made: dict[str, Any] = {
        "action": operation.action,
        "channel": {"$ref": f"#/channels/{operation.channel}"},
        "summary": operation.summary,
        "tags": [{"$ref": f"#/components/tags/{role}"} for role in operation.roles],
        "messages": _references(operation.channel, messages),
    }
    if operation.reply:
        made["reply"] = {
            "channel": {"$ref": "#/channels/answer"},
            "messages": _references("answer", [operation.reply]),
        }
    return made


def _references(channel: str, messages: Sequence[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages]


def _message(name: str, message: Message, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    body = {"$ref": "#/components/schemas/RequestBody"}
    made: dict[str, Any] = {
        "name": name,
        "summary": message.summary,
        "contentType": message.content_type,
        "payload": body if message.payload is None else schema_of[id(message.payload)],
    }
    if message.headers is not None:
        made["headers"] = {"type": "object", "properties": message.headers}
    return made


def _as_draft_7(node: Any) -> Any:
    """AsyncAPI's own schemas are a superset of JSON Schema draft 7: tuples are `items`, `discriminator` is another
    thing (each record says what it is by itself). Bytes are only in MessagePack, which has them."""
    if isinstance(node, list):
        return [_as_draft_7(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {name: _as_draft_7(one) for name, one in node.items() if name != "discriminator"}
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    if made.pop("contentEncoding", None) == "base64":
        made["format"] = "binary"
    if isinstance(made.get("description"), str):
        made["description"] = " ".join(made["description"].split())
    return made


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(as_text(), encoding="utf-8")
    else:
        sys.stdout.write(as_text())
