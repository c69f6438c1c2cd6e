"""The supervisor's decisions: order of start and stop, restarts, back-off, bad configuration."""

from __future__ import annotations

import random

import pytest

from infra.supervisor import (
    BACKOFF_MAX_S,
    BACKOFF_MIN_S,
    KILL_GRACE_S,
    Action,
    Announce,
    Event,
    Exited,
    Finish,
    Kill,
    Ready,
    Role,
    Spawn,
    Start,
    Stop,
    SupervisorCore,
    Terminate,
    Tick,
)

DRAIN_S = 30.0
CHILDREN: dict[str, Role] = {
    "broker": "broker",
    "scheduler-1": "scheduler",
    "worker-1": "worker",
    "worker-2": "worker",
    "edge-1": "edge",
}


class Driver:
    """A supervisor whose invariants are checked after each event."""

    def __init__(self, children: dict[str, Role] | None = None) -> None:
        self.core = SupervisorCore(children or CHILDREN, drain_timeout_s=DRAIN_S)

    def __call__(self, event: Event, now: float = 0.0) -> list[Action]:
        actions = self.core.handle(event, now)
        self.core.check()
        return actions

    def all_ready(self) -> None:
        self(Start())
        for name in CHILDREN:
            self(Ready(name))


@pytest.fixture
def drive() -> Driver:
    return Driver()


def test_broker_starts_first_and_the_rest_together(drive: Driver) -> None:
    assert drive(Start()) == [Spawn("broker")]
    assert drive(Ready("broker")) == [
        Spawn("scheduler-1"),
        Spawn("worker-1"),
        Spawn("worker-2"),
        Spawn("edge-1"),
    ]


def test_without_a_broker_of_our_own_the_rest_starts_at_once() -> None:
    drive = Driver({"edge-1": "edge", "worker-1": "worker"})
    assert drive(Start()) == [Spawn("edge-1"), Spawn("worker-1")]


def test_announced_once_when_all_are_ready(drive: Driver) -> None:
    drive(Start())
    for name in list(CHILDREN)[:-1]:
        assert Announce() not in drive(Ready(name))
    assert drive(Ready("edge-1")) == [Announce()]
    drive(Exited("edge-1", 1), now=1.0)
    drive(Tick(), now=2.0)
    assert drive(Ready("edge-1"), now=3.0) == []


def test_a_dead_child_is_restarted_after_a_doubling_delay(drive: Driver) -> None:
    drive.all_ready()
    now, delays = 0.0, []
    for _ in range(8):
        assert drive(Exited("worker-1", -9), now=now) == []
        deadline = drive.core.next_deadline()
        assert deadline is not None
        assert drive(Tick(), now=deadline - 0.001) == []
        assert drive(Tick(), now=deadline) == [Spawn("worker-1")]
        delays.append(round(deadline - now, 6))
        now = deadline
    assert delays == [BACKOFF_MIN_S, 0.2, 0.4, 0.8, 1.6, 3.2, BACKOFF_MAX_S, BACKOFF_MAX_S]


def test_a_start_that_gets_ready_forgives_earlier_failures(drive: Driver) -> None:
    drive.all_ready()
    for now in (0.0, 1.0, 2.0):
        drive(Exited("worker-1", 1), now=now)
        drive(Tick(), now=now + 0.9)
    drive(Ready("worker-1"), now=3.0)
    drive(Exited("worker-1", 1), now=3.1)
    assert drive.core.next_deadline() == pytest.approx(3.1 + BACKOFF_MIN_S)


def test_a_dead_broker_is_restarted_alone(drive: Driver) -> None:
    drive.all_ready()
    drive(Exited("broker", -9), now=20.0)
    assert not drive.core.is_ready("broker")
    assert drive(Tick(), now=21.0) == [Spawn("broker")]
    assert drive(Ready("broker"), now=21.1) == []
    assert drive.core.is_ready("broker")


def test_a_broker_that_dies_before_it_was_ready_holds_back_the_rest(drive: Driver) -> None:
    drive(Start())
    assert drive(Exited("broker", 1)) == []
    assert drive(Tick(), now=1.0) == [Spawn("broker")]
    assert Spawn("worker-1") in drive(Ready("broker"), now=2.0)


def test_stops_in_the_order_of_the_drain(drive: Driver) -> None:
    drive.all_ready()
    assert drive(Stop()) == [Terminate("edge-1")]
    assert drive(Exited("edge-1", 0)) == [Terminate("worker-1"), Terminate("worker-2")]
    assert drive(Exited("worker-2", 0)) == []
    assert drive(Exited("worker-1", 0)) == [Terminate("scheduler-1")]
    assert drive(Exited("scheduler-1", 0)) == [Terminate("broker")]
    assert drive(Exited("broker", 1)) == [Finish(0, None)]
    assert drive.core.next_deadline() is None


def test_a_child_that_misses_its_drain_is_killed_and_the_exit_code_says_so(drive: Driver) -> None:
    drive.all_ready()
    drive(Stop(), now=100.0)
    deadline = 100.0 + DRAIN_S + KILL_GRACE_S
    assert drive.core.next_deadline() == deadline
    assert drive(Tick(), now=deadline) == [Kill("edge-1")]
    assert drive(Exited("edge-1", -9), now=deadline) == [Terminate("worker-1"), Terminate("worker-2")]
    for name in ("worker-1", "worker-2", "scheduler-1"):
        drive(Exited(name, 0), now=deadline)
    assert drive(Exited("broker", 0), now=deadline) == [Finish(1, None)]


def test_a_second_stop_kills_all(drive: Driver) -> None:
    drive.all_ready()
    drive(Stop())
    assert drive(Stop()) == [Kill(name) for name in CHILDREN]


def test_nothing_is_restarted_while_stopping(drive: Driver) -> None:
    drive.all_ready()
    drive(Exited("worker-1", 1), now=1.0)
    drive(Stop(), now=1.0)
    drive(Exited("broker", -9), now=1.0)
    assert drive(Tick(), now=5.0) == []
    assert drive(Exited("edge-1", 0), now=5.0) == [Terminate("worker-2")]


def test_bad_configuration_stops_everything_and_names_the_culprit(drive: Driver) -> None:
    drive(Start())
    drive(Ready("broker"))
    assert drive(Exited("worker-1", 2)) == [Terminate("edge-1")]
    drive(Exited("edge-1", 0))
    drive(Exited("worker-2", 0))
    drive(Exited("scheduler-1", 0))
    assert drive(Exited("broker", 0)) == [Finish(2, "worker-1")]


def test_ready_from_a_child_that_is_gone_changes_nothing(drive: Driver) -> None:
    drive(Start())
    drive(Exited("broker", -9))
    assert drive(Ready("broker")) == []
    assert not drive.core.is_ready("broker")


@pytest.mark.parametrize("seed", range(300))
def test_any_story_ends_with_all_children_gone(seed: int) -> None:
    """Random readiness, deaths, time and stops: invariants hold, no child runs twice, and it finishes."""
    dice, drive, now = random.Random(seed), Driver(), 0.0
    running: dict[str, None] = {}
    done: list[Finish] = []

    def apply(actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Spawn):
                assert action.name not in running
                running[action.name] = None
            elif isinstance(action, Kill):
                kills.append(action.name)
            elif isinstance(action, Finish):
                done.append(action)

    kills: list[str] = []
    apply(drive(Start(), now))
    for step in range(400):
        now += dice.expovariate(2.0)
        if step == 200 and not done:
            apply(drive(Stop(), now))
        roll = dice.random()
        if running and roll < 0.3:
            name = dice.choice(list(running))
            del running[name]
            apply(drive(Exited(name, dice.choice([0, 1, -9, -9, 2 if dice.random() < 0.02 else 1])), now))
        elif running and roll < 0.7:
            apply(drive(Ready(dice.choice(list(running))), now))
        else:
            apply(drive(Tick(), now))
    while not done:
        deadline = drive.core.next_deadline()
        assert deadline is not None, "nothing to wait for, yet not finished"
        apply(drive(Tick(), now := max(now, deadline)))
        while kills:
            if (name := kills.pop()) in running:
                del running[name]
                apply(drive(Exited(name, -9), now))
    assert len(done) == 1
    assert not running
