"""The settings the scheduler decides by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Named as in the settings, which document them; times in seconds."""

    queue_timeout_s: float
    request_timeout_s: float
    request_timeout_max_s: float
    request_bytes_max: int
    model_seen_s: float
    ack_wait_s: float
    offer_timeout_s: float
    worker_suspect_s: float
    worker_silent_s: float
    edge_silent_s: float
    leader_interval_s: float
    alone_wait_s: float
    window_lead: int
    window_bytes_max: int
    batch_window_s: float
    batch_size_max: int
    batch_bytes_max: int
    tenant_queue_max: int = 0
    model_queue_max: int = 0
