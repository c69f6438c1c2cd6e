"""The store directory of one `penstock up`: who owns it, and what runs in it.

`penstock.json` is what `penstock status` reads and what a chaos tool aims with:
`{"url", "nats_url", "monitor_url", "model", "processes": [{"role", "id", "pid", "ready", "metrics_url"}]}`.
`metrics_targets.json` is for Prometheus, which reads it as one of its `file_sd_configs`. Both exist while `up` runs.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

STATE_FILE = "penstock.json"
TARGETS_FILE = "metrics_targets.json"
LOCK_FILE = "penstock.lock"


class StoreInUseError(Exception):
    """Another process owns the store directory."""


class ProcessState(msgspec.Struct, frozen=True):
    """One supervised process. `role` is broker, scheduler, worker or edge; `id` is new with every start. `metrics_url`:
    where it shows its metrics; empty: nowhere, or not yet."""

    role: str
    id: str
    pid: int
    ready: bool
    metrics_url: str = ""


class MetricsTarget(msgspec.Struct, frozen=True):
    """Processes to be scraped, as Prometheus wants to be told: https://prometheus.io/docs/prometheus/latest/http_sd."""

    targets: list[str]
    labels: dict[str, str]


class StoreState(msgspec.Struct, frozen=True):
    """What runs. `monitor_url` is None when the broker is not ours."""

    url: str
    nats_url: str
    monitor_url: str | None
    model: str
    processes: list[ProcessState]


def lock_store(directory: Path) -> int:
    """Takes the directory for this process until it ends, however it ends. Returns the lock's descriptor."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreInUseError(
            f"{directory} is in use by process {owner or '?'}: stop it, or choose another with --store"
        ) from None
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def write_state(directory: Path, state: StoreState) -> None:
    """Replaces the state file at once: a reader sees the old one or the new one."""
    _replace(directory / STATE_FILE, state)


def write_targets(directory: Path, targets: list[MetricsTarget]) -> None:
    """Replaces the list for Prometheus, likewise, if it has changed."""
    path = directory / TARGETS_FILE
    if not path.exists() or path.read_bytes() != _encode(targets):
        _replace(path, targets)


def remove_state(directory: Path) -> None:
    """Nothing runs here any more."""
    for name in (STATE_FILE, TARGETS_FILE):
        (directory / name).unlink(missing_ok=True)


def read_state(directory: Path) -> StoreState | None:
    """What the last `up` wrote, or None. After a kill -9 of `up` it is stale: check the pids."""
    try:
        return msgspec.json.decode((directory / STATE_FILE).read_bytes(), type=StoreState)
    except FileNotFoundError:
        return None


def _replace(path: Path, content: object) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(_encode(content))
    fresh.replace(path)


def _encode(content: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def is_running(pid: int) -> bool:
    """Whether a process with this id exists and is not a zombie that nobody has collected yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True  # no such file system here: nothing more to know
    return stat.rpartition(")")[2].split()[0] != "Z"
