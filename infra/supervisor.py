"""Which child process to start, restart and stop when: the decisions of `penstock up`, without any process.

Start: the broker first; when it is healthy everything else at once. Stop: edges, then workers, then
schedulers, then the broker, each group only when the one before it is gone, so that a role never loses what
it drains into. A child that ends by itself is started again after a delay that doubles with each start that
does not get ready. A child that says its configuration is bad (exit code 2) stops everything: starting it again would
change nothing.

Pure: `handle(event, now) -> actions`, `next_deadline()`, `check()`; the shell is `infra/up.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

Role = Literal["broker", "scheduler", "worker", "edge"]

START_ORDER: tuple[tuple[Role, ...], ...] = (("broker",), ("scheduler", "worker", "edge"))
STOP_ORDER: tuple[Role, ...] = ("edge", "worker", "scheduler", "broker")

BACKOFF_MIN_S = 0.1  # a killed worker is back before its streams' readers notice more than a pause
BACKOFF_MAX_S = (
    5.0  # a child that cannot start costs next to nothing, and is back soon after its cause is gone
)
KILL_GRACE_S = (
    1.0  # a child enforces `drain_timeout_s` itself and says so in its log; SIGKILL is for one that is stuck
)

EXIT_OK, EXIT_ERROR, EXIT_CONFIG = 0, 1, 2


class Start(NamedTuple):
    """The supervisor begins."""


class Ready(NamedTuple):
    """A child serves."""

    name: str


class Exited(NamedTuple):
    """A child ended; `code` is negative for a signal."""

    name: str
    code: int


class Stop(NamedTuple):
    """The user wants it to end; a second time: at once."""


class Tick(NamedTuple):
    """`next_deadline()` has come."""


Event = Start | Ready | Exited | Stop | Tick


class Spawn(NamedTuple):
    """Start this child."""

    name: str


class Terminate(NamedTuple):
    """Ask this child to drain and end (SIGTERM)."""

    name: str


class Kill(NamedTuple):
    """End this child now (SIGKILL)."""

    name: str


class Announce(NamedTuple):
    """All children are ready for the first time."""


class Finish(NamedTuple):
    """All children are gone: exit with `code`; `culprit` is the child whose configuration was bad."""

    code: int
    culprit: str | None


Action = Spawn | Terminate | Kill | Announce | Finish

State = Literal["waiting", "starting", "ready", "backoff", "stopping", "gone"]
ALIVE: tuple[State, ...] = ("starting", "ready", "stopping")


@dataclass(slots=True)
class _Child:
    name: str
    role: Role
    state: State = "waiting"
    failures: int = 0
    deadline: float | None = None
    """When to start it again (`backoff`) or to kill it (`stopping`)."""


class SupervisorCore:
    """Children by name, each with its state. Times are monotonic seconds."""

    def __init__(self, children: dict[str, Role], *, drain_timeout_s: float) -> None:
        self._children = {name: _Child(name, role) for name, role in children.items()}
        self._stop_after_s = drain_timeout_s + KILL_GRACE_S
        self._announced = False
        self._stopping = False
        self._finish: Finish | None = None
        self._code = EXIT_OK
        self._culprit: str | None = None

    def handle(self, event: Event, now: float) -> list[Action]:
        """The only mutator."""
        match event:
            case Start():
                return self._start_due()
            case Ready(name):
                return self._on_ready(self._children[name])
            case Exited(name, code):
                return self._on_exit(self._children[name], code, now)
            case Stop():
                return self._kill_all() if self._stopping else self._begin_stop(now)
            case Tick():
                return self._on_deadlines(now)
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """When to send a `Tick`, or None."""
        return min((c.deadline for c in self._children.values() if c.deadline is not None), default=None)

    def is_ready(self, name: str) -> bool:
        """Whether a child serves."""
        return self._children[name].state == "ready"

    def check(self) -> None:
        """Asserts every invariant."""
        for child in self._children.values():
            assert (child.deadline is not None) == (child.state in ("backoff", "stopping")), child
            assert not (self._stopping and child.state in ("waiting", "backoff")), child
        if self._stopping:
            stopping = {child.role for child in self._children.values() if child.state == "stopping"}
            assert len(stopping) <= 1, stopping
        if self._finish is not None:
            assert all(child.state == "gone" for child in self._children.values())

    def _start_due(self) -> list[Action]:
        """The first group that is not all ready; later groups wait for it."""
        for roles in START_ORDER:
            group = [child for child in self._children.values() if child.role in roles]
            waiting = [child for child in group if child.state == "waiting"]
            if waiting:
                return [self._spawn(child) for child in waiting]
            if any(child.state != "ready" for child in group):
                return []
        if self._announced:
            return []
        self._announced = True
        return [Announce()]

    def _on_ready(self, child: _Child) -> list[Action]:
        if child.state != "starting":
            return []
        child.state = "ready"
        child.failures = (
            0  # it did start: its end is a new story, and whoever killed it waits for the next one
        )
        return self._start_due()

    def _on_exit(self, child: _Child, code: int, now: float) -> list[Action]:
        if self._stopping:
            child.state, child.deadline = "gone", None
            return self._continue_stop(now)
        if code == EXIT_CONFIG:
            child.state = "gone"
            self._code, self._culprit = EXIT_CONFIG, child.name
            return self._begin_stop(now)
        child.state = "backoff"
        child.deadline = now + min(BACKOFF_MIN_S * 2**child.failures, BACKOFF_MAX_S)
        child.failures = min(child.failures + 1, 16)
        return []

    def _on_deadlines(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for child in self._children.values():
            if child.deadline is None or child.deadline > now:
                continue
            if child.state == "backoff":
                actions.append(self._spawn(child))
            else:
                # Killed, it still has to be seen to exit; should that never happen, the kill is repeated.
                child.deadline = now + KILL_GRACE_S
                self._code = self._code or EXIT_ERROR
                actions.append(Kill(child.name))
        return actions

    def _begin_stop(self, now: float) -> list[Action]:
        self._stopping = True
        for child in self._children.values():
            if child.state not in ALIVE:
                child.state, child.deadline = "gone", None
        return self._continue_stop(now)

    def _continue_stop(self, now: float) -> list[Action]:
        """Terminates the next group once the one before it is gone; finishes after the last."""
        for role in STOP_ORDER:
            alive = [
                child for child in self._children.values() if child.role == role and child.state in ALIVE
            ]
            if alive:
                return [self._terminate(child, now) for child in alive if child.state != "stopping"]
        if self._finish is not None:
            return []
        self._finish = Finish(self._code, self._culprit)
        return [self._finish]

    def _kill_all(self) -> list[Action]:
        self._code = self._code or EXIT_ERROR
        return [Kill(child.name) for child in self._children.values() if child.state in ALIVE]

    def _spawn(self, child: _Child) -> Action:
        child.state, child.deadline = "starting", None
        return Spawn(child.name)

    def _terminate(self, child: _Child, now: float) -> Action:
        child.state, child.deadline = "stopping", now + self._stop_after_s
        return Terminate(child.name)
