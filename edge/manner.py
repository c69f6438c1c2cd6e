"""How an answer differs from what its view alone would make of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edge.admission import Arrival
from edge.answers import Answer, AnswerLimits, Submit, Ticket
from edge.dialect import Shape
from edge.dialects import shape_of
from edge.errors import Problem
from edge.reader import LogSources
from edge.whole_answer import WholeAnswer
from schemas.requests import View

Around = Callable[[Arrival, View, Submit], Awaitable[Problem | View | None]]
"""Gets a new request stored by calling what it is given, and does what belongs before and after that."""

MakeWhole = Callable[[Ticket, Submit | None, LogSources, Shape, AnswerLimits], Answer]


@dataclass(frozen=True)
class Manner:
    """`shape` is for an output of this view and rid. `whole` makes an answer that does not stream; `at_once`: one that
    does sends its head as soon as its request is stored. `around`: see there."""

    shape: Callable[[View, str], Shape] = shape_of
    whole: MakeWhole = WholeAnswer
    at_once: bool = False
    around: Around | None = None


AS_EVER = Manner()
