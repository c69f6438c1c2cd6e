"""What must hold of workers, given what was really done to them: parts of I10, and I13.

Every world knows which machine was disturbed when, so it can tell a death from a false alarm, and a slot that stays
taken after a cancel from one that could not be reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from chaos.ledger import Log, Violated
from chaos.loop import NOBODY, VirtualLoop
from chaos.processes import Machine, Process
from schemas.output import CtlRecord, End, Lease
from workers.engines.simulator import Simulator
from workers.engines.simulator_body import Faults

FREE_AFTER_S = 0.1
"""I13: a cancelled request has left its engine by then."""

CALM_S = 4.0
"""After messages got lost: whoever was silent has been heard again."""

STEADY_S = 1.0
"""After any other disturbance: connections and subscriptions are there again."""

NOT_POISON = Faults()


class Surroundings(Protocol):
    """What a watcher needs of its world."""

    loop: VirtualLoop
    machines: dict[str, Machine]
    lives: dict[str, Process]

    def count_one(self, what: str) -> None: ...


class Watcher:
    """Told of every ctl record and every disturbance. `strikes_max` is the setting."""

    def __init__(self, world: Surroundings, violated: Violated, *, strikes_max: int) -> None:
        self.worker_deaths = 0
        """How often a worker died, or could not be told from a dead one."""
        self.touched: dict[str | None, None] = {}
        """Machines, or (None) the broker, to which anything has happened."""
        self._world = world
        self._violated = violated
        self._strikes_max = strikes_max
        self._disturbed_at: dict[str, float] = {}
        self._disturbances: Counter[str | None] = Counter()
        self._last_at = -CALM_S
        self._deafened_at = -CALM_S
        self._leased_at: dict[str, float] = {}
        self._newest_lease: Lease | None = None

    def disturbed(self, machine: str | None, *, deafens: bool = False) -> None:
        """Something begins or ends to happen to a machine, or (None) to the broker. `deafens`: messages get lost."""
        now = self._world.loop.time()
        self._last_at = now
        self.touched[machine] = None
        if machine is not None:
            self._disturbed_at[machine] = now
        if deafens:
            self._deafened_at = now

    def begun(self, machine: str | None) -> Callable[[], None]:
        """A fault that lasts begins; call what is returned when it is over."""
        self._disturbances[machine] += 1

        def over() -> None:
            self._disturbances[machine] -= 1

        return over

    def newest_runner(self) -> Process | None:
        """The worker that got a lease last."""
        return None if self._newest_lease is None else self._process_of(self._newest_lease.worker)

    def on_ctl(self, log: Log, _seq: int, record: CtlRecord) -> None:
        """A ctl record was stored; it is the last one of `log`."""
        match record:
            case Lease():
                self._on_lease(log, record)
            case End(reason="poison") if log.reference.faults == NOT_POISON:
                if self.worker_deaths < self._strikes_max:
                    self._violated("I10", f"{log.name[1]} ended as poison after {self.worker_deaths} deaths")
            case End(status="cancelled"):
                check_at = self._world.loop.time() + FREE_AFTER_S
                self._world.loop.call_at(check_at, self._check_slot, log, self._last_at, context=NOBODY)

    def _on_lease(self, log: Log, lease: Lease) -> None:
        now = self._world.loop.time()
        earlier = log.leases[:-1]
        if lease.cause == "worker_dead" and earlier:
            taken_for_dead = earlier[-1]
            process = self._process_of(taken_for_dead.worker)
            since = self._leased_at[taken_for_dead.nonce]
            if (
                process is not None
                and self._was_left_alone(process, since)
                and now - self._deafened_at > CALM_S
            ):
                self._violated("I10", f"{taken_for_dead.worker} was taken for dead by {lease}")
        self._leased_at[lease.nonce] = now
        self._newest_lease = lease

    def _check_slot(self, log: Log, last_at: float) -> None:
        """Only where nothing happened from well before the cancel on."""
        now = self._world.loop.time()
        if (
            self._disturbances.total()
            or last_at != self._last_at
            or now - last_at < STEADY_S
            or not log.leases
        ):
            return
        process = self._process_of(log.leases[-1].worker)
        engine = None if process is None or not process.alive else process.parts.get("Simulator")
        if isinstance(engine, Simulator):
            self._world.count_one("checked slot after cancel")
            if f"{log.name[0]}.{log.name[1]}" in engine._runs:
                self._violated("I13", f"{log.name[1]} is on the engine {FREE_AFTER_S:g} s after its cancel")

    def _was_left_alone(self, process: Process, since: float) -> bool:
        name = process.machine.name
        return process.alive and not self._disturbances[name] and self._disturbed_at.get(name, 0.0) < since

    def _process_of(self, worker: str) -> Process | None:
        return self._world.lives.get(worker.rpartition("-")[0])
