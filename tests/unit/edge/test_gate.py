"""What limits have counted is given back exactly once, however a request fails to get in."""

from __future__ import annotations

import asyncio

import pytest

from edge.admission import Admitted, Arrival
from edge.call import Caller
from edge.errors import Problem
from edge.gate import Entering, Gate, Pass, Permit, Settled
from schemas.dispatch import ModelCard
from schemas.ids import ANONYMOUS, RequestId
from schemas.requests import RequestMeta

ARRIVAL = Arrival(RequestId("r" * 20), ANONYMOUS, b"{}", "", {}, "chat", 0)
ENTERING = Entering(Caller(), ARRIVAL, Admitted(ModelCard("m", "m", "none", 1, 1), "", {}, RequestMeta()), {})


class Counting:
    """Lets everybody in."""

    def __init__(self) -> None:
        self.settled: list[Settled] = []

    async def enter(self, entering: Entering) -> Pass | Problem:
        return Pass(((b"x-left", b"1"),), self.settled.append)


class Thinking:
    """Says nothing before it is told what to say."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.said: asyncio.Future[Pass | Problem] = asyncio.get_running_loop().create_future()

    async def enter(self, entering: Entering) -> Pass | Problem:
        self.asked.set()
        return await self.said


async def test_who_is_let_in_is_settled_by_whoever_has_the_permit() -> None:
    counting = Counting()
    permit = await Gate([counting, counting]).enter(ENTERING)
    assert isinstance(permit, Permit)
    assert not counting.settled
    permit.settle(Settled("left"))
    permit.settle(Settled("ended"))
    assert counting.settled == [Settled("left")] * 2


async def test_a_refusal_gives_back_and_says_what_others_had_to_say() -> None:
    counting, thinking = Counting(), Thinking()
    thinking.said.set_result(Problem("no_slot", "no"))
    said = await Gate([counting, thinking, counting]).enter(ENTERING)
    assert isinstance(said, Problem)
    assert said.headers == ((b"x-left", b"1"),)
    assert counting.settled == [Settled("refused")]


async def test_who_is_cancelled_while_a_limit_thinks_counts_no_more() -> None:
    counting, thinking = Counting(), Thinking()
    entering = asyncio.create_task(Gate([counting, thinking]).enter(ENTERING))
    await thinking.asked.wait()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert counting.settled == [Settled("refused")]


async def test_a_limit_that_raises_keeps_nothing_counted() -> None:
    counting, thinking = Counting(), Thinking()
    thinking.said.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await Gate([counting, thinking]).enter(ENTERING)
    assert counting.settled == [Settled("refused")]
