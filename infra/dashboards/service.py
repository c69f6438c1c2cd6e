"""The dashboards of the service as its clients meet it: overview, gateway, capacity, models."""

from __future__ import annotations

from infra.dashboards.panels import Board, Panel, Query, Row, quantiles, rate, rate_of

REQUESTS = "penstock_requests_total"
FAILED = '{code!~"2.."}'
BROKEN = '{code=~"5.."}'
THROTTLED = '{code="429"}'

RUNNING = "sum(penstock_worker_running_requests)"
# Edges repeat what the leader says of slots: each model counts once.
SLOTS = "sum(max by (model) (penstock_slots))"
FREE = "sum(max by (model) (penstock_free_slots))"
QUEUED = "sum(penstock_queued_requests)"
WAIT = f"{QUEUED} / sum(rate(penstock_request_queue_time_seconds_count[$__rate_interval]))"


def share(where: str) -> str:
    """The share of requests that ended so, 0 while there are none at all."""
    some = f"sum(rate({REQUESTS}{where}[$__rate_interval]))"
    return f"({some} or vector(0)) / clamp_min(sum(rate({REQUESTS}[$__rate_interval])), 1e-9)"


SATURATION = Panel(
    "Saturation",
    "How much of all slots is taken: at 100 % a new request waits.",
    [Query(f"{RUNNING} / clamp_min({SLOTS}, 1)")],
    "percentunit",
    "gauge",
    width=6,
    top=1,
)
IN_SLOTS = Panel(
    "Slots",
    "Requests that workers run, and how many they could.",
    [Query(RUNNING, "running"), Query(SLOTS, "slots")],
    width=6,
)
QUEUE = Panel(
    "Queue depth",
    "Requests that no worker has taken yet, by class.",
    [Query("sum by (klass) (penstock_queued_requests)", "{{klass}}")],
    look="stacked",
    width=6,
)
QUEUE_WAIT = Panel(
    "Estimated wait",
    "What is queued, by how fast workers took requests just now: what a new request would wait.",
    [Query(WAIT, "wait")],
    "s",
    width=6,
)
ERRORS = Panel(
    "Error rate",
    "Requests answered with anything but a 2xx, as a share of all.",
    [Query(share(FAILED), "not 2xx")],
    "percentunit",
    width=6,
)
SERVER_ERRORS = Panel(
    "5xx rate",
    "Requests answered with a 5xx, as a share of all.",
    [Query(share(BROKEN), "5xx")],
    "percentunit",
    width=6,
)
REQUEST_RATE = Panel(
    "Requests", "Requests answered in a second.", [rate(REQUESTS, "model")], "reqps", width=6
)
TOKENS = Panel(
    "Tokens",
    "Tokens that clients got in a second.",
    [rate("penstock_output_tokens_total", "model")],
    "short",
    width=6,
)
LATENCY = Panel(
    "Duration",
    "From a request's arrival to the end of its answer. Of a stream that is as long as its text.",
    quantiles("penstock_request_duration_seconds"),
    "s",
)
FIRST_TOKEN = Panel(
    "Time to first token",
    "From a request's arrival to its first token leaving the edge, its wait in the queue included.",
    quantiles("penstock_time_to_first_token_seconds"),
    "s",
)
BETWEEN_TOKENS = Panel(
    "Between tokens",
    "How long clients waited from one token to the next.",
    quantiles("penstock_inter_token_latency_seconds"),
    "s",
)
BY_STATUS = Panel(
    "Answers by status", "Requests answered in a second.", [rate(REQUESTS, "code")], "reqps", "stacked"
)

OVERVIEW = Board(
    "penstock-overview",
    "Penstock: API overview",
    "Whether the service is well, on one page.",
    [
        Row("Load", [SATURATION, IN_SLOTS, QUEUE, QUEUE_WAIT]),
        Row("Answers", [ERRORS, SERVER_ERRORS, REQUEST_RATE, TOKENS]),
    ],
)

GATEWAY = Board(
    "penstock-gateway",
    "Penstock: gateway",
    "What clients see of the edges.",
    [
        Row("Load", [SATURATION, IN_SLOTS, QUEUE, QUEUE_WAIT]),
        Row(
            "Answers",
            [
                ERRORS,
                Panel(
                    "4xx and 5xx",
                    "Requests refused or failed, in a second.",
                    [
                        rate_of(REQUESTS, '{code=~"4.."}', "4xx"),
                        rate_of(REQUESTS, BROKEN, "5xx"),
                    ],
                    "reqps",
                    width=6,
                ),
                Panel(
                    "Refused for now",
                    "Requests answered with 429 in a second, by what was full.",
                    [
                        rate_of(REQUESTS, THROTTLED, "429"),
                        rate("penstock_rejects_total", "reason"),
                    ],
                    "reqps",
                    width=6,
                ),
                REQUEST_RATE,
            ],
        ),
        Row(
            "Latency",
            [
                LATENCY,
                Panel(
                    "Clients",
                    "Requests with a client at an edge, and clients that left before the end, in a second.",
                    [
                        Query("sum(penstock_inflight_requests)", "attached"),
                        rate("penstock_disconnected_clients_total", legend="left, per second"),
                    ],
                ),
            ],
        ),
    ],
)

CAPACITY = Board(
    "penstock-capacity",
    "Penstock: capacity and saturation",
    "Whether there are enough workers.",
    [
        Row(
            "Room",
            [
                Panel(
                    "Headroom",
                    "Slots that can take a request now.",
                    [Query(FREE, "free")],
                    width=8,
                ),
                Panel(
                    "Slot utilisation",
                    "The share of slots that is taken, by model.",
                    [Query("max by (model) (penstock_saturation)", "{{model}}")],
                    "percentunit",
                    width=8,
                ),
                Panel(
                    "Workers",
                    "Live workers.",
                    [Query("sum by (model) (penstock_model_workers)", "{{model}}")],
                    width=8,
                ),
            ],
        ),
        Row(
            "Queue",
            [
                QUEUE._replace(width=8),
                QUEUE_WAIT._replace(width=8),
                Panel(
                    "Time in the queue",
                    "From a request's storage to a worker that took it, by class.",
                    quantiles("penstock_request_queue_time_seconds", "klass"),
                    "s",
                    width=8,
                ),
                Panel(
                    "Latency against queue depth",
                    "Whether waiting explains the latency: p95 of the duration, and what was queued then.",
                    [
                        quantiles("penstock_request_duration_seconds")[1]._replace(legend="p95, seconds"),
                        Query(QUEUED, "queued"),
                    ],
                ),
                Panel(
                    "Batches",
                    "Requests in a batch, as it was offered.",
                    quantiles("penstock_batch_size"),
                ),
            ],
        ),
    ],
)

MODELS = Board(
    "penstock-llm",
    "Penstock: LLM performance",
    "How fast models answer.",
    [
        Row("Latency", [LATENCY, FIRST_TOKEN, BETWEEN_TOKENS, TOKENS._replace(width=12)]),
        Row("Answers", [ERRORS, SERVER_ERRORS, BY_STATUS, REQUEST_RATE._replace(width=24)]),
    ],
)
