"""What the attempts of one worker share: its numbers, its name, and what it knows of connection and engine."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from workers.engines.base import Capabilities


@dataclass(frozen=True)
class WorkerLimits:
    """The worker's numbers; each is the setting of its name."""

    slots: int
    queue_timeout_s: float
    request_timeout_s: float
    request_timeout_max_s: float
    ack_wait_s: float
    pull_interval_s: float
    append_interval_s: float
    append_bytes_max: int
    append_timeout_s: float
    step_s_max: float
    strikes_max: int
    attempts_max: int


class Worker:
    """One worker, as its attempts see it. `id` is new in every process, so nonces made of it are unique."""

    def __init__(self, worker_id: str, capabilities: Capabilities, limits: WorkerLimits) -> None:
        self.id = worker_id
        self.capabilities = capabilities
        self.limits = limits
        self.connected = True
        self.steps = 0
        self.last_step_at = -inf
        self._count = 0

    def number(self) -> int:
        """A number that this worker has not used yet."""
        self._count += 1
        return self._count
