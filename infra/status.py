"""`penstock status`: the state file of `up`, checked against living processes and an edge's report."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from infra.store import ProcessState, is_running, read_state
from schemas.health import Health, ModelHealth

HEALTH_TIMEOUT_S = 2.0


class StatusError(Exception):
    """There is nothing to report on; the message says why."""


class Status(msgspec.Struct, frozen=True):
    """What `status --json` prints: `queue_depth` requests wait, `active_requests` run. Without an answer from an edge
    `health` is "down" and the rest unknown."""

    url: str
    health: str
    processes: list[ProcessState]
    models: list[ModelHealth]
    queue_depth: int | None
    active_requests: int | None


def collect_status(store_dir: Path) -> Status:
    """Raises `StatusError` when nothing runs in the store."""
    state = read_state(store_dir)
    if state is None:
        raise StatusError(
            f"nothing runs in {store_dir}: start it with `penstock up`, or name another --store"
        )
    processes = [process for process in state.processes if is_running(process.pid)]
    if not processes:
        raise StatusError(f"nothing runs in {store_dir} any more: its `penstock up` was killed")
    health = _ask_edge(state.url)
    if health is None:
        return Status(state.url, "down", processes, [], None, None)
    return Status(
        state.url, health.status, processes, health.models, health.queue_depth, health.active_requests
    )


def print_status(status: Status, *, as_json: bool) -> None:
    """To stdout: one JSON document, or tables for people."""
    if as_json:
        print(msgspec.json.encode(status).decode())
        return
    console = Console()
    requests = "requests unknown"
    if status.queue_depth is not None:
        requests = f"{status.queue_depth} requests wait, {status.active_requests} run"
    console.print(f"{status.url}  {status.health}, {requests}", highlight=False)
    processes = Table("role", "id", "pid", "ready", "metrics", box=None, header_style="bold")
    for process in status.processes:
        ready = "yes" if process.ready else "not yet"
        processes.add_row(process.role, process.id, str(process.pid), ready, process.metrics_url)
    console.print(processes)
    models = Table("model", "workers", "slots", "free", box=None, header_style="bold")
    for model in status.models:
        models.add_row(model.id, str(model.workers), str(model.slots), str(model.free))
    if status.models:
        console.print(models)


def _ask_edge(url: str) -> Health | None:
    """An edge that is not ready answers too, with 503 and the same body."""
    try:
        response = httpx.get(f"{url}/health", timeout=HEALTH_TIMEOUT_S, trust_env=False)
        return msgspec.json.decode(response.content, type=Health)
    except (httpx.HTTPError, ValueError):
        return None
