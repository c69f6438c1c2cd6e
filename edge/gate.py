"""What a new request passes before it is published: limits, each of which may refuse it.

A limit that let a request in is told what became of it, whatever that is, exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from edge.admission import Admitted, Arrival
from edge.call import Caller
from edge.errors import Header, Problem
from edge.rates.counted import Knock
from schemas.output import End


@dataclass(frozen=True)
class Entering:
    """A request that is valid and has a model to run it. `headers` are its client's; `knock`: what the rates have
    counted of it already."""

    caller: Caller
    arrival: Arrival
    admitted: Admitted
    headers: Mapping[str, str]
    knock: Knock | None = None


class Settled(NamedTuple):
    """What became of a request as far as this edge knows.

    `how`: it was not stored and never runs; it ended, with `end`; its reader left, and it may run on.
    """

    how: Literal["refused", "ended", "left"]
    end: End | None = None


class Pass(NamedTuple):
    """A limit's yes: `headers` are for the answer, `settle` is called when all is over."""

    headers: Sequence[Header] = ()
    settle: Callable[[Settled], None] = lambda _settled: None


class Limit(Protocol):
    """One reason to refuse."""

    async def enter(self, entering: Entering) -> Pass | Problem:
        """Counts the request in, or says why not."""


@dataclass
class Permit:
    """What all limits said to one request."""

    headers: list[Header] = field(default_factory=list)
    settles: list[Callable[[Settled], None]] = field(default_factory=list)

    def settle(self, settled: Settled) -> None:
        """All is over."""
        settles, self.settles = self.settles, []
        for settle in settles:
            settle(settled)


class Gate:
    """Limits are asked in order; what one has counted is given back when a later one refuses."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits

    async def enter(self, entering: Entering) -> Permit | Problem:
        """A permit, or the first refusal, with what the limits before it had to say."""
        permit = Permit()
        with ExitStack() as unless_let_in:
            # However it ends: whoever asks may be cancelled while a limit is thinking, as a batch is.
            unless_let_in.callback(permit.settle, Settled("refused"))
            for limit in self._limits:
                said = await limit.enter(entering)
                if isinstance(said, Problem):
                    return said._replace(headers=(*permit.headers, *said.headers))
                permit.headers += said.headers
                permit.settles.append(said.settle)
            unless_let_in.pop_all()
        return permit
