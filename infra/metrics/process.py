"""What every process shows of itself, whatever its role."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from infra.metrics.tables import Row

ROWS = (
    Row("penstock_build_info", "gauge", ("version", "role"), "1; which build of what this process is."),
    Row("penstock_broker_connected", "gauge", (), "Whether this process is connected to the broker: 0 or 1."),
    Row(
        "penstock_permission_violations_total",
        "counter",
        ("direction",),
        "Subjects that the broker forbade this process, by what it wanted there: publish or subscribe.",
    ),
    Row(
        "penstock_spans_dropped_total",
        "counter",
        ("sink",),
        "Spans of traces that were dropped, by where they were to go: store or collector. Too many waited, or it "
        "did not take them.",
    ),
    Row("process_cpu_seconds_total", "counter", (), "CPU time of this process."),
    Row("process_resident_memory_bytes", "gauge", (), "Memory of this process, resident."),
    Row("process_virtual_memory_bytes", "gauge", (), "Memory of this process, virtual."),
    Row("process_start_time_seconds", "gauge", (), "When this process started, Unix time."),
    Row("process_open_fds", "gauge", (), "File descriptors that this process has open."),
    Row("process_max_fds", "gauge", (), "How many it may have open."),
)
"""Names that all roles share: the first four here, the others of prometheus_client, on Linux."""

PERMISSION_VIOLATIONS, SPANS_DROPPED = (
    Counter(row.name, row.meaning, row.labels, registry=None) for row in ROWS[2:4]
)
for _direction in ("publish", "subscribe"):
    # At 0 from the start: what begins at 1 has not grown for Prometheus.
    PERMISSION_VIOLATIONS.labels(_direction)


def register(registry: CollectorRegistry, role: str, connected: Callable[[], bool]) -> None:
    """Shows them in `registry`."""
    build, broker = (Gauge(row.name, row.meaning, row.labels, registry=registry) for row in ROWS[:2])
    build.labels(release(), role).set(1)
    broker.set_function(lambda: float(connected()))
    registry.register(PERMISSION_VIOLATIONS)
    registry.register(SPANS_DROPPED)
    ProcessCollector(registry=registry)


def release() -> str:
    """This build's version; 0.0.0 where it runs without having been installed."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "0.0.0"
