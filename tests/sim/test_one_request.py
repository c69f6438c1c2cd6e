"""The contract of one request, on the real cores: whatever happens in whatever order, it holds, and all ends well."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from edge.relay import Output, Relay
from schemas.output import Tok
from tests.sim.one_request import OneRequest, Reader
from tests.unit.workers.world import KEY
from workers.core import WorkerCore
from workers.engines.base import EngineFailed
from workers.events import Ack, Action, CancelHinted, Event, HandOff, Publish

READERS_MAX = 3
WORKERS = st.integers(0, 1)
PLACES = st.integers(0, 7)


class Contract(RuleBasedStateMachine):
    """What may happen, in Hypothesis' hands. At the end the faults stop, and the request must come to its end."""

    worker: type[WorkerCore] = WorkerCore
    relay: type[Relay] = Relay

    def __init__(self) -> None:
        super().__init__()
        self.world = OneRequest(self.worker, self.relay)
        self.is_cancelled = False

    @initialize(is_cancelled=st.sampled_from([False, False, True]))
    def begin(self, is_cancelled: bool) -> None:
        self.is_cancelled = is_cancelled

    @precondition(lambda self: self.world.is_queued)
    @rule(place=WORKERS)
    def deliver(self, place: int) -> None:
        self.world.offer(place)

    @precondition(lambda self: self.world.deliveries)
    @rule(place=WORKERS)
    def deliver_by_a_second_scheduler(self, place: int) -> None:
        self.world.offer(place, is_stale=True)

    @precondition(lambda self: self.world.deliveries and not self.world.is_queued)
    @rule()
    def nak_by_a_second_scheduler(self) -> None:
        self.world.nak()

    @precondition(lambda self: self.world.network)
    @rule(place=PLACES, is_done_twice=st.booleans())
    def arrive(self, place: int, is_done_twice: bool) -> None:
        self.world.process(place, is_done_twice=is_done_twice)

    @rule(rounds=st.integers(1, 2))
    def go_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.go_on()

    @precondition(lambda self: self.world.network)
    @rule(place=PLACES)
    def arrive_and_lose_the_answer(self, place: int) -> None:
        self.world.process(place, is_answered=False)

    @precondition(lambda self: self.world.network)
    @rule(place=PLACES)
    def lose(self, place: int) -> None:
        self.world.lose(place)

    @rule(place=WORKERS)
    def step(self, place: int) -> None:
        self.world.step(place)

    @rule(place=WORKERS)
    def raise_in_the_engine(self, place: int) -> None:
        for key, (request, _) in list(self.world.workers[place].engine.runs.items()):
            del self.world.workers[place].engine.runs[key]
            self.world.tell(place, EngineFailed(key, request.run, "out of memory"))

    @rule(place=WORKERS)
    def kill(self, place: int) -> None:
        self.world.kill(place)

    @rule(place=WORKERS)
    def cut_off_or_reconnect(self, place: int) -> None:
        self.world.connect(place, connected=not self.world.workers[place].is_connected)

    @rule(place=WORKERS)
    def hand_off(self, place: int) -> None:
        self.world.tell(place, HandOff())

    @precondition(lambda self: self.is_cancelled)
    @rule()
    def cancel(self) -> None:
        self.world.wish_cancel()

    @rule(place=WORKERS)
    def hint(self, place: int) -> None:
        self.world.tell(place, CancelHinted(KEY))

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 7.0, 13.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @precondition(lambda self: len(self.world.readers) < READERS_MAX)
    @rule()
    def join(self) -> None:
        self.world.join()

    @rule(place=PLACES)
    def miss_live_records(self, place: int) -> None:
        self.reader(place).hears = False

    @rule(place=PLACES)
    def reconnect_a_reader(self, place: int) -> None:
        reader = self.reader(place)
        reader.hears = True
        self.world.put(reader, reader.relay.missed())

    @rule(place=PLACES)
    def slow_down_or_catch_up(self, place: int) -> None:
        reader = self.reader(place)
        if reader.relay.paused:
            self.world.put(reader, reader.relay.resume())
        else:
            reader.relay.pause()

    @rule(place=PLACES, lag=st.integers(0, 2))
    def replay(self, place: int, lag: int) -> None:
        reader = self.reader(place)
        if reader.replay_from:
            self.world.replay(reader, lag)

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.heal()
        self.world.check()

    def reader(self, place: int) -> Reader:
        return self.world.readers[place % len(self.world.readers)]


SETTINGS = settings(
    derandomize=True,
    max_examples=300,
    stateful_step_count=80,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def test_one_request_keeps_its_contract() -> None:
    run_state_machine_as_test(Contract, settings=SETTINGS)


class WithoutFence(WorkerCore):
    """Its appends name no lease."""

    def handle(self, event: Event, now: float) -> list[Action]:
        actions = super().handle(event, now)
        return [
            replace(action, fence="") if isinstance(action, Publish) and action.kind == "append" else action
            for action in actions
        ]


class AcksAtOnce(WorkerCore):
    """It acknowledges the request when it sends END, not when END is stored."""

    def handle(self, event: Event, now: float) -> list[Action]:
        actions = super().handle(event, now)
        ends = [action for action in actions if isinstance(action, Publish) and action.kind == "end"]
        return [*actions, *(Ack("any") for _ in ends)]


class TakesWhatComes(Relay):
    """It does not look at offsets and leases."""

    def live_tok(self, tok: Tok, now: float) -> list[Output]:
        return [] if self.over or self.paused else [self._fold_live(tok, now)]


class ContractWithoutFence(Contract):
    worker = WithoutFence


class ContractThatAcksAtOnce(Contract):
    worker = AcksAtOnce


class ContractThatTakesWhatComes(Contract):
    relay = TakesWhatComes


@pytest.mark.parametrize(
    ("contract", "harm"),
    [
        (ContractWithoutFence, "I[378]"),
        (ContractThatAcksAtOnce, "I1/I2"),
        (ContractThatTakesWhatComes, "I6|liveness"),
    ],
)
def test_a_core_that_breaks_a_rule_is_found(contract: type[Contract], harm: str) -> None:
    unshrunk = settings(SETTINGS, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)
    with pytest.raises(AssertionError, match=harm):
        run_state_machine_as_test(contract, settings=unshrunk)
