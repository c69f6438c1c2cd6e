"""Systems that the rows share: each is started once, by the first test that needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.system import REPOSITORY, SIMULATED, System
from infra.ports import claim, free_port

StartShared = Callable[..., System]

QUEUE_TIMEOUT_S = 4
REQUEST_TIMEOUT_S = 7
"""Of the tight system. What occupies its slots outlasts who waits for them, also one that comes late."""

TRIES = 3
"""For what a busy machine only adds to: the shortest of them counts."""

EXTERNAL = {"engine": "simulator", "model": "penstock-sim", "itl_ms": "5", "slots": "2"}


@pytest.fixture(scope="session")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartShared]:
    """Starts a system that lives as long as the session."""
    started: list[System] = []

    def start(**settings: Any) -> System:
        started.append(System(tmp_path_factory.mktemp("store"), **settings))
        return started[-1]

    yield start
    with ThreadPoolExecutor(max(1, len(started))) as pool:
        codes = list(pool.map(System.stop, started))
    assert codes == [0] * len(codes), "an ordered drain ends with 0"


@pytest.fixture(scope="session")
def worker_metrics_port() -> int:
    """Where the first worker of the roomy system shows its metrics; the second one does at the next port."""
    port = free_port()
    while not claim(port + 1):
        port = free_port()
    return port


@pytest.fixture(scope="session")
def roomy(start_shared: StartShared, worker_metrics_port: int) -> System:
    """Two workers and room for everything."""
    return start_shared(workers=2, itl_ms=5, ttft_ms=20, worker_metrics_port=worker_metrics_port)


@pytest.fixture(scope="session")
def tight(start_shared: StartShared) -> System:
    """Two slots and short times, told in the words of the reference systems."""
    told = {
        "MAX_ACTIVE": "1",
        "QUEUE_TIMEOUT_S": str(QUEUE_TIMEOUT_S),
        "REQUEST_TIMEOUT_SECONDS": str(REQUEST_TIMEOUT_S),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        return start_shared(
            workers=2,
            itl_ms=5,
            ttft_ms=5,
            request_timeout_max_s=REQUEST_TIMEOUT_S,
            result_ttl_s=1,
            head_wait_s=60,
        )


@pytest.fixture(scope="session")
def pair(start_shared: StartShared) -> System:
    """Two edges before a queue of six."""
    return start_shared(edges=2, slots=2, queue_max=6, itl_ms=5, ttft_ms=5)


@pytest.fixture(scope="session")
def guarded(start_shared: StartShared) -> System:
    """Two edges that want keys, and count what each key asks."""
    return start_shared(
        edges=2,
        itl_ms=1,
        ttft_ms=1,
        api_keys="key-one-0123456789 key-two-0123456789",
        rate_requests_max=12,
        rate_window_s=60,
    )


@pytest.fixture(scope="session")
def rejecting(start_shared: StartShared) -> System:
    """One slot and no queue."""
    return start_shared(slots=1, queue_mode="reject", itl_ms=5, ttft_ms=5)


class Lone:
    """A system whose only worker is the test's."""

    def __init__(self, start_shared: StartShared) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.system = start_shared(workers=0, cold_start="reject", beside=self.start_worker)

    def start_worker(self, nats_url: str = "") -> None:
        """Starts the worker."""
        assert self._process is None
        settings = EXTERNAL | SIMULATED | {"nats_url": nats_url or self.system.nats_url}
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers", *words],
            cwd=REPOSITORY,
            env=os.environ,
            stderr=subprocess.DEVNULL,
        )

    def end_worker(self, *, kill: bool) -> None:
        """Ends it, in order or by kill -9."""
        process, self._process = self._process, None
        assert process is not None
        (process.kill if kill else process.terminate)()
        process.wait(30)


@pytest.fixture(scope="session")
def lone(start_shared: StartShared) -> Iterator[Lone]:
    running = Lone(start_shared)
    yield running
    running.end_worker(kill=False)


@pytest.fixture
def clean_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No file of settings; the environment is the test's."""
    monkeypatch.chdir(tmp_path)
    return monkeypatch
