"""Penstock as its users run it: `penstock up` in a process of its own, watched through `penstock status --json`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from infra.store import is_running

REPOSITORY = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
POLL_S = 0.02
SIMULATED = {"engine": "simulator", "model": "penstock-sim"}


class Process(NamedTuple):
    """One row of `processes` of the state `up` keeps."""

    role: str
    id: str
    pid: int
    ready: bool

    @property
    def name(self) -> str:
        """What stays the same when it is started again: `worker-1` of `worker-1-3fa9`."""
        return self.id if self.role == "broker" else self.id.rpartition("-")[0]


class System:
    """One running `penstock up`; with the simulator, where the settings name no engine.

    `beside(nats_url)` is called as soon as the broker is known, to start what must run next to `up` before everything
    can be ready: the only worker, say. `start_timeout_s` is for an engine that is slow to load.
    A list is an option given once for each of its values.
    """

    def __init__(
        self,
        store: Path,
        start_timeout_s: float = START_TIMEOUT_S,
        /,
        *,
        beside: Callable[[str], object] | None = None,
        **settings: object,
    ) -> None:
        if "engine" not in settings:
            settings |= SIMULATED
        self._start_timeout_s = start_timeout_s
        flags = [
            f"--{name.replace('_', '-')}={value}"
            for name, values in settings.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        self.store = store
        self.log_path = store / "up.log"
        store.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._up = subprocess.Popen(
                [
                    *(sys.executable, "-m", "infra.cli", "up", "--store", str(store)),
                    *("--port=0", "--broker-port=0", *flags),
                ],
                cwd=REPOSITORY,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if beside is not None:
            self.wait_until(
                lambda: self.processes("broker") and self.state()["processes"][0]["ready"], "broker"
            )
            beside(self.nats_url)
        self.wait_until(
            lambda: self.state() and all(p.ready for p in self.processes()),
            "everything is ready",
            start_timeout_s,
        )

    @property
    def pid(self) -> int:
        """The process id of `up` itself."""
        return self._up.pid

    @property
    def url(self) -> str:
        """Where the edges listen."""
        return str(self.state()["url"])

    @property
    def nats_url(self) -> str:
        """Where the broker listens."""
        return str(self.state()["nats_url"])

    def state(self) -> dict[str, Any]:
        """What `up` wrote last; empty before its first word."""
        path = self.store / "penstock.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def processes(self, role: str | None = None) -> list[Process]:
        """The children that run now, of one role or all."""
        rows = [Process(p["role"], p["id"], p["pid"], p["ready"]) for p in self.state().get("processes", [])]
        return [row for row in rows if role in (None, row.role)]

    @property
    def monitor_url(self) -> str:
        """Where the broker tells about itself."""
        return str(self.state()["monitor_url"])

    def kill(self, process: Process) -> None:
        """kill -9. Returns when the process is dead, a few milliseconds later: until then its connections are open, and
        what is sent to it is lost with it."""
        os.kill(process.pid, signal.SIGKILL)
        self.wait_until(lambda: not is_running(process.pid), f"{process.id} is dead")

    def terminate(self, process: Process) -> None:
        """SIGTERM: it drains, and `up` starts another in its place."""
        os.kill(process.pid, signal.SIGTERM)

    def wait_ready(self, role: str, count: int) -> None:
        """Until `count` processes of `role` serve."""
        self.wait_until(
            lambda: sum(p.ready for p in self.processes(role)) >= count,
            f"{count} {role} are ready",
            self._start_timeout_s,
        )

    def wait_replaced(self, gone: Process) -> None:
        """Until another process has taken the place of `gone` and serves."""

        def is_replaced() -> bool:
            others = [p for p in self.processes(gone.role) if p.pid != gone.pid]
            return any(p.name == gone.name for p in others) and all(p.ready for p in self.processes())

        self.wait_until(is_replaced, f"{gone.id} was replaced")

    def wait_until(
        self, condition: Callable[[], object], what: str, within_s: float = START_TIMEOUT_S
    ) -> None:
        """Polls; fails with the end of the log."""
        deadline = time.monotonic() + within_s
        while not condition():
            running = self._up.poll() is None
            assert running, f"`up` ended with {self._up.returncode} before {what}:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}\n{self.log_tail()}"
            time.sleep(POLL_S)

    def log_tail(self) -> str:
        """The last lines of the processes' logs."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-40:])

    def stop(self) -> int:
        """SIGTERM, as Ctrl-C does it; the exit code."""
        self._up.send_signal(signal.SIGTERM)
        try:
            return self._up.wait(60)
        finally:
            self._up.kill()
