"""A nats-server that runs in the folder of a node: telling it that its files have changed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from pathlib import Path

from infra.broker import DIRECTLY, HEALTH_POLL_S, HEALTH_TIMEOUT_S, BrokerError

CONFIG_FILE = "nats.conf"
PID_FILE = "nats-server.pid"

RELOADS = 2
"""An account that is new is not connected with what it imports before the second one (seen on nats-server 2.15.1)."""

RELOAD_TIMEOUT_S = 10.0


def node_folder(directory: Path) -> Path:
    """The folder with the server's config: this one, or the single broker's in it. Raises BrokerError."""
    for folder in (directory, directory / "broker"):
        if (folder / CONFIG_FILE).exists():
            return folder
    raise BrokerError(f"no {CONFIG_FILE} in {directory}; of a cluster, name a node's folder")


def reload(folder: Path) -> None:
    """Has the server read users, permissions and certificates again; returns when it has. Raises BrokerError."""
    try:
        pid = int((folder / PID_FILE).read_text(encoding="ascii"))
        for _ in range(RELOADS):
            before = _loaded_at(folder)
            os.kill(pid, signal.SIGHUP)
            _wait_until_loaded(folder, before)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BrokerError(f"no nats-server runs in {folder}: {error}") from None


def _wait_until_loaded(folder: Path, before: str) -> None:
    deadline = time.monotonic() + RELOAD_TIMEOUT_S
    while _loaded_at(folder) == before:
        if time.monotonic() > deadline:
            raise BrokerError(f"the nats-server in {folder} did not take its config: its log says why")
        time.sleep(HEALTH_POLL_S)


def _loaded_at(folder: Path) -> str:
    with DIRECTLY.open(f"http://{_monitor(folder)}/varz", timeout=HEALTH_TIMEOUT_S) as response:
        return str(json.load(response)["config_load_time"])


def _monitor(folder: Path) -> str:
    """Where the server tells about itself, from the line that `server_config` writes."""
    for line in (folder / CONFIG_FILE).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(": ")
        if name == "http":
            return str(json.loads(value))
    raise BrokerError(f"{folder / CONFIG_FILE} names no monitoring port")
