"""The one clock that deadlines and holds are measured on."""

from __future__ import annotations

import time

# Linux's monotonic clock stands still while a machine is suspended, the broker's goes on: what is held must look as old
# as it is.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds that only go forward, and count the time in which this machine was suspended."""
    return time.clock_gettime(_CLOCK)


def unix_s() -> float:
    """Unix seconds. Where a function is asked for it is this one: simulated worlds take the place of `time.time` by its
    name, and whoever held on to the function itself would go on reading the machine's clock."""
    return time.time()
