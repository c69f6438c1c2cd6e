"""`python -m docs.metrics_page [FILE]`: docs/metrics.md, made from the tables of metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import edge.metrics
import scheduler.metrics
import workers.metrics
from infra.metrics import process
from infra.metrics.tables import Row, Table

TABLES: tuple[Table, ...] = (edge.metrics.TABLE, scheduler.metrics.TABLE, workers.metrics.TABLE)

ABOUT = {
    "edge": "Edges count what clients see.",
    "scheduler": "The leader knows the whole system. Of a standby `penstock_leader` is 0, its counters stand still "
    "and its gauges by model are absent: sums over all schedulers are right. `penstock_slots` and "
    "`penstock_free_slots` are repeated by every edge: take the `max by (model)` of them. Names that begin with "
    "`jetstream` and `gnatsd` are those of prometheus-nats-exporter, told by the leader; of the server itself where "
    "`penstock up` runs it, or `broker_monitor_port` names its port on this machine.",
    "worker": "A worker counts what it does for the log. What its engine says of itself stands on the same page, "
    "under the engine's own names: `vllm:…` of vLLM, `llamacpp:…` of llama.cpp, and whatever an upstream server "
    "shows at its `/metrics`.",
}

REFERENCES: dict[str, list[tuple[str, str]]] = {
    "The reference systems": [
        (
            "`api_requests_total{endpoint,status}`, `llm_gateway_request_count_total{status}`",
            "`penstock_requests_total{model,code}`",
        ),
        (
            "`api_active_requests`, `llm_gateway_inflight_requests`",
            "`penstock_inflight_requests`; of the whole system `penstock_running_requests`",
        ),
        ("`api_queue_depth`", "`penstock_queue_depth`; by model and class `penstock_queued_requests`"),
        (
            "`api_request_latency_seconds`, `llm_gateway_request_latency_seconds`",
            "`penstock_request_duration_seconds`",
        ),
        (
            "`llm_gateway_request_latency_p50_seconds`, `_p95_`, `_p99_`",
            '`penstock_request_duration_quantile_seconds{quantile="0.5"}`, `0.95`, `0.99`',
        ),
        ("`llm_gateway_batch_size`", "`penstock_batch_size`"),
        ("`llm_gateway_tokens_generated_total`", "`penstock_output_tokens_total`"),
        ("`llm_gateway_errors_total{code}`", "`penstock_failures_total{model,reason}`"),
        (
            "`MAX_ACTIVE` in panels; saturation = active / MAX_ACTIVE",
            "`penstock_slots`; `penstock_saturation`",
        ),
        ("`llm_worker_batch_size`", "`penstock_worker_batch_size`"),
        (
            "`llm_worker_tokens_generated_total`",
            '`penstock_tokens_total{kind="generated"}`; of settled requests `penstock_worker_tokens_total`',
        ),
        ("`llm_worker_errors_total{code}`", "`penstock_worker_settled_total{outcome}`"),
    ],
    "vLLM": [
        ("`vllm:num_requests_running`", "`penstock_worker_running_requests`"),
        ("`vllm:num_requests_waiting`", "`penstock_queued_requests`"),
        ("`vllm:request_success_total`", "`penstock_requests_total`"),
        ("`vllm:time_to_first_token_seconds`", "`penstock_time_to_first_token_seconds`"),
        ("`vllm:inter_token_latency_seconds`", "`penstock_inter_token_latency_seconds`"),
        ("`vllm:e2e_request_latency_seconds`", "`penstock_request_duration_seconds`"),
        ("`vllm:request_queue_time_seconds`", "`penstock_request_queue_time_seconds`"),
        (
            "`vllm:generation_tokens_total`",
            '`penstock_tokens_total{kind="generated"}`; each counted once: `penstock_output_tokens_total`',
        ),
    ],
    "Dynamo": [
        ("`dynamo_frontend_requests_total`", "`penstock_requests_total`"),
        ("`dynamo_frontend_inflight_requests`", "`penstock_inflight_requests`"),
        ("`dynamo_frontend_queued_requests`", "`penstock_queued_requests`"),
        ("`dynamo_frontend_disconnected_clients`", "`penstock_disconnected_clients_total`"),
        ("`dynamo_frontend_time_to_first_token_seconds`", "`penstock_time_to_first_token_seconds`"),
        ("`dynamo_frontend_inter_token_latency_seconds`", "`penstock_inter_token_latency_seconds`"),
        ("`dynamo_frontend_request_duration_seconds`", "`penstock_request_duration_seconds`"),
        ("`dynamo_frontend_output_tokens_total`", "`penstock_output_tokens_total`"),
        ("`dynamo_frontend_model_migration_total`", "`penstock_redeliveries_total`"),
    ],
}

HEAD = """\
# Metrics

Made from the code by `make docs`. Every process shows a page at `/metrics`: as text, or as OpenMetrics for who \
accepts that, where histograms of requests carry exemplars with the `trace_id` of requests that are traced.

| process | where |
|---|---|
| edge | `/metrics` beside the API; its own page alone at `edge_metrics_port` |
| scheduler | `scheduler_metrics_port` |
| worker | `worker_metrics_port` |

Each process takes the first port from there on that is free. `penstock up` chooses free ones where the settings name \
none, `penstock status` shows them, and `metrics_targets.json` in the store directory lists them for Prometheus \
(`file_sd_configs`) as long as `up` runs.

Edges that share an address share its port, and a connection reaches any of them. Where there are several, `/metrics` \
beside the API answers for all of them, with the label `edge` on every series; one that does not answer within 250 ms \
is left out. With `Accept: application/json` the page is a summary of the one edge that was reached.

`model` is the name of a registered model; the 201st and all others together are `other`. No text of a client becomes \
a label.
"""


def page() -> str:
    """The whole document."""
    sections = [
        HEAD,
        *(f"## {table.role.capitalize()}\n\n{ABOUT[table.role]}\n\n{_rows(table.rows)}" for table in TABLES),
        f"## All\n\n{_rows(process.ROWS)}",
        "## Names elsewhere\n",
    ]
    for system, names in REFERENCES.items():
        mapped = "\n".join(f"| {there} | {here} |" for there, here in names)
        sections.append(f"### {system}\n\n| there | here |\n|---|---|\n{mapped}\n")
    return "\n".join(sections)


def _rows(rows: Iterable[Row]) -> str:
    head = "| name | kind | labels | unit | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(map(_line, rows))


def _line(row: Row) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    return f"| `{row.name}` | {row.kind} | {labels} | {row.unit} | {row.meaning} |\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
