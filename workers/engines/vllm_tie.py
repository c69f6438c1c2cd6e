"""Ties the processes that vLLM starts to the worker: one that outlived it would keep the GPU's memory for good.

vLLM's engine runs in a child process, the workers of its model in children of that, and none of them notices that the
first process of all was killed with SIGKILL. So each asks the kernel to die with its parent, as the children of
`infra.tether` do. vLLM hands its configuration from process to process by pickle, and a `Tie` in it does its work when
it is unpickled. It holds for the thread that started the child: that must live as long as the engine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from infra.tether import PR_SET_PDEATHSIG


class Tie:
    """Pickled in a parent, it ties the process in which it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[int], Tie], tuple[int]]:
        return _tied, (os.getpid(),)


def _tied(parent: int) -> Tie:
    if sys.platform == "linux" and os.getpid() != parent:  # a copy within a process is no child
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)
    return Tie()
