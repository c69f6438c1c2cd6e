"""What a process tells systemd and a container's health check: by a real socket and a real file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.broker import Broker
from infra.notices import Notices

ROOT = Path(__file__).parents[3]
WAIT_S = 20.0


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(WAIT_S)
        yield listener


def test_a_ready_file_appears_is_touched_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "ready"
    path.touch()
    notices = Notices(ready_file=str(path))
    assert not path.exists(), "a file of the last life says nothing of this one"
    notices.ready()
    os.utime(path, (0, 0))
    notices.alive()
    assert path.stat().st_mtime > time.time() - WAIT_S
    notices.stopping()
    assert path.exists(), "a draining process still serves"
    notices.gone()
    assert not path.exists()


def test_systemd_hears_of_each_step(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    notices = Notices()
    notices.ready()
    notices.alive()
    notices.stopping()
    assert [systemd.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_name_with_an_at_sign_is_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0penstock-test-{os.getpid()}")
        listener.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@penstock-test-{os.getpid()}")
        Notices().ready()
        assert listener.recv(64) == b"READY=1"


def test_a_manager_that_is_away_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Notices().alive()


def test_a_role_tells_of_its_life_and_drains_on_sigterm(
    broker: Broker, systemd: socket.socket, tmp_path: Path
) -> None:
    ready_file = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "--set", f"nats_url={broker.url}"],
        cwd=ROOT,
        env={
            **os.environ,
            "NOTIFY_SOCKET": systemd.getsockname(),
            "PENSTOCK_READY_FILE": str(ready_file),
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        assert systemd.recv(64) == b"READY=1"
        assert ready_file.exists()
        assert systemd.recv(64) == b"WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        while (told := systemd.recv(64)) == b"WATCHDOG=1":
            pass  # signs of life go on until it hears the signal
        assert told == b"STOPPING=1"
        assert process.wait(WAIT_S) == 0
        assert not ready_file.exists()
    finally:
        process.kill()
        process.wait()
