"""What an edge's `/health` says: written by edges, read by `penstock status` and by people."""

from __future__ import annotations

from typing import Literal

import msgspec

HealthStatus = Literal["ok", "degraded", "starting", "down"]


class ModelHealth(msgspec.Struct, frozen=True):
    """One model: `id` is its name, `workers` are alive, `free` of `slots` can take a request."""

    id: str
    workers: int
    slots: int
    free: int


class WorkersHealth(msgspec.Struct, frozen=True):
    """Live workers of all models; those that are `idle` run nothing."""

    idle: int
    busy: int
    total: int


class Health(msgspec.Struct, frozen=True):
    """The body of `/health`. `active_requests` run, `queue_depth` others wait. `model` is the first by name.

    `degraded`: requests are run, but no leader is heard; `starting`: no leader was heard yet, or no worker ever;
    `down`: this edge does not reach the broker, or the last worker has gone. `detail` names what is missing: "broker",
    "no_scheduler", "no_workers"; empty: nothing.
    """

    status: HealthStatus
    queue_depth: int
    models: list[ModelHealth]
    model: str | None = None
    active_requests: int = 0
    workers: WorkersHealth = WorkersHealth(0, 0, 0)
    detail: str = ""

    @property
    def serves(self) -> bool:
        """Whether a request that came now would be run."""
        return self.status in ("ok", "degraded")


class QueueStats(msgspec.Struct, frozen=True):
    """The body of `/v1/queue/stats`: requests that wait and that run, workers as in `WorkersHealth`."""

    pending_requests: int
    processing_requests: int
    idle_workers: int
    busy_workers: int
    total_workers: int
