"""Single processes next to `penstock up`, each started with settings of its own, and pauses for any of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.system import SIMULATED
from infra.supervisor import Role
from infra.tether import tethered
from infra.up import role_command

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class RoleProcess:
    """One role's process, a worker with the simulator where no engine is named. It is ready when the constructor
    returns, unless `wait` is False."""

    def __init__(
        self, role: Role, process_id: str, log_path: Path, *, wait: bool = True, **settings: object
    ) -> None:
        self.id = process_id
        self.log_path = log_path
        self._ready_fd, write_end = os.pipe()
        if role == "worker" and "engine" not in settings:
            settings |= SIMULATED
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        command = role_command(role, ["--id", process_id, "--ready-fd", str(write_end), *sets])
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                tethered(command),
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        os.close(write_end)
        if wait:
            self.wait_ready()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Until it serves; fails with the end of its log."""
        readable, _, _ = select.select([self._ready_fd], [], [], START_TIMEOUT_S)
        told = os.read(self._ready_fd, 16) if readable else b""
        assert told, f"{self.id} did not get ready:\n{self.log_path.read_text(errors='replace')[-4000:]}"

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def kill(self) -> int:
        """SIGKILL; the exit code."""
        self._process.kill()
        return self._end()

    def _end(self) -> int:
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        finally:
            self._process.kill()
            # Once: whoever ends it again would close what has its number since.
            if self._ready_fd >= 0:
                os.close(self._ready_fd)
                self._ready_fd = -1


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """SIGSTOP inside the block, SIGCONT after it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
