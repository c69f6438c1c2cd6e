"""What a worker counts: names, labels, meanings. What its engine says of itself stands on the same page, under the
engine's own names."""

from __future__ import annotations

from infra.metrics.tables import BATCH_SIZES, QUICK_S, Table

TABLE = Table("worker")

ATTEMPTS = TABLE.counter(
    "penstock_attempts_total",
    "Requests that this worker took, by why: first, worker_dead, engine_error, hung, handoff, reconnect, redelivered.",
    "model",
    "cause",
)
RUNNING_REQUESTS = TABLE.gauge(
    "penstock_worker_running_requests", "Requests that the engine of this worker runs.", "model"
)
SLOTS = TABLE.gauge("penstock_worker_slots", "Requests that this worker runs at the same time.", "model")
TOKENS = TABLE.counter(
    "penstock_tokens_total",
    "Tokens by kind: generated (its engine made them), replayed (it was given them to go on from: another attempt had "
    "made them) or wasted (it made them, and they did not get into the log: fenced, cancelled or cut off).",
    "model",
    "kind",
)
APPEND_LATENCY = TABLE.intervals(
    "penstock_append_latency_seconds",
    "From sending a record of tokens to the broker's word that it is stored; of every eighth one.",
    buckets=QUICK_S,
)
LEASE_CONFLICTS = TABLE.counter(
    "penstock_lease_conflicts_total", "Records that the broker refused because another ctl record was newer."
)
CANCEL_TO_FREE = TABLE.histogram(
    "penstock_cancel_to_free_seconds",
    "From hearing that a request that runs here is cancelled to its slot being free.",
    buckets=QUICK_S,
)
POISONED = TABLE.counter("penstock_poisoned_total", "Requests that were found to be poison.")
DEAD_LETTERS = TABLE.counter("penstock_dead_letters_total", "Of those, the ones that were copied to DEAD.")
BATCH_SIZE = TABLE.histogram(
    "penstock_worker_batch_size",
    "Requests in a batch, as it was offered to this worker.",
    buckets=BATCH_SIZES,
)
SETTLED = TABLE.counter(
    "penstock_worker_settled_total",
    "Requests that this worker is done with, by how: ended, failed, handed_off, no_room, fenced or gave_up.",
    "outcome",
)
LOGGED_TOKENS = TABLE.counter(
    "penstock_worker_tokens_total", "Tokens in their logs then, those of earlier attempts with them."
)
ENGINE_STEPS = TABLE.told("penstock_engine_steps_total", "Steps that the engine has made.")
