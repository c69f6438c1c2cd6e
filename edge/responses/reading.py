"""A response's object as its log has it now. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.dialects import told_choices
from edge.errors import Problem
from edge.relay import Broken, Ended, Relay, Tokens
from edge.responses.shape import ResponseShape
from schemas.log import Entry
from schemas.output import End, Lease


def object_of(shape: ResponseShape, entries: Sequence[Entry]) -> dict[str, Any] | Problem:
    """The object of what `entries`, a whole log so far, hold; none of them: nobody has taken the request yet."""
    relay = Relay(0.0)
    last = entries[-1].record if entries else None
    if isinstance(last, Lease):
        shape.begin()
    for entry in entries:
        for output in relay.stored(entry):
            if isinstance(output, Tokens):
                shape.tokens(output)
            elif isinstance(output, Ended):
                return shape.ended(output.end)
            elif isinstance(output, Broken):
                told = told_choices(last) if isinstance(last, End) else None
                if told is None or not isinstance(last, End):
                    return Problem("log_lost", output.message)
                return shape.told(told, last)
    return shape.so_far()
