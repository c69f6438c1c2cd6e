"""What the attempts of one worker share: its numbers, its name, and what it knows of connection and engine."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from schemas.ids import ModelKey
from workers.engines.base import Capabilities

LOOKS_PER_PULL = 2
"""A worker that is connected and alive looks at its engine with every pull; one pull may be late."""


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
    """One worker, as its attempts see it. `id` is new in every process, so nonces made of it are unique.

    `is_output_full`: OUTPUT has no room for tokens, by what the leader says of it.
    """

    def __init__(
        self, worker_id: str, model: ModelKey, capabilities: Capabilities, limits: WorkerLimits
    ) -> None:
        self.id = worker_id
        self.model = model
        self.capabilities = capabilities
        self.limits = limits
        self.connected = True
        self.is_output_full = False
        self.steps = 0
        self.last_step_at = -inf
        self.step_s_max = max(limits.step_s_max, capabilities.step_s_max)
        """The engine is not taken for hung before this."""
        self._looked_at = -inf
        self._awake_since = -inf
        self._count = 0

    def looked(self, steps: int, last_step_at: float, now: float) -> None:
        """What the engine says of its steps. Whoever did not look for a while cannot say that it stood still: in a
        process that was stopped, the engine was stopped too."""
        if now - self._looked_at > LOOKS_PER_PULL * self.limits.pull_interval_s:
            self._awake_since = now
        self._looked_at = now
        self.steps = steps
        self.last_step_at = max(last_step_at, self._awake_since)

    def number(self) -> int:
        """A number that this worker has not used yet."""
        self._count += 1
        return self._count
