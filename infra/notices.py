"""What a process tells whoever started it: that it serves, that its event loop still turns, that it stops.

| listener | how it listens |
|---|---|
| `penstock up` | a pipe, `--ready-fd` |
| systemd, `Type=notify` | the datagram socket that `NOTIFY_SOCKET` names |
| a container's health check | the setting `ready_file`: a file that exists and is young |
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from infra.logs import get_logger
from infra.settings import foreign_variable

ALIVE_INTERVAL_S = 2.0
"""Between two signs of life. A probe should wait for several: an engine's start-up may hold the loop for a moment."""

_log = get_logger("lifecycle")


class Notices:
    """The listeners of one process; each of them may be missing."""

    def __init__(self, *, ready_fd: int | None = None, ready_file: str = "") -> None:
        self._ready_fd = ready_fd
        self._file = Path(ready_file) if ready_file else None
        self._systemd = foreign_variable("NOTIFY_SOCKET")
        self.wanted = self._file is not None or self._systemd is not None
        """Whether anybody listens for `alive`."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)  # of a container's last life

    def ready(self, metrics_port: int = 0) -> None:
        """It serves, and shows its metrics at that port (0: nowhere). Once. Raises OSError where the file cannot be
        written."""
        # First: whoever is told by the other two ways may look for it.
        self._touch()
        if self._ready_fd is not None:
            os.write(self._ready_fd, f"ready {metrics_port or ''}".strip().encode() + b"\n")
            os.close(self._ready_fd)
        self._tell_systemd("READY=1")

    def alive(self) -> None:
        """Its event loop turns; to be called from there, every `ALIVE_INTERVAL_S`."""
        self._tell_systemd("WATCHDOG=1")
        self._touch()

    def stopping(self) -> None:
        """It drains. The file stays until `gone`: it still serves what it has."""
        self._tell_systemd("STOPPING=1")

    def gone(self) -> None:
        """It serves nothing any more."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _touch(self) -> None:
        if self._file is not None:
            self._file.touch()

    def _tell_systemd(self, state: str) -> None:
        if self._systemd is None:
            return
        # A leading @ stands for the NUL of an abstract socket's name.
        address = "\0" + self._systemd[1:] if self._systemd.startswith("@") else self._systemd
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
            # A manager that starts itself anew must not stop us, and must not make us wait.
            datagrams.setblocking(False)
            try:
                datagrams.sendto(state.encode(), address)
            except OSError as error:
                _log.warning("systemd does not listen", state=state, error=str(error))
