"""A Docker daemon to test with: the one that runs, else one of our own for as long as the tests take."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_S = 40.0


class NoDocker(Exception):
    """No container can run here; the message says why."""


class Docker:
    """The `docker` command against one daemon."""

    def __init__(self, host: str | None) -> None:
        self._command = ["docker", *(["--host", host] if host else [])]

    def __call__(self, *words: str, timeout_s: float = 300) -> str:
        """What it prints. Fails with all that it said."""
        ran = self.run(*words, timeout_s=timeout_s)
        assert ran.returncode == 0, f"docker {' '.join(words)}: {ran.stdout}{ran.stderr}"
        return ran.stdout.strip()

    def run(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """The same, whatever comes of it."""
        return subprocess.run(
            [*self._command, *words], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    @property
    def answers(self) -> bool:
        """Whether the daemon does."""
        return self.run("version", "--format", "{{.Server.Version}}").returncode == 0


@contextmanager
def a_docker(directory: Path) -> Iterator[Docker]:
    """Raises NoDocker."""
    if shutil.which("docker") is None:
        raise NoDocker("there is no docker command")
    running = Docker(None)
    if running.answers:
        yield running
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise NoDocker("no daemon answers, and only root can start dockerd")
    with _own(directory) as own:
        yield own


@contextmanager
def _own(directory: Path) -> Iterator[Docker]:
    host = f"unix://{directory}/docker.sock"
    # Without the bridge of the default network: all daemons of a machine would share that one.
    words = ["--data-root", directory / "data", "--exec-root", directory / "exec", "--bridge", "none"]
    log = directory / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["dockerd", "--host", host, *map(str, words), "--pidfile", str(directory / "dockerd.pid")],
            stdout=output,
            stderr=output,
            # Not by Ctrl-C, before the containers are removed.
            start_new_session=True,
        )
    try:
        docker = Docker(host)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not docker.answers:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").splitlines()[-1:]
                raise NoDocker(f"dockerd does not start: {said}")
            time.sleep(0.2)
        yield docker
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)
