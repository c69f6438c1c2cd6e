"""The embedded broker as a real process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.broker import Broker, BrokerError, broker_config, find_nats_server, is_healthy
from infra.settings import Settings, load_settings
from infra.store import is_running

DEADLINE_S = 10.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"store_dir": tmp_path, "broker_port": 0, "broker_monitor_port": 0})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def greeting(url: str) -> bytes:
    """What a server says first: NATS sends INFO, with its limits."""
    host, port = url.removeprefix("nats://").split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        return connection.recv(4096)


def test_starts_healthy_and_stops(settings: Settings) -> None:
    with Broker(settings) as broker:
        pid = broker.pid
        info = greeting(broker.url)
        assert info.startswith(b"INFO ")
        assert b'"max_payload":8388608' in info
        assert b'"jetstream":true' in info
    assert not is_running(pid)
    assert not is_healthy(broker.monitor_url)


def test_restarts_on_the_same_ports(settings: Settings) -> None:
    with Broker(settings) as broker:
        url, pid = broker.url, broker.pid
        broker.kill()
        broker.start()
        assert broker.url == url
        assert broker.pid != pid
        assert greeting(url).startswith(b"INFO ")


def test_stop_twice_is_harmless(settings: Settings) -> None:
    broker = Broker(settings)
    broker.stop()
    broker.start()
    broker.stop()
    broker.stop()


def test_a_port_in_use_is_refused_before_the_start(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} .* in use.*--broker-port.*--connect"):
            Broker(settings.model_copy(update={"broker_port": port}))
        with pytest.raises(BrokerError, match="--broker-monitor-port"):
            Broker(settings.model_copy(update={"broker_monitor_port": port}))


def test_the_cluster_profile_is_not_embedded(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="--connect"):
        Broker(settings.model_copy(update={"broker_profile": "cluster"}))


def test_a_broker_that_cannot_start_says_why(settings: Settings) -> None:
    (settings.store_dir / "broker").mkdir()
    (settings.store_dir / "broker" / "jetstream").write_text("not a directory")
    with pytest.raises(BrokerError, match=r"did not become healthy: .*storage directory"):
        Broker(settings).start()


@pytest.mark.parametrize("profile", ["embedded", "durable"])
def test_the_config_is_what_nats_server_understands(settings: Settings, profile: str, tmp_path: Path) -> None:
    config = tmp_path / "nats-server.conf"
    profiled = settings.model_copy(update={"broker_profile": profile})
    config.write_text(broker_config(profiled, 4222, 8222, tmp_path))
    assert ('"sync_interval": "always"' in config.read_text()) == (profile == "durable")
    checked = subprocess.run(
        [find_nats_server(), "-t", "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
def test_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from infra.broker import Broker\n"
        "from infra.settings import load_settings\n"
        "broker = Broker(load_settings({'store_dir': sys.argv[1], 'broker_port': 0}))\n"
        "broker.start()\n"
        "print(broker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid))
