"""What an edge's `/health` says: written by edges, read by `penstock status` and by people."""

from __future__ import annotations

from typing import Literal

import msgspec


class ModelHealth(msgspec.Struct, frozen=True):
    """One model: `id` is its name, `workers` are alive, `free` of `slots` can take a request."""

    id: str
    workers: int
    slots: int
    free: int


class Health(msgspec.Struct, frozen=True):
    """The body of `/health`. `queue_depth` counts requests waiting or running.

    `degraded`: requests are taken, but no leader is heard or no model has a live worker; `starting`: no leader was
    heard yet; `down`: this edge does not reach the broker.
    """

    status: Literal["ok", "degraded", "starting", "down"]
    queue_depth: int
    models: list[ModelHealth]
