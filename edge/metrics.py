"""What an edge counts: names, labels, meanings."""

from __future__ import annotations

from infra.metrics.tables import BETWEEN_TOKENS_S, DURATION_S, FIRST_TOKEN_S, Table

TABLE = Table("edge")

REQUESTS = TABLE.counter(
    "penstock_requests_total",
    "Requests answered, by the HTTP status that was told; 499: the client had left. "
    'Model "unknown": turned away before its model was known.',
    "model",
    "code",
)
INFLIGHT_REQUESTS = TABLE.gauge(
    "penstock_inflight_requests", "Requests with a client attached to this edge.", "model"
)
TIME_TO_FIRST_TOKEN = TABLE.histogram(
    "penstock_time_to_first_token_seconds",
    "From the request's arrival at the edge to its first token leaving it; streams only. With exemplars.",
    "model",
    buckets=FIRST_TOKEN_S,
)
INTER_TOKEN_LATENCY = TABLE.intervals(
    "penstock_inter_token_latency_seconds",
    "Between two records of one answer leaving the edge; streams only. A record brings one token of each choice, or "
    "several where a worker was faster than the log.",
    buckets=BETWEEN_TOKENS_S,
)
REQUEST_DURATION = TABLE.histogram(
    "penstock_request_duration_seconds",
    "From the request's arrival at the edge to the end of its answer. With exemplars.",
    "model",
    buckets=DURATION_S,
)
REQUEST_DURATION_QUANTILE = TABLE.gauge(
    "penstock_request_duration_quantile_seconds",
    "Of this edge's latest 4096 answers, exactly: 0.5, 0.95 and 0.99.",
    "quantile",
)
OUTPUT_TOKENS = TABLE.counter(
    "penstock_output_tokens_total", "Tokens of answers that ended, each counted once.", "model"
)
FAILURES = TABLE.counter(
    "penstock_failures_total",
    "Requests that ended not ok or were turned away, by reason: a key of the table of errors.",
    "model",
    "reason",
)
REJECTS = TABLE.counter(
    "penstock_rejects_total", "Requests that were turned away and never ran, by reason, likewise.", "reason"
)
RESUMES = TABLE.counter(
    "penstock_resumes_total", "Clients that came back for the rest of an answer, saying what they had seen."
)
REPLAYS = TABLE.counter(
    "penstock_replays_total", "Times a reader went back to the log: a gap, silence, a reconnect, END."
)
DISCONNECTED_CLIENTS = TABLE.counter(
    "penstock_disconnected_clients_total", "Answers whose client left before they ended."
)
CANCELS = TABLE.counter(
    "penstock_cancels_total", "Requests that this edge cancelled: asked to, or because nobody read them."
)
RATES_UNKNOWN = TABLE.counter(
    "penstock_rates_unknown_total",
    "Times a request was let in because its rate could not be counted in time.",
)

HOPS_UNREADABLE = TABLE.counter(
    "penstock_broker_hops_unreadable_total",
    "What came as a server's word of a traced request's message, and could not be read as one.",
)

# The whole system, by the leader's last word: every edge says the same, so take the `max` of them, never the sum.

QUEUE_DEPTH = TABLE.gauge(
    "penstock_queue_depth", "Requests that wait for a worker, of all models, by the leader's last word."
)
RUNNING_REQUESTS = TABLE.gauge("penstock_running_requests", "Requests that workers run, likewise.")
WORKERS = TABLE.gauge(
    "penstock_workers", "Live workers of all models, by whether they run anything: idle or busy.", "state"
)
SLOTS = TABLE.gauge(
    "penstock_slots",
    "Requests that live workers can run at the same time, by the leader's last word.",
    "model",
)
FREE_SLOTS = TABLE.gauge("penstock_free_slots", "Slots that can take a request, likewise.", "model")
