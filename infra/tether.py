"""Ties a program's life to its parent's: `python tether.py <parent pid> <program> [argument ...]`.

A supervisor that is killed with SIGKILL cannot stop its children; without this they would live on as orphans
and keep the port and the store. The kernel is asked to send SIGKILL to this process when its parent dies, and
the request survives the `exec` of the program. A process of its own rather than a `preexec_fn`, which is
unsafe next to threads; it costs 10 ms. Only Linux has `prctl`; elsewhere the program simply runs, and orphans
must be stopped by hand.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tethered(command: list[str]) -> list[str]:
    """The command line that runs `command` as a child that dies with the calling process."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent died before its child started")
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
