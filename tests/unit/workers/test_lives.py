"""Whole lives of a request against a model of the broker: crashes at every point, and random worlds.

`Log` asserts the invariants of the log on every record it stores; here it is asserted that a life comes to its end with
exactly the reference text.
"""

from __future__ import annotations

import hashlib
import random

import pytest

from schemas.dispatch import Work
from schemas.log import fold
from schemas.output import Cause, End
from tests.unit.workers.world import KEY, Life, Log, item
from workers.engines.simulator import reference_text
from workers.events import CancelHinted, ConnectionChanged, Offered, Refused, Stored, Tick

PROMPT, TOKENS = "water", 8
TEXT = reference_text(PROMPT, 0, TOKENS)
STEPS_MAX = 2000


def _offer(life: Life, log: Log, attempt: int, cause: Cause, now: float, *, stream: bool = True) -> None:
    ctl_seq = 0 if attempt == 1 or log.last_ctl is None else log.last_ctl.seq
    offered = item(attempt=attempt, ctl_seq=ctl_seq, cause=cause, meta={"stream": stream})
    life.feed(Offered(Work(attempt, [offered]), "reply"), now)


def _assert_complete(log: Log) -> None:
    folded = fold(log.entries)
    assert folded.end is not None
    assert folded.end.status == "ok"
    assert folded.texts == [TEXT]
    assert folded.end.n == TOKENS == len(folded.ids)
    assert folded.end.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def _steps_of_a_life() -> int:
    log = Log()
    life = Life("w1", log)
    _offer(life, log, 1, "first", 0.0)
    steps = 0
    while life.advance(0.0):
        steps += 1
    _assert_complete(log)
    assert life.is_acked
    return steps


@pytest.mark.parametrize("steps", range(_steps_of_a_life()))
def test_a_crash_at_any_point_continues_elsewhere_with_the_same_text(steps: int) -> None:
    log = Log()
    first = Life("w1", log)
    _offer(first, log, 1, "first", 0.0)
    for _ in range(steps):
        first.advance(0.0)
    if log.end is not None:
        _assert_complete(log)  # the scheduler finds END at the next delivery and settles it without a worker
        return
    second = Life("w2", log)
    _offer(second, log, 2, "worker_dead", 0.0)
    while second.advance(0.0):
        pass
    assert second.is_acked
    _assert_complete(log)


@pytest.mark.parametrize("steps", range(_steps_of_a_life()))
def test_a_zombie_that_wakes_up_at_any_point_changes_nothing(steps: int) -> None:
    log = Log()
    zombie, second = Life("w1", log), Life("w2", log)
    _offer(zombie, log, 1, "first", 0.0)
    for _ in range(steps):
        zombie.advance(0.0)
    if log.end is not None:
        return
    _offer(second, log, 2, "worker_dead", 0.0)
    both = True
    while both:
        both = second.advance(0.0) | zombie.advance(0.0)
    assert second.is_acked or zombie.is_acked
    _assert_complete(log)


class _Chaos:
    """Two workers and a broker that loses answers and redelivers at will; a worker may be replaced, cut off or hinted
    at a cancel. After some time the faults stop, and the request must come to its end."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.log = Log()
        self.lives = [Life("w1", self.log), Life("w2", self.log)]
        self.attempt = 0
        self.now = 0.0
        self.born = 2
        self.is_acked = False
        self.is_cancelled = False
        self.cut_off: dict[int, None] = {}
        self.stream = self.dice.random() < 0.5

    def run(self) -> None:
        self._deliver()
        for _ in range(self.dice.randrange(10, 150)):
            self._fault() if self.dice.random() < 0.15 else self._step()
        for index in list(self.cut_off):
            self._connect(index)
        for _ in range(STEPS_MAX):
            self._step(is_lossy=False)
            if self.is_acked:
                return
            if self.dice.random() < 0.01:
                self._deliver()
        raise AssertionError("the request never ended")

    def _step(self, *, is_lossy: bool = True) -> None:
        self.now += self.dice.choice((0.0, 0.0, 0.001, 0.01))
        index = self.dice.randrange(len(self.lives))
        life = self.lives[index]
        at = life.core.next_deadline()
        if at is not None and at <= self.now:
            life.feed(Tick(), self.now)
        if (
            is_lossy
            and life.inbox
            and isinstance(life.inbox[0], Stored | Refused)
            and self.dice.random() < 0.2
        ):
            life.inbox.pop(0)
        if index in self.cut_off:
            life.inbox = [event for event in life.inbox if not isinstance(event, Stored | Refused)]
            life.todo = []
            life.inbox += life.engine.step()
            if life.inbox:
                life.feed(life.inbox.pop(0), self.now)
        elif not life.advance(self.now) and at is not None:
            self.now = max(self.now, min(at, self.now + 0.6))
        self.is_acked = self.is_acked or life.is_acked

    def _fault(self) -> None:
        index = self.dice.randrange(len(self.lives))
        match self.dice.randrange(6):
            case 0:
                self.born += 1
                self.lives[index] = Life(f"w{self.born}", self.log)
                self.cut_off.pop(index, None)
            case 1:
                self._deliver()
            case 2 if index not in self.cut_off:
                self.cut_off[index] = None
                self.lives[index].feed(ConnectionChanged(connected=False), self.now)
            case 3 if index in self.cut_off:
                self._connect(index)
            case 4:
                self.lives[index].feed(CancelHinted(KEY), self.now)
            case 5 if self.dice.random() < 0.1 and self.log.end is None:
                self.log.append(End(status="cancelled", reason="cancelled"))
                self.is_cancelled = True

    def _connect(self, index: int) -> None:
        del self.cut_off[index]
        self.lives[index].feed(ConnectionChanged(connected=True), self.now)

    def _deliver(self) -> None:
        """The scheduler's part: an END it finds settles the request."""
        if self.attempt and self.log.end is not None:
            self.is_acked = True
            return
        self.attempt += 1
        index = self.dice.randrange(len(self.lives))
        if index not in self.cut_off:
            cause: Cause = "first" if self.attempt == 1 else "redelivered"
            _offer(self.lives[index], self.log, self.attempt, cause, self.now, stream=self.stream)


@pytest.mark.parametrize("block", range(10))
def test_random_worlds_end_with_the_reference_text(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        chaos = _Chaos(seed)
        try:
            chaos.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        folded = fold(chaos.log.entries)
        assert folded.end is not None, f"seed {seed}"
        if folded.end.status == "ok":
            _assert_complete(chaos.log)
        else:
            assert chaos.is_cancelled or folded.end.reason == "poison", f"seed {seed}: {folded.end}"
            assert TEXT.startswith("".join(folded.texts)), f"seed {seed}: what was shown is a prefix"
