"""I12: after the load, every process is as it was before it: tasks, subscriptions, calls, requests."""

from __future__ import annotations

from collections import Counter

from chaos.http import Door
from chaos.loop import VirtualLoop
from chaos.processes import Machine, Process
from infra.bus import Bus
from scheduler.core import Core
from workers.core import WorkerCore
from workers.engines.simulator import Simulator
from workers.tracing import Spans


class Baseline:
    """What idle processes of each role hold."""

    def __init__(self, machines: dict[str, Machine], loop: VirtualLoop) -> None:
        self._machines = machines
        self._loop = loop
        self._by_role: dict[str, dict[str, int]] = {}
        for name, held in self._holdings().items():
            of_role = self._by_role.setdefault(machines[name].role, {})
            for what, count in held.items():
                of_role[what] = max(of_role.get(what, 0), count)

    def excess(self) -> dict[str, dict[str, int]]:
        """What processes hold beyond that, by machine."""
        found: dict[str, dict[str, int]] = {}
        for name, held in self._holdings().items():
            most = self._by_role[self._machines[name].role]
            more = {what: count for what, count in held.items() if count > most.get(what, 0)}
            if more:
                found[name] = more
        return found

    def _holdings(self) -> dict[str, dict[str, int]]:
        tasks = Counter(process for process, task in self._loop.tasks if not task.done())
        alive = {name: machine.process for name, machine in self._machines.items()}
        return {
            name: holdings(process) | {"tasks": tasks[process]}
            for name, process in alive.items()
            if process is not None and process.alive
        }


def holdings(process: Process) -> dict[str, int]:
    """What the objects of a process hold that must not grow with what it has done."""
    held: dict[str, int] = {}
    for part in process.parts.values():
        match part:
            case Bus():
                held["subscriptions"] = len(part._client._subs)
                held["calls"] = len(part._pending)
                held["answers awaited"] = len(part._waiting)
            case Core():
                held["held requests"] = part.held
                held["offers"] = len(part._requests.dispatcher._offers)
            case WorkerCore():
                held["attempts"] = len(part._attempts)
            case Spans():
                held["attempts watched"] = len(part.watched)
            case Simulator():
                held["engine runs"] = part.load().running
            case Door():
                held["open answers"] = len(part.edge._desk.audience.answers)
                held["leftovers"] = len(part.edge._entrance._leftovers._watches)
                held["counted"] = sum(
                    one.held for one in part.edge._entrance._counts._core._counters.values()
                )
                held["calls of counts"] = len(part.edge._entrance._counts._calls)
                held["closes"] = len(part.edge._closer._tasks)
                held["connections"] = len(part._tasks)
    return held
