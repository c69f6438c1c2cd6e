"""What a worker counts, and the page that shows it. Batches and ends, nothing per token."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

REGISTRY = CollectorRegistry()
"""Its own: an edge's page has none of these names."""

PORTS_TRIED = 64
"""Workers of one machine, each with a port of its own."""

BATCH_SIZE = Histogram(
    "penstock_worker_batch_size",
    "Requests in a batch, as it was offered.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
    registry=REGISTRY,
)
SETTLED = Counter(
    "penstock_worker_settled",
    "Requests that this worker is done with, by how.",
    ["outcome"],
    registry=REGISTRY,
)
TOKENS = Counter(
    "penstock_worker_tokens",
    "Tokens in their logs then, those of earlier attempts with them.",
    registry=REGISTRY,
)


def serve_metrics(host: str, first_port: int) -> int:
    """Serves the page on the first port that is free, from this one on, and says which. Raises OSError."""
    last = first_port + PORTS_TRIED - 1
    for port in range(first_port, last):
        with suppress(OSError):
            start_http_server(port, host, REGISTRY)
            return port
    start_http_server(last, host, REGISTRY)
    return last
