"""Places in a stream: how they are read, and that what is left after each is exactly the rest."""

from __future__ import annotations

import re
from math import inf

import pytest

from edge.dialects import shape_of
from edge.errors import DONE, Problem
from edge.position import Position, parse_position, position_asked, unseen
from edge.relay import Tokens
from schemas.output import Delta, End, TokenLogprob, ToolPiece, Usage
from schemas.requests import View

USAGE = Usage(3, 4)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0-0", (0, 0)),
        ("17-2", (17, 2)),
        ("17", (17, inf)),
        ("0", (0, inf)),
        ("9" * 15, (int("9" * 15), inf)),
    ],
)
def test_ids_and_bare_offsets(text: str, position: tuple[int, float]) -> None:
    assert parse_position(text) == position


@pytest.mark.parametrize(
    "text", ["", "-1", "1-", "-", "a", "1-2-3", " 1", "1.5", "٣", "9" * 16, "1-" + "9" * 10]
)
def test_what_is_no_place(text: str) -> None:
    problem = parse_position(text)
    assert isinstance(problem, Problem)
    assert problem.reason == "bad_request"


def test_the_header_wins_over_the_address() -> None:
    assert position_asked({}, {}) is None
    assert position_asked({"last-event-id": ""}, {}) is None, (
        "an EventSource that has seen no id sends nothing"
    )
    assert position_asked({}, {"starting_after": "3"}) == (3, inf)
    assert position_asked({"last-event-id": "4-1"}, {"starting_after": "3"}) == (4, 1)
    assert isinstance(position_asked({"last-event-id": "x"}, {"starting_after": "3"}), Problem)


LIKELY = TokenLogprob("b", -0.5, [98], [TokenLogprob("a", -1.5, [97])])
PLAIN = [
    Tokens(1, [Delta("a\n\nid: 9-9\ndata: x\n\n")]),
    Tokens(4, [Delta("b"), Delta("c", 1), Delta("d")]),
    Tokens(4, [Delta("held back")], first=3),
]
RICH = [
    Tokens(2, [Delta("", 0, "thinks\n\n"), Delta("", 1, "too", logprobs=[LIKELY])]),
    Tokens(3, [Delta("", 1, tools=[ToolPiece(0, "call_1", "f", '{"a')])]),
    Tokens(5, [Delta("", 1, tools=[ToolPiece(0, "", "", '":1}')]), Delta("b", 0, logprobs=[LIKELY, LIKELY])]),
    Tokens(5, [Delta("b", 2, logprobs=[LIKELY])], first=2),
]


@pytest.mark.parametrize("log", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("dialect", ["chat", "completion"])
def test_what_follows_each_event_is_the_rest(dialect: str, log: list[Tokens]) -> None:
    view = View(dialect, "m", 7, include_usage=True)

    def read() -> list[bytes]:
        shape = shape_of(view, "r")
        end = End(status="ok", usage=USAGE, finish_reasons=["stop", "length", "stop", "stop"])
        return [shape.opening(), *[shape.tokens(tokens) for tokens in log], shape.ending(end, log[-1].offset)]

    whole = b"".join(read())
    ids = [match[1].decode() for match in re.finditer(rb"^id: (\S+)$", whole, re.MULTILINE)]
    assert len(set(ids)) == len(ids) >= 8
    for one in ids:
        position = parse_position(one)
        assert isinstance(position, Position)
        left = b"".join([unseen(piece, position) for piece in read()])
        frame_end = whole.index(b"\n\n", whole.index(b"id: %b\n" % one.encode())) + 2
        assert left == whole[frame_end:], one
    assert b"".join([unseen(piece, Position(log[-1].offset, inf)) for piece in read()]) == read()[-1]
    assert b"".join([unseen(piece, Position(999, 0)) for piece in read()]) == DONE
