"""The store directory: one owner, and a state file that is never half written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.store import (
    TARGETS_FILE,
    MetricsTarget,
    ProcessState,
    StoreInUseError,
    StoreState,
    is_running,
    lock_store,
    read_state,
    remove_state,
    write_state,
    write_targets,
)

STATE = StoreState(
    url="http://127.0.0.1:8000",
    nats_url="nats://127.0.0.1:4222",
    monitor_url=None,
    model="penstock-sim",
    processes=[ProcessState("edge", "edge-1-ab12", 7, ready=False)],
)


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    lock = lock_store(tmp_path / "new")
    with pytest.raises(StoreInUseError, match=rf"process {os.getpid()}: .*--store"):
        lock_store(tmp_path / "new")
    os.close(lock)
    os.close(lock_store(tmp_path / "new"))


def test_state_is_read_as_written_and_can_be_removed(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, STATE)
    assert read_state(tmp_path) == STATE
    assert [path.name for path in tmp_path.iterdir()] == ["penstock.json"]
    remove_state(tmp_path)
    remove_state(tmp_path)
    assert read_state(tmp_path) is None


def test_is_running() -> None:
    assert is_running(os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert not is_running(child), "a zombie does not run"
    os.waitpid(child, 0)
    assert not is_running(child)


def test_targets_are_written_again_only_if_they_changed(tmp_path: Path) -> None:
    path = tmp_path / TARGETS_FILE
    targets = [MetricsTarget(["127.0.0.1:1"], {"role": "edge"})]
    write_targets(tmp_path, targets)
    first = path.stat().st_ino
    write_targets(tmp_path, targets)
    assert path.stat().st_ino == first, "Prometheus reads a file anew when it is replaced"
    write_targets(tmp_path, [])
    assert path.read_bytes() == b"[]\n"


def test_a_list_that_a_crash_left_behind_does_not_stop_the_next_start(tmp_path: Path) -> None:
    (tmp_path / TARGETS_FILE).write_bytes(b"")
    write_targets(tmp_path, [])
    assert (tmp_path / TARGETS_FILE).read_bytes() == b"[]\n"
