"""The AsyncAPI document says what the code sends. `make test-asyncapi` has the official parser's word on its form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from infra import wire
from infra.jetstream import expect_headers, fence_headers
from schemas import subjects
from schemas.asyncapi import CHANNELS, OPERATIONS, as_text, document
from schemas.asyncapi_messages import CTL_HEADERS, DEAD_HEADERS, MESSAGES, REQUEST_HEADERS, TOK_HEADERS
from schemas.dead import DEAD_LETTER
from schemas.dispatch import (
    Cancel,
    EdgeBeat,
    Leader,
    ModelCard,
    ModelState,
    Pull,
    Reader,
    Running,
    WorkReply,
    encode,
)
from schemas.output import Delta, End, Failed, Handoff, Lease, Tail, Tok, TokenLogprob, ToolPiece, Usage
from schemas.output import encode as encode_record
from schemas.requests import MSG_ID, RequestMeta, View, meta_headers

ON_DISK = Path(__file__).parents[3] / "docs" / "asyncapi.json"
DOCUMENT = document()
RID = "r" * 20
CARD = ModelCard("m", "M", "none", 4096, 256, ["tuned"])
DELTA = Delta("a", 1, "hm", [ToolPiece(0, "c", "f", "{}")], [TokenLogprob("a", None, [97], [])])


def test_the_file_is_current() -> None:
    assert ON_DISK.read_text(encoding="utf-8") == as_text(), "make docs"


def test_addresses_are_the_subjects_with_their_parameters_named() -> None:
    addresses = {name: channel["address"] for name, channel in DOCUMENT["channels"].items()}
    assert addresses == {
        "request": "llm.v1.req.{class}.{model}.{tenant}.{rid}",
        "outputCtl": "llm.v1.out.{tenant}.{rid}.ctl",
        "outputTok": "llm.v1.out.{tenant}.{rid}.tok",
        "live": "llm.v1.live.{tenant}.{rid}.{kind}",
        "cancel": "llm.v1.cancel.{tenant}.{rid}",
        "dead": "llm.v1.dead.{model}.{tenant}.{rid}",
        "pull": "llm.v1.pull",
        "offers": "llm.v1.work.{worker}",
        "leader": "llm.v1.leader",
        "edge": "llm.v1.edge",
        "answer": None,
    }
    for name, address in addresses.items():
        parameters = DOCUMENT["channels"][name].get("parameters", {})
        assert all(f"{{{parameter}}}" in address for parameter in parameters)
        assert len(parameters) == (address or "").count("{")


def test_every_channel_is_used_and_every_message_sent() -> None:
    assert {one.channel for one in OPERATIONS.values()} | {"answer"} == set(CHANNELS)
    sent = {name for channel in CHANNELS.values() for name in channel.messages}
    assert sent == set(MESSAGES)
    for name, operation in OPERATIONS.items():
        assert set(operation.messages) <= set(CHANNELS[operation.channel].messages), name
        assert operation.reply in ("", *CHANNELS["answer"].messages), name


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (
            "lease",
            encode_record(
                Lease("n", "w", 2, "worker_dead", "r", "t", "e", "f", View("chat", "M", 7, False, True))
            ),
        ),
        ("failed", encode_record(Failed("n", "out of memory"))),
        ("handoff", encode_record(Handoff("n", 3))),
        ("tok", encode_record(Tok(9, 0, [1, 2], [DELTA], [0, 1]))),
        (
            "end",
            encode_record(
                End(
                    status="ok",
                    n=2,
                    usage=Usage(1, 2, 3, 4),
                    tail=Tail(1, [2], [DELTA]),
                    stop_reasons=[None, 7, "x"],
                    result=msgspec.Raw(b'{"data": []}'),
                )
            ),
        ),
        ("pull", encode(Pull("w", CARD, 4, 3, 9, 100, [Running(RID, "ack", "public", None, False)], True))),
        ("workReply", encode(WorkReply(["accepted", "full"]))),
        ("leader", encode(Leader("s", 1, 7, [ModelState(CARD, 1, 4, 4, 0.5, 1, {"batch": 2}, 0.2, {})]))),
        ("edgeBeat", encode(EdgeBeat("e", [Reader("public", RID, 30.0)], False))),
        ("cancel", encode(Cancel("so be it", True))),
    ],
)
def test_payloads(name: str, written: bytes) -> None:
    check(DOCUMENT["components"]["messages"][name]["payload"], msgspec.json.decode(written))


def test_a_payload_that_is_none_would_be_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(DOCUMENT["components"]["messages"]["tok"]["payload"], {"lease": "9", "off": 0, "ids": []})


def test_headers_of_requests() -> None:
    meta = RequestMeta(5, 9, 1.5, 20.0, "f" * 32, False, 30.0, View("chat", "M"), "edge-1", "00-a-b-01")
    headers = {MSG_ID: f"public.{RID}", **meta_headers(meta)}
    assert headers.keys() == REQUEST_HEADERS.keys()
    assert DEAD_HEADERS.keys() - REQUEST_HEADERS.keys() == {DEAD_LETTER}
    check(DOCUMENT["components"]["messages"]["request"]["headers"], headers)


def test_headers_that_fence() -> None:
    ctl = wire.parse_headers(expect_headers(7))
    tok = wire.parse_headers(fence_headers(7, subjects.output_ctl("public", RID)))
    assert ctl.keys() == CTL_HEADERS.keys()
    assert tok.keys() == TOK_HEADERS.keys()
    check(DOCUMENT["components"]["messages"]["lease"]["headers"], ctl)
    check(DOCUMENT["components"]["messages"]["tok"]["headers"], tok)


def check(schema: dict[str, Any], value: Any) -> None:
    """As AsyncAPI's schemas are read: draft 7, and nothing that they have no word for."""
    closed = closed_off({"components": DOCUMENT["components"], "allOf": [schema]})
    jsonschema.Draft7Validator(closed).validate(value)


def closed_off(node: Any) -> Any:
    if isinstance(node, list):
        return [closed_off(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {name: closed_off(one) for name, one in node.items()}
    return {"additionalProperties": False, **made} if "properties" in node else made
