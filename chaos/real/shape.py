"""What is started, and what workload, tap and report see of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from chaos.real.history import Line

BrokerKind = Literal["embedded", "cluster", "containers"]
"""One nats-server; three of them, R3, as child processes; the same three in Docker."""

Record = Callable[[Line], None]
"""Takes a line of the history, at once and in order. Called in the event loop only."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is started. `settings` go to every process of ours, as `--set` does; the simulator is the engine."""

    broker: BrokerKind = "embedded"
    edges: int = 2
    schedulers: int = 2
    workers: int = 3
    settings: Mapping[str, str] = field(default_factory=dict)
    disk_bytes: int = 0
    """Each broker keeps its store on a disk of this size, which can be filled, if `can_mount()`. 0: an ordinary one."""

    @property
    def nodes(self) -> int:
        """Brokers."""
        return 1 if self.broker == "embedded" else 3

    @property
    def profile(self) -> str:
        """The setting `broker_profile`."""
        return "embedded" if self.broker == "embedded" else "cluster"

    def names(self, *roles: str) -> list[str]:
        """Of the processes of these roles: `worker-1` and so on."""
        return [f"{role}-{number}" for role in roles for number in range(1, self.roles[role] + 1)]

    @property
    def roles(self) -> dict[str, int]:
        """How many of each role, as `Begun` tells it."""
        return {
            "broker": self.nodes,
            "edge": self.edges,
            "scheduler": self.schedulers,
            "worker": self.workers,
        }


class System(Protocol):
    """What workload, tap and report see of it."""

    @property
    def doors(self) -> list[str]:
        """Base URLs of the edges, one each: fixed for the whole run, also while an edge is down."""

    @property
    def nats_url(self) -> str:
        """The brokers, past the links that faults are put on: for the tap and for direct publishers."""

    async def start(self) -> None:
        """Returns when everything is ready. Raises SystemFailed, with the end of the log of what did not start."""

    async def stop(self) -> None:
        """Ends everything, in order; nothing of it is left."""


class SystemFailed(Exception):
    """The system under test did not start; the message says which process and why."""
