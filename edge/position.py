"""Places in an event stream: what a client has seen already, and what is left of the bytes it would get. Pure.

An event's id is `<offset after it>-<index in its record>`; END's events stand one past the last token's.
Records and their events are the same wherever and whenever a log is read, so a place has the same id at every edge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from edge.errors import Problem

LAST_EVENT_ID = "last-event-id"
STARTING_AFTER = "starting_after"

_ID = re.compile(r"([0-9]{1,15})(?:-([0-9]{1,9}))?")
_FRAME_ID = re.compile(rb"id: (\d+)-(\d+)\n")
_FRAME_END = b"\n\n"


class Position(NamedTuple):
    """The last event a client has seen; with an endless `nth`: everything up to `offset`."""

    offset: int
    nth: float


def parse_position(text: str) -> Position | Problem:
    """An event's id, or a bare offset."""
    found = _ID.fullmatch(text)
    if found is None:
        return Problem("bad_request", f"{text[:64]!r} is no event id: expected <offset>-<index> or <offset>")
    return Position(int(found[1]), inf if found[2] is None else int(found[2]))


def position_asked(headers: Mapping[str, str], query: Mapping[str, str]) -> Position | Problem | None:
    """Where a client wants to go on; None: from the start. The header wins: a client that reconnects by itself sets it
    and keeps the address it began with."""
    text = headers.get(LAST_EVENT_ID) or query.get(STARTING_AFTER)
    return parse_position(text) if text else None


def unseen(events: bytes, seen: Position) -> bytes:
    """What of some rendered events lies after `seen`. Those without an id are nobody's to skip."""
    frames = events.split(_FRAME_END)
    assert frames.pop() == b"", "events are whole"
    return b"".join([frame + _FRAME_END for frame in frames if _is_after(frame, seen)])


def _is_after(frame: bytes, seen: Position) -> bool:
    found = _FRAME_ID.match(frame)
    return found is None or (int(found[1]), int(found[2])) > seen
