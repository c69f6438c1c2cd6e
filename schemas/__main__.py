"""`python -m schemas`: JSON Schemas of every message, for publishers and readers in other languages."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from schemas.dead import DeadLetter
from schemas.dispatch import Cancel, EdgeBeat, Leader, Pull, Work, WorkReply
from schemas.output import CtlRecord, Tok
from schemas.requests import RequestMeta

MESSAGES: dict[str, Any] = {
    "request headers": RequestMeta,
    "ctl record": CtlRecord,
    "tok record": Tok,
    "pull": Pull,
    "work (MessagePack)": Work,
    "work reply": WorkReply,
    "leader": Leader,
    "edge beat": EdgeBeat,
    "cancel": Cancel,
    "dead letter": DeadLetter,
}
"""What travels where: see the table of subjects in docs/design.md."""


def json_schemas() -> dict[str, Any]:
    """One JSON Schema document: `messages` by name, `$defs` of what they are made of."""
    schemas, components = msgspec.json.schema_components(MESSAGES.values(), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock messages",
        "messages": dict(zip(MESSAGES, schemas, strict=True)),
        "$defs": components,
    }


if __name__ == "__main__":
    print(json.dumps(json_schemas(), indent=2))
