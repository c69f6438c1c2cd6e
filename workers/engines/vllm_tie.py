"""Ties the processes that vLLM starts to the worker: one that outlived it would keep the GPU's memory for good.

vLLM's engine runs in a child process, its tensor-parallel workers in children of that. None of them notices a parent
killed with SIGKILL, so each asks the kernel to die with it, as the children of `infra.tether` do. The request holds for
the thread that started the child: it must live as long as the engine.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

from infra.tether import PR_SET_PDEATHSIG


def tie_to_parent() -> None:
    """To be called in every process of the engine; does nothing in the worker itself, whose life is not ours to end."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
