"""The one table of metrics: name, labels, meaning. Served by `/metrics` of the process that counts them.

Stems are those people know from vLLM and Dynamo, with the prefix `penstock_` and the label `model`. Labels are bounded:
`model` holds registered names only, `code` an HTTP status, `reason` a key of `schemas.errors.ERRORS`.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

UNKNOWN_MODEL = "unknown"
"""The label of requests that name no registered model: client text never becomes a label."""

# Buckets of the OpenTelemetry GenAI conventions (gen_ai.server.time_to_first_token, gen_ai.client.operation.duration).
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_DURATION_S = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
)

REQUESTS = Counter("penstock_requests", "Requests answered, by HTTP status.", ["model", "code"])
INFLIGHT_REQUESTS = Gauge(
    "penstock_inflight_requests", "Requests with a client attached to this edge.", ["model"]
)
TIME_TO_FIRST_TOKEN = Histogram(
    "penstock_time_to_first_token_seconds",
    "From the request's arrival at the edge to its first token leaving it.",
    ["model"],
    buckets=_FIRST_TOKEN_S,
)
REQUEST_DURATION = Histogram(
    "penstock_request_duration_seconds",
    "From the request's arrival at the edge to the end of its answer.",
    ["model"],
    buckets=_DURATION_S,
)
OUTPUT_TOKENS = Counter(
    "penstock_output_tokens", "Tokens of answers that ended, each counted once.", ["model"]
)
REPLAYS = Counter(
    "penstock_replays", "Times a reader went back to the log: a gap, silence, a reconnect, END."
)
RATES_UNKNOWN = Counter(
    "penstock_rates_unknown", "Times a request was let in because its rate could not be counted in time."
)
FAILURES = Counter("penstock_failures", "Requests that ended not ok, by reason.", ["model", "reason"])

QUEUE_DEPTH = Gauge("penstock_queue_depth", "Requests that wait for a worker, by the leader's last word.")
RUNNING_REQUESTS = Gauge("penstock_running_requests", "Requests that workers run, likewise.")
WORKERS = Gauge("penstock_workers", "Live workers, by whether they run anything.", ["state"])
SLOTS = Gauge("penstock_slots", "Requests that live workers can run at the same time.", ["model"])
FREE_SLOTS = Gauge("penstock_free_slots", "Slots that can take a request.", ["model"])
REQUEST_DURATION_QUANTILE = Gauge(
    "penstock_request_duration_quantile_seconds",
    "Of this edge's latest answers, exactly: 0.5, 0.95 and 0.99.",
    ["quantile"],
)


def exposition() -> tuple[bytes, str]:
    """The page of `/metrics` and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
